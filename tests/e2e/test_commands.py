"""What a start of a command costs, and how long it waits for a hub that does not answer."""

import os
import subprocess
import sys

import pytest
from entry import ROOT

from slr.__main__ import COMMANDS


def spent() -> float:
    """Processor seconds of the commands so far: the clock's would be a neighbour's too."""
    usage = os.times()
    return usage.children_user + usage.children_system


@pytest.mark.parametrize(
    ("words", "environment", "said", "seconds"),
    [
        (["frame=8"], {}, "did you mean frames?", 5),  # 1 s alone
        (["hardware=cuda"], {"CUDA_VISIBLE_DEVICES": ""}, "hardware=cpu", 15),  # 5 s alone
    ],
)
def test_mistakes_cost_a_line_and_seconds(words, environment, said, seconds, tmp_path):
    before = spent()
    python = [sys.executable, "train.py", "experiment=demo", f"outputs={tmp_path}/out", f"data={tmp_path}/data", *words]
    result = subprocess.run(python, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    [line] = result.stderr.splitlines()
    assert (result.returncode, line[:7]) == (2, "error: ")
    assert said in line
    assert list(tmp_path.iterdir()) == []
    assert spent() - before < seconds


def test_weights_that_are_nowhere(tmp_path):
    """As without a network: every address is refused, and nothing is asked again and again."""
    offline = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "*"}
    words = ["experiment=demo", "model=internvl3_5_2b", f"outputs={tmp_path}/out", f"data={tmp_path}/data"]
    python = [sys.executable, "train.py", *words]
    result = subprocess.run(python, cwd=ROOT, env=os.environ | offline, capture_output=True, text=True, timeout=300)
    [line] = result.stderr.splitlines()
    assert result.returncode == 2
    assert "model=tiny" in line
    assert "model.checkpoint=" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_costs_little(command):
    """Of three tries the best: others at work on the machine lengthen even the processor's time."""
    seconds = []
    for _ in range(3):
        before = spent()
        done = subprocess.run([sys.executable, "-m", "slr", command, "-h"], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        seconds.append(spent() - before)
    assert min(seconds) < 1.5


@pytest.mark.parametrize(
    "words",
    [
        ["train.py", "--help"],
        ["train.py", "--cfg", "job", "experiment=demo"],
        ["train.py", "frame=8"],
        ["evaluate.py", "--help"],
        ["evaluate.py", "run=/nowhere"],
        ["prepare_data.py", "--help"],
    ],
)
def test_quick_answers_do_not_import_torch(words):
    python = [sys.executable, "-X", "importtime", *words]
    result = subprocess.run(python, cwd=ROOT, capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert {"torch", "lightning", "transformers"} & imported == set()
    assert "slr" in imported
