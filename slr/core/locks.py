"""One process at a time in a folder, by locks of the operating system, which it releases when a process ends."""

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slr.core.errors import UserError

if os.name == "nt":
    import msvcrt
else:
    import fcntl

HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # errors of a lock that another process holds
OCCUPIED = ".occupied"  # the file whose lock means that a run is alive
GLANCE = 0.5  # seconds within which `is_occupied` of another process has released the lock
_own: set[Path] = set()  # folders that this process occupies


class Busy(UserError):
    """Another process runs in a folder."""


@contextmanager
def exclusive(folder: Path, silent: bool = False) -> Iterator[None]:
    """Lock a folder for the block; wait, and print so unless `silent`, while another process has it.

    Raises:
        UserError: the file system has no locks.
    """
    with (folder / ".lock").open("ab") as file:
        if not _locked(file.fileno(), wait=False):
            if not silent:
                print(f"Waiting for another process that writes to {folder}", file=sys.stderr, flush=True)
            while not _locked(file.fileno(), wait=True):
                pass
        yield


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Lock a run's folder for the block, as a sign that the run is alive; makes the folder.

    Forked workers do not share the lock, so it ends with this process even where they survive it.

    Raises:
        Busy: another process has the lock.
        UserError: the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / OCCUPIED).open("ab") as file:
        deadline = time.monotonic() + GLANCE
        while not _locked(file.fileno(), wait=False, shared_with_forks=False):
            if time.monotonic() > deadline:
                raise Busy(f"{folder}: expected no other process there, found one that trains; wait for it, or end it")
            time.sleep(GLANCE / 20)
        _own.add(folder.resolve())
        try:
            yield
        finally:
            _own.discard(folder.resolve())


def is_occupied(folder: Path) -> bool:
    """Whether another process runs in a run's folder; raises UserError if the file system has no locks."""
    if folder.resolve() in _own or not (folder / OCCUPIED).is_file():  # closing the file would release one's own lock
        return False
    with (folder / OCCUPIED).open("ab") as file:
        return not _locked(file.fileno(), wait=False, shared_with_forks=False)


def _locked(descriptor: int, wait: bool, shared_with_forks: bool = True) -> bool:
    """Take a lock: `flock`'s belongs to the open file, and so to forked children too, `lockf`'s to the process."""
    try:
        if os.name == "nt":  # a waiting attempt gives up after ten seconds
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            lock = fcntl.flock if shared_with_forks else fcntl.lockf
            lock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in HELD:
            raise UserError(
                f"expected a file system with locks, found {error}; choose a folder on another disk"
            ) from error
        return False
    return True
