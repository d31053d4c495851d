"""Many runs of one command, each a process of its own: done jobs are skipped, others continued or tried again.

A job is a run's folder with a configuration, and `resume=FOLDER` begins it or continues it.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from slr.config import schema
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.core.locks import is_occupied
from slr.core.run_folder import RunFolder, status_of
from slr.core.signals import Stopping

BUSY = 75  # exit code of a job whose folder another process works in: EX_TEMPFAIL of sysexits.h
ENDED = ("done", "pruned")
TIED = "SLR_ENDS_WITH_ITS_SWEEP"  # set for a job's process, whose standard input ends when the sweep's process does
CONSOLE = ".console.txt"  # what a job's process printed
POLL = 0.2  # seconds
GRACE = 120.0  # seconds that jobs have for saving themselves when a sweep is stopped


@dataclass
class SweepJob:
    """One run of a sweep."""

    folder: RunFolder
    name: str  # its own settings, such as `frames=8 lora.r=16`
    disk: int = 0  # bytes that it takes when it is done, at most
    tried: bool = False  # whether this sweep has started it
    status: str = "waiting"  # of `status_of`, or waiting, or elsewhere, where another sweep's process runs it
    told: str = ""  # what a scheduler says of it

    def look(self) -> None:
        """Read its status."""
        status = status_of(self.folder)
        self.status = "waiting" if status == "missing" else status

    @property
    def reason(self) -> str:
        """Why it is not done, in a line."""
        if self.status == "elsewhere":
            return "another process runs it"
        if self.status not in ("failed", "killed"):
            return self.told if self.status == "stopped" else ""
        reason = self.told or ("its process was killed" if self.status == "killed" else self._last_line())
        return str(self.folder.facts.get("error", reason))

    def _last_line(self) -> str:
        console = self.folder.root / CONSOLE
        text = console.read_text(encoding="utf-8", errors="replace") if console.is_file() else ""
        return (text.strip().splitlines() or [""])[-1].strip()


def lay_out(folder: RunFolder, config: schema.Config, overrides: Sequence[str]) -> None:
    """Write what `resume=` needs to begin a job into its folder, unless it is there already.

    Raises:
        UserError: it holds a run of other settings.
    """
    if folder.config.is_file():
        other = schema.from_plain(read_json(folder.config), folder.config)
        if differing := schema.differences(other, config):
            raise UserError(
                f"{folder.root} holds a run of other settings ({'; '.join(differing[:4])}); give this sweep another "
                "name, sweep=NAME"
            )
        return
    write_json(folder.result, {"status": "waiting", "overrides": list(overrides)})
    write_json(folder.config, schema.to_plain(config))


def start(program: Path, folder: Path, console: IO[bytes] | None) -> subprocess.Popen:
    """Start a job's process, which ends with this one; it prints to `console`, or to this one's streams."""
    return subprocess.Popen(
        [sys.executable, str(program), f"resume={folder}"],
        stdin=subprocess.PIPE,
        stdout=console,
        stderr=console,
        env=os.environ | {TIED: "1", "TQDM_MININTERVAL": "30"},
        start_new_session=True,  # Ctrl-C reaches it through this process alone, and once
    )


@dataclass
class Sweep:
    """Runs jobs."""

    jobs: Sequence[SweepJob]  # in the order of their start
    program: Path  # what to call with `resume=FOLDER`
    at_once: int  # processes at the same time
    keep_going: bool  # whether other jobs are started after one has failed
    show: Callable[[Sequence[SweepJob]], None]  # called after each check
    _running: list[tuple[SweepJob, subprocess.Popen]] = field(default_factory=list)

    def run(self, stopping: Stopping) -> None:
        """Start the missing jobs, and wait for them and for jobs that other processes run.

        Raises:
            SystemExit: 130 or 143 where a signal asked for the end; jobs have saved themselves before.
        """
        for job in self.jobs:
            job.look()
            job.tried = False
        self.show(self.jobs)
        while (self._start() or self._running or self._elsewhere()) and stopping.code is None:
            time.sleep(POLL)
            self._collect()
            self.show(self.jobs)
        if stopping.code is not None:
            self._stop()
            self.show(self.jobs)
            raise SystemExit(stopping.code)

    def _start(self) -> bool:
        """Start as many jobs as may run at once; returns whether one was started."""
        failed = any(job.tried and job.status in ("failed", "killed", "stopped") for job in self.jobs)
        room = 0 if failed and not self.keep_going else self.at_once - len(self._running)
        ready = [job for job in self.jobs if not job.tried and job.status not in ENDED][:room]
        for job in ready:
            job.tried = True
            if is_occupied(job.folder.root):
                job.status = "elsewhere"
                continue
            with (job.folder.root / CONSOLE).open("wb") as console:
                self._running.append((job, start(self.program, job.folder.root, console)))
            job.status = "running"
        return bool(ready)

    def _collect(self) -> None:
        """Update the status of jobs whose processes have ended."""
        ended = [(job, process) for job, process in self._running if process.poll() is not None]
        self._running = [(job, process) for job, process in self._running if process.returncode is None]
        for job, process in ended:
            cast(IO[bytes], process.stdin).close()
            job.look()
            if process.returncode == BUSY or job.status == "running":
                job.status = "elsewhere"
            elif job.status == "waiting":  # it ended before it could write its result
                job.status = "failed"

    def _elsewhere(self) -> bool:
        """Whether other processes run jobs; one that they leave unfinished may be tried here."""
        others = [job for job in self.jobs if job.status == "elsewhere"]
        for job in others:
            if not is_occupied(job.folder.root):
                job.look()
                job.tried = job.status in ENDED
        return bool(others)

    def _stop(self) -> None:
        for _, process in self._running:
            process.terminate()
        deadline = time.monotonic() + GRACE
        while self._running and time.monotonic() < deadline:
            time.sleep(POLL)
            self._collect()
        for _, process in self._running:
            process.kill()
            process.wait()
        self._collect()


def end_with_sweep() -> None:
    """In a job's process: send SIGTERM to itself when the sweep's process has ended or was killed."""
    if os.environ.pop(TIED, None) is None:
        return
    for name in ("SIGUSR1", "SIGUSR2"):  # Slurm may send to all processes what only the parent is to handle
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)

    def watch() -> None:
        os.read(0, 1)  # not sys.stdin, whose lock a worker that is forked meanwhile would wait for
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
