"""What several test files share."""

import os

# Two workers share two cores, and OpenMP's threads wait for each other spinning: one thread each, in children too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# They start many processes, which compile the libraries once, not each anew (22 s of importing instead of 10).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Commands that are printed say `uv run` where uv has started the program: never mind how the tests were started.
os.environ.pop("UV_RUN_RECURSION_DEPTH", None)

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slr.commands import evaluate
from slr.config.saved_run import open_run
from slr.config.schema import Folder
from slr.core.files import read_json, write_json
from slr.core.locks import exclusive
from slr.core.run_folder import RunFolder
from slr.data.manifest import PARTS, write_manifest, write_rejected
from slr.data.split import Split, write_split
from slr.data.split import _hash as split_hash
from slr.prepare.folder import prepare_folder
from slr.prepare.synthetic import prepare

sys.dont_write_bytecode = False
ROOT = Path(__file__).resolve().parent.parent
collect_ignore = ["standin", "faults", "warm.py"]  # programs for processes of their own
AWKWARD = "o, it's = ä"  # what a folder may be called


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips, odd videos and the 2B processor that lies beside a developer's checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the material in ../shared, which is not here")
    return folder


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all workers of a session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "runs" / AWKWARD
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def real_clips(shared: Path, workplace: Path) -> Path:
    """The folder of the 156 real clips as a prepared data set, made once, in the workplace's `data`."""
    clips, labels = shared / "wlasl" / "clips", shared / "wlasl" / "clips.json"
    out = workplace / "data" / Folder("folder", "labels", str(clips), str(labels)).place
    # A second worker waits at the folder's lock and then finds nothing left to do.
    return prepare_folder(clips, labels, out, workers=2).parent


@pytest.fixture(scope="session")
def standin(workplace: Path) -> dict[str, str]:
    """The environment of a process in which torch-directml is there: see `tests/standin/device.cpp`."""
    if sys.platform != "linux" or not shutil.which("g++"):
        pytest.skip("needs Linux and g++ to compile a device")
    here, library = ROOT / "tests" / "standin", workplace / "standin.so"
    with exclusive(workplace):
        if not library.exists():
            torch = Path(importlib.util.find_spec("torch").origin).parent
            headers = [f"-I{torch / 'include'}", f"-I{torch / 'include' / 'torch' / 'csrc' / 'api' / 'include'}"]
            linked = [f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch"]
            how = ["-std=c++20", "-O0", "-fPIC", "-shared", "-w", "-DAT_PER_OPERATOR_HEADERS", *headers]
            subprocess.run(["g++", *how, here / "device.cpp", "-o", f"{library}.partial", *linked], check=True)
            Path(f"{library}.partial").replace(library)
    return {
        "PYTHONPATH": f"{here}{os.pathsep}{ROOT}",
        "STANDIN_LIBRARY": str(library),
        "STANDIN_OPERATORS": str(here / "operators.txt"),
    }


@pytest.fixture(scope="session")
def demo(workplace: Path) -> Path:
    """The folder of a demo run as if it had been trained here: `fixtures/demo` with some of its clips, ranked.

    Four of the test part's people, and one of each other part: 96 clips instead of 1,024.
    """
    folder = workplace / "kept" / "synthetic-tiny" / "demo"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.parent):
        if not (folder / "evaluation").exists():
            lay_out(ROOT / "tests" / "fixtures" / "demo", folder, workplace / "kept data")
    return folder


def lay_out(kept: Path, folder: Path, data: Path) -> None:
    """Put a kept run into `folder`: clips of fewer people, drawn into `data`, and a ranking of its test part."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept, folder)
    run = RunFolder(folder)
    write_json(run.config, read_json(run.config) | {"data": str(data), "outputs": str(folder.parent.parent)})
    _, config, _ = open_run(folder)
    told = read_json(run.split)["parts"]
    people = {part: sorted({name.partition("_")[0] for name in told if told[name] == part}) for part in PARTS}
    chosen = {*people["test"][:4], people["train"][0], people["val"][0]}
    out, made = data / config.dataset.place, config.dataset
    (out / "clips").mkdir(parents=True, exist_ok=True)
    takes = prepare._takes(made.signs, made.signers, made.takes, made.seed)
    drawn = [take for take in takes if take.signer in chosen]
    write_rejected(out / "rejected.jsonl", [])
    write_manifest(out / "manifest.jsonl", clips := list(prepare._draw_all(drawn, out, made.size, 2)))
    clips.sort(key=lambda clip: clip.id)
    parts = {clip.id: told[clip.id] for clip in clips}
    write_split(run.split, Split("signer", 0, parts, own := split_hash("signer", 0, clips, parts)))
    result = read_json(run.result)
    result["hashes"]["split"] = own
    write_json(run.result, result)
    results, _ = evaluate.evaluate(evaluate.EvaluateArgs(folder, report=False))
    write_json(run.result, result | {"test": results["summary"]})
