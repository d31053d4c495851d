"""One process at a time in a folder, told by locks of the operating system, which end with their processes."""

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

HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # what systems say of a lock that another process holds
OCCUPIED = ".occupied"  # the file whose lock tells that a run is alive
GLANCE = 0.5  # seconds in which somebody who only looks has let go of the lock
_own: set[Path] = set()  # folders that this process occupies


@contextmanager
def exclusive(folder: Path, silent: bool = False) -> Iterator[None]:
    """Hold a folder until the block ends, waiting for another process that holds it, with one line that says so.

    The operating system lets go when a process ends, however it ends, so nothing is ever left locked. `silent` is for
    what takes no time.

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


def _locked(descriptor: int, wait: bool) -> bool:
    try:
        if os.name == "nt":
            # A waiting attempt gives up after ten seconds.
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        _refuse_all_but_held(error)
        return False
    return True


def _refuse_all_but_held(error: OSError) -> None:
    """A file system without locks would be taken for a lock that is held for ever."""
    if error.errno not in HELD:
        raise UserError(f"expected a file system with locks, found {error}; choose a folder on another disk") from error


class Busy(UserError):
    """Another process works in a folder."""


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Be the one process of a run's folder until the block ends. The folder is made.

    The lock is this process's alone: workers that it forks do not keep it when it is killed.

    Raises:
        Busy: another process is in there, alive.
        UserError: the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / OCCUPIED).open("ab") as file:
        patience = time.monotonic() + GLANCE
        while not _owned(file.fileno()):
            if time.monotonic() > patience:
                raise Busy(f"{folder}: expected no other process there, found one that trains; wait for it, or end it")
            time.sleep(GLANCE / 20)
        _own.add(folder.resolve())
        try:
            yield
        finally:
            _own.discard(folder.resolve())


def is_occupied(folder: Path) -> bool:
    """Whether another process is alive in a run's folder; raises UserError where the file system has no locks."""
    if folder.resolve() in _own or not (folder / OCCUPIED).is_file():  # closing the file would let go of one's own lock
        return False
    with (folder / OCCUPIED).open("ab") as file:
        return not _owned(file.fileno())


def _owned(descriptor: int) -> bool:
    """Take a lock that belongs to the process; one by `flock` belongs to the open file, and so to forked children."""
    if os.name == "nt":
        return _locked(descriptor, wait=False)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        _refuse_all_but_held(error)
        return False
    return True
