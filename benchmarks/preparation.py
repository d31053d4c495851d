"""What preparing a clip costs, and what a second worker gives: `python benchmarks/preparation.py clips=FOLDER`.

Cuts and verifies up to `count` videos of a folder with 1 worker and with 2, in turns, and prints seconds per clip of
each stage and the quotient. Only meaningful where nothing else runs on at least two cores; where something does, the
CPU time per clip still tells what a second worker costs the first.
"""

from options import PreparationArgs, read

if __name__ == "__main__":
    ARGS = read(PreparationArgs)  # before torch is imported

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from slr.core.errors import UserError, explained
from slr.core.units import counted
from slr.prepare.verify import ClipJob, Prepared, prepare_clips, verify_clips


def main(args: PreparationArgs) -> None:
    """Measure and print."""
    sources = sorted(args.clips.glob("*.mp4"))[: args.count]
    if not sources:
        raise UserError(f"clips={args.clips}: expected .mp4 files in it, found none")
    print(f"{len(sources)} videos, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    best: dict[int, tuple[float, float]] = {}
    for _ in range(args.rounds):
        for workers in (1, 2):
            before = os.times()
            cut, verify = measure(sources, workers)
            after, count = os.times(), len(sources)
            busy = after.children_user + after.children_system - before.children_user - before.children_system
            costs = (
                f"cut {cut / count:.3f} s a clip, verify {verify / count:.3f} s, both {busy / count:.3f} s of CPU time"
            )
            print(f"{counted(workers, 'worker')}: {costs}")
            best[workers] = min(best.get(workers, (cut, verify)), (cut, verify), key=sum)
    print(f"2 workers are {sum(best[1]) / sum(best[2]):.2f} times as fast as 1 (best rounds)")


def measure(sources: Sequence[Path], workers: int) -> tuple[float, float]:
    """Seconds to cut and to verify all, children's start included."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = [ClipJob(source, Path(folder) / source.name) for source in sources]
        begun = time.monotonic()
        outcomes = dict(prepare_clips(jobs, workers))
        middle = time.monotonic()
        made = [(jobs[n].target, asdict(one.facts)) for n, one in sorted(outcomes.items()) if isinstance(one, Prepared)]
        list(verify_clips(made, workers))
        return middle - begun, time.monotonic() - middle


if __name__ == "__main__":
    explained(lambda: main(ARGS))
