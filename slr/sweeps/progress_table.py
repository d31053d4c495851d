"""The jobs of a sweep as a table: repainted on a terminal, line by line elsewhere."""

import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import rich
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from slr.core.env import command
from slr.core.units import counted, format_bytes
from slr.sweeps.runner import ENDED, SweepJob

REFRESH = 2.0  # seconds between two paintings where no status has changed
UNFINISHED = ("waiting", "running", "elsewhere")
COLUMNS = ("job", "status", "steps", "val top-1", "time", "reason")


class Board:
    """Shows a sweep while it runs, and once more when it has ended."""

    def __init__(self) -> None:
        self._live = Live(console=Console(), auto_refresh=False) if sys.stdout.isatty() else None
        self._statuses: dict[str, str] = {}
        self._at_once = 1  # the most jobs seen running at the same time, from which the time left is estimated
        self._painted = 0.0

    def __call__(self, jobs: Sequence[SweepJob]) -> None:
        """Show what has changed."""
        self._at_once = max(self._at_once, sum(job.status == "running" for job in jobs))
        changed = [job for job in jobs if self._statuses.get(job.name) != job.status]
        if self._live is None:
            for job in changed:
                if job.status != "waiting":
                    print(f"[{_finished(jobs)}/{len(jobs)}] {line(job)}{left(jobs, self._at_once)}", flush=True)
        elif changed or time.monotonic() - self._painted > REFRESH:
            self._live.start()
            self._live.update(table(jobs, self._at_once), refresh=True)
            self._painted = time.monotonic()
        self._statuses = {job.name: job.status for job in jobs}

    def close(self, jobs: Sequence[SweepJob]) -> None:
        """Print the final table."""
        if self._live is not None and self._live.is_started:
            self._live.update(table(jobs, self._at_once), refresh=True)
            self._live.stop()
        elif len(jobs) > 1:  # of a single job, its line is enough
            rich.print(table(jobs, self._at_once))
        if len(jobs) > 1:
            folder = shlex.quote(str(jobs[0].folder.root.parent))
            done = all(job.status in ENDED for job in jobs)
            advice = command("compare", str(folder)) if done else "run the same command again"
            print(f"to {'compare the runs' if done else 'do what is missing'}: {advice}", flush=True)


def announce(place: Path, jobs: Sequence[SweepJob]) -> str:
    """A sweep's jobs, their status, and the disk that they need, in a line."""
    free = shutil.disk_usage(place).free
    needed = sum(job.disk for job in jobs if job.status not in ENDED)
    room = f"about {format_bytes(needed)} of disk to write, {format_bytes(free)} free"
    short = "; too little: set checkpoint.keep=best, or outputs=FOLDER on a larger disk" if needed > free else ""
    return f"sweep: {counted(len(jobs), 'job')} ({_statuses(jobs)}) in {place}; {room}{short}"


def line(job: SweepJob) -> str:
    """A job in a line."""
    name, status, steps, top1, seconds, reason = cells(job)
    figures = [f"step {steps}" if steps else "", f"val top-1 {top1}" if top1 else "", seconds, reason]
    return f"{name}: {', '.join([status, *filter(None, figures)])}"


def cells(job: SweepJob) -> tuple[str, ...]:
    """A job's row of the table, by `COLUMNS`."""
    facts = job.folder.facts
    progress = facts.get("progress", {})
    best = facts.get("val", {}).get("top1", progress.get("val/top1"))
    steps = f"{progress['step']}/{progress['steps']}" if "step" in progress else ""
    seconds = _time(facts["seconds"]) if "seconds" in facts else ""
    return job.name, job.status, steps, "" if best is None else f"{best:.3f}", seconds, job.reason


def table(jobs: Sequence[SweepJob], at_once: int) -> Table:
    """All jobs, in their order; a column that is empty in every row is left out."""
    rows = [cells(job) for job in jobs]
    caption = f"{_finished(jobs)} of {len(jobs)} finished ({_statuses(jobs, 'done', 'failed')}){left(jobs, at_once)}"
    shown = Table(caption=caption, caption_justify="left")
    columns = [number for number in range(len(COLUMNS)) if any(row[number] for row in rows)]
    for number in columns:
        name = COLUMNS[number]
        shown.add_column(name, justify="right" if name in ("steps", "val top-1", "time") else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(row[number]) for number in columns))
    return shown


def left(jobs: Sequence[SweepJob], at_once: int) -> str:
    """How long the rest may take, once a job has been done."""
    done = [job.folder.facts.get("seconds", 0.0) for job in jobs if job.status == "done"]
    rest = sum(job.status in UNFINISHED or not (job.tried or job.status in ENDED) for job in jobs)
    return f", about {_time(-(-rest // at_once) * sum(done) / len(done))} left" if done and rest else ""


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _finished(jobs: Sequence[SweepJob]) -> int:
    return sum(job.status not in UNFINISHED for job in jobs)


def _statuses(jobs: Sequence[SweepJob], *always: str) -> str:
    numbers = dict.fromkeys(always, 0) | Counter(job.status for job in jobs)
    return ", ".join(f"{number} {status}" for status, number in numbers.items())
