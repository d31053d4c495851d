"""Entry points as a person calls them, and what their runs leave."""

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from slr.environment import QUIET
from slr.model.checkpoint import PACKAGED
from slr.run import read_json

ROOT = Path(__file__).resolve().parent.parent
WARM = Path(__file__).with_name("warm.py")
OWN = QUIET | {"HF_HUB_OFFLINE": "1"}  # what commands get from here; some rooms set it in the tests' own process
SMALL = ("experiment=demo", "dataset.signs=4", "dataset.signers=8")  # 32 clips


def looked_at_once() -> dict[str, str]:
    """What Python and libraries read of the environment when they are started and imported, and not again."""
    names = [name for name in os.environ if name.startswith(("HF_", "OMP_", "PYTHON")) and name not in OWN]
    return {name: os.environ[name] for name in names}


AT_FIRST = looked_at_once()


def started(*words: str | Path, fault: str = "", **options) -> subprocess.Popen:
    """Start an entry point, with a fault in its way if one is named: see `tests/faults`."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    if fault:
        environment |= {"PYTHONPATH": str(ROOT / "tests" / "faults"), "FAULT": fault}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, env=environment, **(pipes | options))


def ended(*words: str | Path, fault: str = "") -> tuple[int, str, str]:
    """Run an entry point to its end, whatever that is: its exit code, standard output and standard error."""
    if not fault and hasattr(os, "fork") and looked_at_once() == AT_FIRST:
        return forked(*words)
    with started(*words, fault=fault) as process:
        out, err = process.communicate()
    return process.returncode, out, err


@functools.cache
def warm() -> subprocess.Popen:
    """The process of `warm.py`, which ends with this one."""
    environment = os.environ | OWN
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, WARM], cwd=ROOT, env=environment, **pipes)
    atexit.register(process.communicate)
    return process


def forked(*words: str | Path) -> tuple[int, str, str]:
    """As `ended`, in a fork of a process that has imported the libraries already."""
    process = warm()
    with tempfile.TemporaryDirectory() as folder:
        files = {"out": f"{folder}/out", "err": f"{folder}/err"}
        asked = {"words": [*map(str, words)], "environment": os.environ | OWN, **files}
        print(json.dumps(asked), file=process.stdin, flush=True)
        code = int(process.stdout.readline())
        return code, *(Path(path).read_text(encoding="utf-8") for path in files.values())


def command(*words: str | Path) -> str:
    """Run an entry point; its standard output."""
    code, out, err = ended(*words)
    assert code == 0, err[-4000:]
    assert "Traceback" not in err
    return out


def only_run(outputs: Path) -> Path:
    [run] = [path.parent for path in outputs.rglob("result.json")]
    return run


def status(run: Path) -> str:
    return read_json(run / "result.json")["status"]


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve of a run as TensorBoard reads it.

    Of `epoch`, which Lightning logs with a step and once more with the validation behind it, one of each.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return found | ({"epoch": sorted(set(found["epoch"]))} if "epoch" in found else {})


def cached(home: Path, name: str, commit: str) -> Path:
    """Put the tiny model into a hub's cache, as what the main branch of `name` is; its folder there."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    shutil.copytree(PACKAGED["tiny"], repository / "snapshots" / commit)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    return repository / "snapshots" / commit
