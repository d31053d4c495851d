"""Ctrl-C and SIGTERM: end at once, or during a training at the next step, when its checkpoint is saved."""

import atexit
import functools
import multiprocessing
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}  # exit codes by which a shell and schedulers know them
GLANCE = 0.5  # seconds after which a wait is interrupted to handle signals
ECHO = 2.0  # seconds in which a repeated signal is the same request: `uv run`, for one, passes on what all got

Item = TypeVar("Item")


def next_of(items: "queue.SimpleQueue[Item]") -> Item:
    """Wait for a queue's next item, and handle Ctrl-C and SIGTERM while waiting.

    The system may hand a signal to any thread. Python handles it in the main thread only, which must wake up for it.
    """
    while True:
        with suppress(queue.Empty):
            return items.get(timeout=GLANCE)


@contextmanager
def handled(handler: Callable[[int, object], object], numbers: Iterable[int] = tuple(CODES)) -> Iterator[None]:
    """Have signals call `handler` within the block; does nothing outside the main thread.

    >>> with handled(lambda number, frame: print(signal.Signals(number).name)):
    ...     signal.raise_signal(signal.SIGINT)
    SIGINT
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class Stopping:
    """Whether this process was asked to end.

    Attributes:
        code: the exit code to end with; None if it was not asked.
        deferred: whether the running code checks `code` and ends when it has saved; a second request ends it at once.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self.deferred = False
        self._heard = 0.0

    def listen(self) -> None:
        """Handle the signals again, where a library has replaced the handlers that `listening` installed."""
        if threading.current_thread() is threading.main_thread():
            for number in CODES:
                signal.signal(number, self.hear)

    def hear(self, number: int, frame: object) -> None:
        """Handle a signal.

        Raises:
            SystemExit: unless deferred.
        """
        asked_before = self.code is not None
        if asked_before and self.deferred and time.monotonic() - self._heard < ECHO:
            return
        self.code, self._heard = CODES[signal.Signals(number)], time.monotonic()
        if asked_before or not self.deferred:
            raise SystemExit(self.code)
        with suppress(RuntimeError):  # where it came in the middle of writing to the same stream
            text = "\nstopping when this step is saved; press Ctrl-C again to stop immediately"
            print(text, file=sys.stderr, flush=True)

    def told(self, code: int) -> None:
        """Note that another process of the run was asked to end; this one may still get the same signal."""
        if self.code is None:
            self.code, self._heard = code, time.monotonic()

    def raise_if_asked(self) -> None:
        """Defer no longer.

        Raises:
            SystemExit: the end was asked for meanwhile.
        """
        self.deferred = False
        if self.code is not None:
            raise SystemExit(self.code)


@contextmanager
def listening() -> Iterator[Stopping]:
    """Handle signals within the block by the `Stopping` that it yields."""
    stopping = Stopping()
    with handled(stopping.hear):
        yield stopping


def ignore_signals(worker: int) -> None:
    """Have a loader's worker ignore signals to its process group; the parent must have called `end_workers_at_exit`."""
    for number in CODES:
        signal.signal(number, signal.SIG_IGN)


@functools.cache
def end_workers_at_exit() -> None:
    """Have this process kill its workers when it exits: Python would send SIGTERM, which they ignore, and wait."""
    atexit.register(_end_workers)  # after multiprocessing's own, so it is called before


def _end_workers() -> None:
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises an error where a worker is killed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
