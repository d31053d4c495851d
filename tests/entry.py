"""Entry points as a person calls them, and what their runs leave."""

import atexit
import functools
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from slr.core.env import QUIET
from slr.core.files import read_json
from slr.models.hub import PACKAGED

ROOT = Path(__file__).resolve().parent.parent
WARM = Path(__file__).with_name("warm.py")
OWN = QUIET | {"HF_HUB_OFFLINE": "1"}  # what commands get from here; some rooms set it in the tests' own process
ONE_FRAME = ("frames=1", "hardware.frames_at_once=16")  # of each clip, ranked 16 by 16
SMALL = ("experiment=demo", "dataset.signs=4", "dataset.signers=8")  # 32 clips


def looked_at_once() -> dict[str, str]:
    """What Python and libraries read of the environment when they are started and imported, and not again."""
    names = [name for name in os.environ if name.startswith(("HF_", "OMP_", "PYTHON")) and name not in OWN]
    return {name: os.environ[name] for name in names}


AT_FIRST = looked_at_once()


def called(*words: str | Path) -> tuple[int, str, str]:
    """Run an entry point in this process, as `python words…` would: exit code, standard output, standard error."""
    program, *rest = map(str, words)
    out, err, before = io.StringIO(), io.StringIO(), dict(os.environ)
    argv, sys.argv = sys.argv, [program, *rest] if program != "-m" else rest
    code = 0
    try:
        os.environ.update(OWN)
        with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings(action="default"):
            warnings.filterwarnings("ignore", ".*found in sys.modules")  # a module of slr that runs as a program
            run = runpy.run_module if program == "-m" else runpy.run_path
            run(rest[0] if program == "-m" else str(ROOT / program), run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(before)
    return code, out.getvalue(), err.getvalue()


def output_of(*words: str | Path) -> str:
    """As `called`, of an entry point that does what it is asked: its standard output."""
    code, out, err = called(*words)
    assert code == 0, err[-4000:]
    return out


def refused(*words: str | Path) -> str:
    """As `called`, of an entry point that refuses, in one line, which is returned without `error: `."""
    code, _, err = called(*words)
    assert (code, err[:7], err.count("\n")) == (2, "error: ", 1), err
    return err.removeprefix("error: ").rstrip("\n")


def planted(fault: str) -> dict[str, str]:
    """The environment of a process that meets a fault: see `tests/faults`."""
    return {"PYTHONPATH": str(ROOT / "tests" / "faults"), "FAULT": fault} if fault else {}


def started(*words: str | Path, fault: str = "", **options) -> subprocess.Popen:
    """Start an entry point, with a fault in its way if one is named: see `tests/faults`."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"} | planted(fault)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, env=environment, **(pipes | options))


def ended(*words: str | Path, fault: str = "") -> tuple[int, str, str]:
    """Run an entry point to its end, whatever that is: its exit code, standard output and standard error."""
    if hasattr(os, "fork") and looked_at_once() == AT_FIRST:
        return forked(*words, fault=fault)
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


def forked(*words: str | Path, fault: str = "") -> tuple[int, str, str]:
    """As `ended`, in a fork of a process that has imported the libraries already."""
    process = warm()
    with tempfile.TemporaryDirectory() as folder:
        files = {"out": f"{folder}/out", "err": f"{folder}/err"}
        asked = {"words": [*map(str, words)], "environment": os.environ | OWN | planted(fault), **files}
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
