"""A sweep's job where a scheduler has put it: on a machine that may be taken away before the job is done."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slr.core import distributed
from slr.core.run_folder import RunFolder
from slr.core.signals import CODES, Stopping
from slr.sweeps.runner import ENDED, GRACE, POLL, Sweep, SweepJob, start


def attend(program: str, folder: str) -> None:
    """Have a job of a sweep done, in a process of its own; Slurm's and Ray's processes call this by its name.

    Asked to end, the job saves itself first; then the scheduler's own handling has its turn, by which submitit puts the
    job into the queue again. Where a step of Slurm's has several tasks, each starts one process of the one run.

    Args:
        program: what to call with `resume=FOLDER`.
        folder: of the run.

    Raises:
        RuntimeError: the job is not done; says why, so that the scheduler's records are true.
        SystemExit: it was asked to end.
    """
    job = SweepJob(RunFolder(Path(folder)), Path(folder).name)
    rank, _ = distributed.given(os.environ) or (0, 1)
    with _asked_to_end() as stopping:
        if rank:
            return _follow(Path(program), job, stopping)
        Sweep([job], Path(program), at_once=1, keep_going=True, show=lambda jobs: None).run(stopping)
    if job.status not in ENDED:
        raise RuntimeError(job.reason or job.status)


def _follow(program: Path, job: SweepJob, stopping: Stopping) -> None:
    """Start one process of a run that another task looks after, and wait for its end."""
    process = start(program, job.folder.root, None)
    while process.poll() is None and stopping.code is None:
        time.sleep(POLL)
    if stopping.code is not None:
        process.terminate()
        process.wait(GRACE)
        raise SystemExit(stopping.code)
    if process.returncode:
        raise RuntimeError(f"one of the processes of {job.name} ended with {process.returncode}")


@contextmanager
def _asked_to_end() -> Iterator[Stopping]:
    """Within it, signals ask the job to save itself, however often they come; submitit's is heeded when it has.

    Slurm may send SIGTERM before submitit's signal, or alone: a job that ended by itself then would count as failed,
    one that waits to be killed counts as preempted.
    """
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    heard: list[int] = []

    def hear(number: int, _: object) -> None:
        heard.append(number)
        stopping.code = stopping.code or CODES.get(signal.Signals(number), CODES[signal.SIGTERM])

    submitits = _submitits()
    before = {number: signal.signal(number, hear) for number in (*CODES, *submitits)}
    try:
        yield stopping
    except SystemExit:
        patience = time.monotonic() + GRACE
        for number, requeue in submitits.items():
            while number not in heard and time.monotonic() < patience:
                time.sleep(POLL)
            if number in heard:
                requeue(number, None)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _submitits() -> dict[int, Any]:
    """The signal by which submitit requeues a job, and what it does then; nothing where it is not in charge."""
    number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}", None)
    handler = None if number in (None, *CODES) else signal.getsignal(number)
    return {number: handler} if number and callable(handler) else {}
