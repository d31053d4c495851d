"""Work that may hang, crash or exhaust memory, done in child processes that are killed when it does."""

import ctypes
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from typing import Any, Self

from slr.core.errors import UserError
from slr.core.signals import next_of

# Not multiprocessing: it would import the parent's entry point, and with it torch, into every child.
CHILD = "import json, sys; order = json.loads(sys.argv[1]); sys.path[:] = order.pop('path')\n"
CHILD += "from slr.prepare.decode.sandbox import serve; serve(**order)"
START = 60  # seconds that a child has to import what it needs
PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent ends


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may take before its child is ended."""

    wall: float = 180.0  # seconds
    cpu: int = 60  # seconds, where the system can limit it
    memory: int = 2 * 1024**3  # bytes of address space, where the system can limit it


class Unfit(Exception):
    """A file that cannot become a clip: a reason code to count by and a detail to read."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Guard:
    """Calls of one function, in parallel in child processes that can be killed and are replaced when they fail.

    The function is named to the children, which import it; its arguments and its value travel as JSON.

    >>> import math
    >>> with Guard(math.factorial, workers=2) as guard:
    ...     sorted(guard.run([(3,), (4,)]))
    [(0, 6), (1, 24)]
    """

    def __init__(self, function: Callable[..., Any], workers: int, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._order: dict[str, Any] = {"path": sys.path, "function": f"{function.__module__}:{function.__qualname__}"}
        self._order |= {"cpu": self._limits.cpu, "memory": self._limits.memory}
        self._threads = ThreadPoolExecutor(workers)
        self._own = threading.local()  # a thread's child, which its first call starts
        self._alive: set[_Child] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, calls: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Yield (position of the call, its value or Unfit) as calls are done.

        The function may raise Unfit. Limits and crashes give Unfit with `timeout`, `memory` or `crashed`.

        Raises:
            UserError: The function met an operating system error, such as a full disk, or a library that does not load.
            RuntimeError: The function raised anything else.
        """
        finished: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        pending = {self._threads.submit(self._call, arguments): number for number, arguments in enumerate(calls)}
        for future in list(pending):
            future.add_done_callback(finished.put)
        while pending:
            done = next_of(finished)
            yield pending.pop(done), done.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            for child in self._alive:
                child.end()
        self._threads.shutdown(cancel_futures=True)
        for child in self._alive:
            child.close()

    def _call(self, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401, it is what the guarded function returns
        child = getattr(self._own, "child", None)
        if child is None or child.ended:
            with self._lock:
                if self._closed:
                    raise RuntimeError("expected an open guard, found it closed")
                child = self._own.child = _Child(self._order)
                self._alive.add(child)
        reply = child.ask(arguments, self._limits.wall)
        if child.ended:
            child.close()
            with self._lock:
                self._alive.discard(child)
        if "refused" in reply:
            about = f"cannot work on {arguments[0]}: {reply['refused']}"
            raise UserError(f"{about}; fix that and run the same command again")
        if "raised" in reply:
            raise RuntimeError(f"{self._order['function']}{arguments} raised in its child process:\n{reply['raised']}")
        return reply["value"] if "value" in reply else Unfit(**reply)


class _Child:
    """One process that answers calls, one at a time, until it has `ended`."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.ended = False
        self._ready = False
        self._order = order
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # nothing is left to flush into the pipe of a process that is gone
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},  # threads reserve address space
            start_new_session=True,  # Ctrl-C reaches the parent, which ends its children itself
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._calls, self._replies = self._process.stdin, self._process.stdout

    def ask(self, arguments: tuple[Any, ...], seconds: float) -> dict[str, Any]:
        """Send one call and wait for its reply, at most this long."""
        if not self._ready:
            self._ready = self._read_line(START) == b"ready\n"
            if not self._ready:
                raise RuntimeError("expected a child process that starts, found one that does not; its error is above")
        with suppress(BrokenPipeError):  # it is gone, and the missing reply says so
            self._calls.write(json.dumps(arguments).encode() + b"\n")
        line = self._read_line(seconds)
        if not line.endswith(b"\n"):
            return self._why_it_ended(seconds)
        reply = json.loads(line)
        self.ended |= reply.get("reason") == "memory"  # what is left of its memory may be in pieces
        return reply

    def end(self) -> None:
        """Kill the process and its children; a thread that waits for its reply gets none."""
        self.ended = True
        if os.name == "posix" and self._process.returncode is None:  # else its number may be another's by now
            with suppress(ProcessLookupError, PermissionError):  # macOS refuses where all of them have ended
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def close(self) -> None:
        """Kill the process and close its pipes."""
        with self._process:  # waits for it and closes its pipes
            self.end()

    def _read_line(self, seconds: float) -> bytes:
        # A read cannot time out on every system, but the other end of the pipe can always be ended.
        clock = threading.Timer(seconds, self.end)
        clock.start()
        try:
            return self._replies.readline()
        finally:
            clock.cancel()

    def _why_it_ended(self, seconds: float) -> dict[str, Any]:
        expired = self.ended
        self.end()  # what it started, and itself if it has done no more than close its pipe
        code = self._process.wait()
        if expired:
            return {"reason": "timeout", "detail": f"it took more than {seconds:g} seconds"}
        if code == -getattr(signal, "SIGXCPU", 0):
            return {"reason": "timeout", "detail": f"it took more than {self._order['cpu']} seconds of CPU time"}
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
        return {"reason": "crashed", "detail": f"its process ended with {name}"}


def serve(function: str, cpu: int, memory: int) -> None:
    """Be a guard's child: answer calls from standard input until it closes."""
    if sys.platform == "linux":  # the system kills this process with its parent; elsewhere the call at hand ends first
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    module, _, name = function.partition(":")
    call = attrgetter(name)(import_module(module))
    replies = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # decoders print; a file must not be able to forge a reply or to flood a terminal
        os.dup2(nowhere, stream)
    _limit("RLIMIT_AS", memory)
    _limit("RLIMIT_CORE", 0)
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        _limit("RLIMIT_CPU", math.ceil(time.process_time()) + cpu)
        print(_answer(call, json.loads(line)), file=replies, flush=True)


def _limit(name: str, soft: int) -> None:
    # Windows has no limits; a system may lack one, or know it and yet not have it (macOS, address space).
    with suppress(ImportError, AttributeError, ValueError, OSError):
        import resource

        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _answer(call: Callable[..., Any], arguments: list[Any]) -> str:
    try:
        return json.dumps({"value": call(*arguments)})
    except Unfit as unfit:
        return json.dumps({"reason": unfit.reason, "detail": unfit.detail})
    except MemoryError:
        return json.dumps({"reason": "memory", "detail": "it needs more memory than one call may take"})
    except (OSError, ImportError) as error:
        return json.dumps({"refused": str(error)})
    except Exception:
        return json.dumps({"raised": traceback.format_exc()})
