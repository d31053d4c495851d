"""A sweep's job in a process of Slurm or Ray, which may be preempted before the job is done."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from slr.core import distributed
from slr.core.run_folder import RunFolder
from slr.core.signals import CODES, Stopping, handled
from slr.sweeps.runner import ENDED, GRACE, POLL, Sweep, SweepJob, start


def attend(program: str, folder: str) -> None:
    """Run a job of a sweep by `program resume=FOLDER`; the processes of Slurm and Ray call this.

    Asked to end, the job saves itself first; then submitit's handler is called, which requeues the job. If a Slurm step
    has several tasks, each starts one process of the run.

    Raises:
        RuntimeError: the job is not done, with the reason for the scheduler's records.
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
    """Start one process of a run, whose status another task reports, and wait for it."""
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
    """Have signals ask the job to save itself; afterwards, call submitit's handler.

    Slurm may send SIGTERM before submitit's signal, or alone, so this waits for it: a job that ended by itself would
    count as failed, one that waits to be killed counts as preempted.
    """
    stopping = Stopping()
    heard: list[int] = []

    def hear(number: int, _: object) -> None:
        heard.append(number)
        stopping.code = stopping.code or CODES.get(signal.Signals(number), CODES[signal.SIGTERM])

    # The signal by which submitit requeues a job, and its handler; nothing where submitit is not in charge.
    number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}", None)
    requeue = None if number in (None, *CODES) else signal.getsignal(number)
    with handled(hear, [*CODES, cast(int, number)] if callable(requeue) else CODES):
        try:
            yield stopping
        except SystemExit:
            deadline = time.monotonic() + GRACE * callable(requeue)
            while number not in heard and time.monotonic() < deadline:
                time.sleep(POLL)
            if callable(requeue) and number in heard:
                requeue(number, None)
            raise
