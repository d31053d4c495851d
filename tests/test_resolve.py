"""What would be installed where: a part of `.ci/resolve.py`, which asks an index."""

import importlib.util
import shutil
import subprocess
import sys

import pytest
from entry import ROOT

SCRIPT = ROOT / ".ci" / "resolve.py"


@pytest.fixture(scope="module")
def resolve():
    spec = importlib.util.spec_from_file_location("resolve", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["resolve"] = module  # where dataclasses look
    spec.loader.exec_module(module)
    yield module
    del sys.modules["resolve"]


GOOD = {"torch": "2.15.0+cpu", "transformers": "5.24.0", "lightning": "2.6.6", "peft": "0.21.2", "av": "19.0.2"}
GOOD |= {"bitsandbytes": "0.50.2", "hydra-core": "1.3.8", "omegaconf": "2.3.1", "huggingface-hub": "2.4.0"}
GOOD |= {"numpy": "2.5.5", "decord2": "3.4.0", "optuna": "5.0.0"}


def test_versions_are_numbers_not_letters(resolve):
    assert resolve.faults(GOOD, "linux", "3.12", "optuna") == []
    assert resolve.number("2.15.0+cu132") > resolve.number("2.6")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bitsandbytes": "0.42.0"}, "bitsandbytes 0.42.0 < 0.50"),  # what a resolver fell back to on a Mac
        ({"torch": "2.4.1"}, "torch 2.4.1 < 2.6"),
        ({"decord": "0.6.0"}, "expected decord2 alone"),
        ({"torch-directml": "0.2.5.dev240914"}, "torch-directml beside another torch"),
    ],
)
def test_a_version_that_does_not_run_is_a_fault(resolve, change, said):
    assert said in "; ".join(resolve.faults(GOOD | change, "linux", "3.12", "optuna"))


def test_without_cuda_means_without_its_libraries(resolve):
    found = GOOD | {"nvidia-cublas": "13.4"}
    assert "CUDA's libraries" in "; ".join(resolve.faults(found, "linux", "3.12", "cpu"))
    assert resolve.faults(found, "linux", "3.12", "optuna") == []


def test_wrong_words_are_refused(resolve):
    done = subprocess.run([sys.executable, SCRIPT, "system=solaris"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "linux" in done.stderr


@pytest.mark.slow
def test_a_mac_windows_and_directml_can_be_installed():
    if not shutil.which("uv"):
        pytest.skip("needs uv")
    cells = ["set=uv,directml", "system=macos,windows", "python=3.12"]
    done = subprocess.run([sys.executable, SCRIPT, *cells], capture_output=True, text=True, check=False)
    states = {tuple(line.split()[:2]): line[23:33].strip() for line in done.stdout.splitlines()[:-1]}
    if "not asked" in states.values():
        pytest.skip("needs a package index, and none is in reach")
    assert states == {
        ("uv", "macos"): "ok",
        ("uv", "windows"): "ok",
        ("directml", "macos"): "refused",
        ("directml", "windows"): "ok",
    }, done.stdout
