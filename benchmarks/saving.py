"""What being able to stop costs: `python benchmarks/saving.py --quick`.

Starting: processor seconds from the command to the first training step, of a run that goes on against one that begins
(processor seconds, since a neighbour's work would change the clock's). Saving: seconds of a state, flushed to the disk,
hashed and put in its place (`slr.core.checkpoints`), against Lightning's own `save_checkpoint`, which does none of
that; and the share of the demo's training that all its savings take. Then a state as large as that of InternVL3.5-2B's
adapter. The floor writes as many bytes, flushes them and hashes them.
"""

from options import SavingArgs, read

if __name__ == "__main__":
    ARGS = read(SavingArgs)  # before torch is imported

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import measure
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from measure import Cost, Row

from slr.config.compose import PROJECT
from slr.core import checkpoints
from slr.core.errors import explained
from slr.training.loop import PlainCheckpointIO

SMALL = ["dataset.signs=4", "dataset.signers=8", "batch=4"]
CPU = torch.device("cpu")
ADAPTER = 28 * 16 * (2 * 4096 + 2 * 3072 + 3 * 8192)  # weights: 28 layers, r=16; query and output, key and value, three
EVERY = 10  # minutes between two states: the page's own number

# Both import alike, so that only what the commands do differs.
PROBE = """
import json, os, runpy, sys, time
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
from slr.training import loop
from slr.training.module import SignModule
deed, steps, spent = os.environ["PROBE"], [], []
step, save = SignModule.training_step, loop.CheckpointCallback._save
def stepped(*given):
    steps.append(time.perf_counter())
    if deed == "leave at once":
        os._exit(0)
    if deed == "leave in the middle" and len(steps) == 4:
        os._exit(0)
    return step(*given)
def saved(*given, **words):
    began = time.perf_counter()
    save(*given, **words)
    spent.append(time.perf_counter() - began)
def ended(*given):
    print("\\nPROBE", json.dumps([spent, time.perf_counter() - steps[0]]), flush=True)
    os._exit(0)
SignModule.training_step, loop.CheckpointCallback._save, loop.CheckpointCallback.on_train_end = stepped, saved, ended
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main(args: SavingArgs) -> None:
    """Measure and print."""
    rounds = args.rounds or (1 if args.quick else 5)
    about = measure.machine(CPU, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        demo = ["experiment=demo", f"data={place / 'data'}", *(SMALL if args.quick else [])]
        rows = [*starting(place, demo, rounds), *training(place, demo)]
        rows += large(place / "large", rounds)
    measure.show(rows, args.json, about)


def starting(place: Path, demo: list[str], rounds: int) -> list[Row]:
    """A run that begins against one that goes on in the middle of an epoch."""
    measure.progress("starting: a run to go on with")
    train([*demo, f"outputs={place / 'cut'}", "checkpoint.every=0"], "leave in the middle")
    [config] = (place / "cut").rglob("config.json")
    ways = {
        "fresh": [*demo, f"outputs={place / 'fresh'}"],
        "resumed": [f"resume={config.parent}"],
    }
    costs = measure.in_turns({name: worked(lambda w=w: train(w, "leave at once")) for name, w in ways.items()}, rounds)
    going_on, beginning = costs["resumed"].seconds, costs["fresh"].seconds
    return [Row("command to first step: going on, beginning", going_on, beginning, None, "processor s")]


def training(place: Path, demo: list[str]) -> list[Row]:
    """What share of a training its savings take."""
    rows = []
    for every in (EVERY, 0):
        measure.progress(f"training with checkpoint.every={every}")
        output = train([*demo, f"outputs={place / str(every)}", f"checkpoint.every={every}"], "tell")
        spent, whole = json.loads(next(line for line in output.splitlines() if line.startswith("PROBE"))[5:])
        title = f"demo, {len(spent)} states in {whole:.0f} s ({'after every step' if every == 0 else 'as it comes'})"
        rows.append(Row(f"{title}: a state", sum(spent) / len(spent), None, None, "s"))
        rows.append(Row(f"{title}: share of training", 100 * sum(spent) / whole, None, None, "%"))
    return rows


def large(folder: Path, rounds: int) -> list[Row]:
    """A state with the weights of a 2B model's adapter and AdamW's two moments of them."""
    folder.mkdir()
    state = {name: torch.randn(ADAPTER) for name in ("weights", "first", "second")}

    def ours() -> None:
        PlainCheckpointIO().save_checkpoint(state, folder / checkpoints.PART)
        checkpoints.install(folder, best=False)

    content = bytes(12 * ADAPTER)

    def floor() -> None:
        with (folder / "floor").open("wb") as file:
            file.write(content)
            os.fsync(file.fileno())
        hashlib.sha256(content)

    plain = lambda: TorchCheckpointIO().save_checkpoint(state, folder / "plain.ckpt")  # noqa: E731
    costs = measure.in_turns({"ours": timed(ours), "plain": timed(plain), "floor": timed(floor)}, rounds)
    seconds = {name: one.seconds or 0.0 for name, one in costs.items()}
    title = f"state of a 2B model's adapter, {12 * ADAPTER / 1e6:.0f} MB"
    shares = [100 * seconds[name] / (60 * EVERY) for name in ("ours", "plain", "floor")]
    return [
        Row(title, seconds["ours"], seconds["plain"], seconds["floor"], "s"),
        Row(f"the same every {EVERY} minutes: share of training", *shares, "%"),
    ]


def timed(work: Callable[[], object]) -> Callable[[], Cost]:
    """Seconds of one call, whatever process does the work."""

    def run() -> Cost:
        started = measure.now(CPU)
        work()
        return Cost(measure.now(CPU) - started, None)

    return run


def worked(work: Callable[[], object]) -> Callable[[], Cost]:
    """Processor seconds of the processes that one call starts and waits for."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def run() -> Cost:
        before = spent()
        work()
        return Cost(spent() - before, None)

    return run


def train(words: list[str], deed: str) -> str:
    """Train with a probe in the process; its standard output."""
    command = [sys.executable, "-c", PROBE, str(PROJECT / "train.py"), *words]
    environment = os.environ | {"PROBE": deed, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"train.py {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    explained(lambda: main(ARGS))
