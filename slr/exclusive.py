"""One process at a time in a folder."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if os.name == "nt":
    import msvcrt
else:
    import fcntl


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder until the block ends, waiting for another process that holds it, with one line that says so.

    The operating system lets go when a process ends, however it ends, so nothing is ever left locked.
    """
    with (folder / ".lock").open("ab") as file:
        if not _locked(file.fileno(), wait=False):
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
    except OSError:
        return False
    return True
