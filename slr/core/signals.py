"""Ctrl-C and SIGTERM: at once where nothing is lost by it, at the next step where a training can save itself first."""

import atexit
import functools
import multiprocessing
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}  # exit codes by which a shell and schedulers know them
GLANCE = 0.5  # seconds after which whoever waits looks whether a signal has come
ECHO = 2.0  # seconds in which a signal is the first one again: `uv run`, for one, passes on what all processes got

Item = TypeVar("Item")


def next_of(items: "queue.SimpleQueue[Item]") -> Item:
    """Wait for a queue's next item, and hear Ctrl-C and SIGTERM while waiting.

    The system may hand a signal to any thread, such as one that is just being started. Python then notes it, but the
    main thread, which alone handles it, waits on: it has to look from time to time.
    """
    while True:
        with suppress(queue.Empty):
            return items.get(timeout=GLANCE)


class Stopping:
    """Whether somebody asked this process to end.

    Attributes:
        code: the exit code to end with, or None while nobody asked.
        deferred: whether what runs looks at `code` itself and ends when it has saved; a second request is never
            deferred.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self.deferred = False
        self._heard = 0.0

    def listen(self) -> None:
        """Handle the signals from now on; again, where a library has put itself in between."""
        if threading.current_thread() is threading.main_thread():
            for number in CODES:
                signal.signal(number, self._hear)

    def _hear(self, number: int, frame: object) -> None:
        asked_before = self.code is not None
        if asked_before and self.deferred and time.monotonic() - self._heard < ECHO:
            return
        self.code, self._heard = CODES[signal.Signals(number)], time.monotonic()
        if asked_before or not self.deferred:
            raise SystemExit(self.code)
        with suppress(RuntimeError):  # where it came in the middle of writing to the same stream
            print("\nstopping as soon as this step is saved; once more stops at once", file=sys.stderr, flush=True)

    def told(self, code: int) -> None:
        """Know from another process of the run that the end was asked for; one's own signal may be on its way."""
        if self.code is None:
            self.code, self._heard = code, time.monotonic()

    def heed(self) -> None:
        """Defer no longer, and end now where that was asked meanwhile.

        Raises:
            SystemExit: it was.
        """
        self.deferred = False
        if self.code is not None:
            raise SystemExit(self.code)


def leave_to_parent(worker: int) -> None:
    """Have a loader's worker survive what its group of processes is asked; one that dies takes its parent along.

    The parent must have called `end_workers_at_exit`.
    """
    for number in CODES:
        signal.signal(number, signal.SIG_IGN)


@functools.cache
def end_workers_at_exit() -> None:
    """Have this process kill what workers are left when it exits: Python would send SIGTERM and wait for them."""
    atexit.register(_end_workers)  # after multiprocessing's own, so it is called before


def _end_workers() -> None:
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises an error where a worker is killed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


@contextmanager
def listening() -> Iterator[Stopping]:
    """Within it, signals are heard; behind it, handled as they were before."""
    before = {number: signal.getsignal(number) for number in CODES}
    stopping = Stopping()
    stopping.listen()
    try:
        yield stopping
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
