"""How a sweep's jobs stand, as a table: painted over on a terminal, line by line elsewhere."""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slr.core.units import format_bytes, format_duration
from slr.sweeps.runner import ENDED, SweepJob

if TYPE_CHECKING:
    from rich.table import Table

REFRESH = 2.0  # seconds between two paintings where no status has changed
COLUMNS = ("job", "status", "steps", "val top-1", "time", "")


class Board:
    """Shows a sweep while it runs, and once more when it has ended.

    Attributes:
        at_once: jobs at the same time, from which it tells how long the rest may take.
    """

    def __init__(self, at_once: int) -> None:
        from rich.console import Console
        from rich.live import Live

        self.at_once = at_once
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False) if sys.stdout.isatty() else None
        self._told: dict[str, str] = {}
        self._painted = 0.0

    def __call__(self, jobs: Sequence[SweepJob]) -> None:
        """Show what has changed."""
        changed = [job for job in jobs if self._told.get(job.name) != job.status]
        if self._live is None:
            for job in changed:
                if job.status != "waiting":
                    print(f"[{_ended(jobs)}/{len(jobs)}] {line(job)}{left(jobs, self.at_once)}", flush=True)
        elif changed or time.monotonic() - self._painted > REFRESH:
            self._live.start()
            self._live.update(table(jobs, self.at_once), refresh=True)
            self._painted = time.monotonic()
        self._told = {job.name: job.status for job in jobs}

    def close(self, jobs: Sequence[SweepJob]) -> None:
        """Leave the whole table behind."""
        if self._live is not None and self._live.is_started:
            self._live.update(table(jobs, self.at_once), refresh=True)
            self._live.stop()
        elif len(jobs) > 1:  # what there is to say of one has been said
            self._console.print(table(jobs, self.at_once))


def announce(place: Path, jobs: Sequence[SweepJob], each: int) -> str:
    """What a sweep is going to do, before it starts: jobs, where they stand, and their disk.

    Args:
        place: the sweep's folder.
        jobs: of the sweep.
        each: bytes that a job leaves on the disk, at most.
    """
    count = Counter(job.status for job in jobs)
    stand = ", ".join(f"{number} {status}" for status, number in sorted(count.items()))
    free = shutil.disk_usage(place).free
    missing = sum(job.status not in ENDED for job in jobs)
    room = f"about {format_bytes(missing * each)} of disk to write, {format_bytes(free)} free"
    short = (
        "; too little: set checkpoint.keep=best, or outputs=FOLDER on a larger disk" if missing * each > free else ""
    )
    return f"sweep: {len(jobs)} jobs ({stand}) in {place}; {room}{short}"


def line(job: SweepJob) -> str:
    """A job in a line."""
    name, status, steps, top1, seconds, reason = cells(job)
    figures = [f"step {steps}" if steps else "", f"val top-1 {top1}" if top1 else "", seconds, reason]
    return f"{name}: {', '.join([status, *filter(None, figures)])}"


def cells(job: SweepJob) -> tuple[str, ...]:
    """What the table says of a job, by `COLUMNS`."""
    facts = job.facts
    progress = facts.get("progress", {})
    best = facts.get("val", {}).get("top1", progress.get("val/top1"))
    steps = f"{progress['step']}/{progress['steps']}" if "step" in progress else ""
    seconds = format_duration(facts["seconds"]) if "seconds" in facts else ""
    return job.name, job.status, steps, "" if best is None else f"{best:.3f}", seconds, job.reason


def table(jobs: Sequence[SweepJob], at_once: int) -> "Table":
    """All jobs, in their order."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(caption=f"{_ended(jobs)} of {len(jobs)} ended{left(jobs, at_once)}", caption_justify="left")
    for name in COLUMNS:
        shown.add_column(name, justify="right" if name in ("steps", "val top-1", "time") else "left", overflow="fold")
    for job in jobs:
        shown.add_row(*(Text(cell) for cell in cells(job)))
    return shown


def left(jobs: Sequence[SweepJob], at_once: int) -> str:
    """How long the rest may take, once a job has been done."""
    done = [job.facts.get("seconds", 0.0) for job in jobs if job.status == "done"]
    rest = sum(job.status not in ENDED and not (job.tried and job.status not in ("running", "waiting")) for job in jobs)
    if not done or not rest:
        return ""
    return f", about {format_duration(-(-rest // at_once) * sum(done) / len(done))} left"


def _ended(jobs: Sequence[SweepJob]) -> int:
    return sum(job.status in ENDED for job in jobs)
