"""What several test files share."""

import os

# Two workers share two cores, and OpenMP's threads wait for each other spinning: one thread each, in children too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# They start many processes, which compile the libraries once, not each anew (22 s of importing instead of 10).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from entry import command, only_run

from slr.exclusive import exclusive
from slr.prepare.folder import prepare_folder
from slr.schema import Folder

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
def demo(workplace: Path) -> tuple[Path, str]:
    """The demo as the README starts it, trained once: the run's folder and what was printed."""
    printed = workplace / "printed.txt"
    with exclusive(workplace):
        if not printed.exists():
            words = ["experiment=demo", f"outputs={workplace / 'demo'}", f"data={workplace / 'data'}"]
            printed.write_text(command("train.py", *words), encoding="utf-8")
    return only_run(workplace / "demo"), printed.read_text(encoding="utf-8")
