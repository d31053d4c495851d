"""The commands as a person types them: mistakes cost one line, exit code 2, and leave nothing behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def spent() -> float:
    """Processor seconds of the commands so far: the clock's would be a neighbour's too."""
    usage = os.times()
    return usage.children_user + usage.children_system


def is_one_line(result: subprocess.CompletedProcess[str]) -> bool:
    return result.returncode == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


@pytest.fixture
def labels(tmp_path):
    """A writer of labels files, with the clips that they name or without."""

    def write(rows: list[dict[str, str]], clips: bool = True) -> list[str]:
        folder = tmp_path / "my clips, it's = ä"
        folder.mkdir(exist_ok=True)
        for row in rows if clips else []:
            (folder / row["file"]).write_bytes(b"no video" * 500)
        (folder / "labels.json").write_text(json.dumps(rows))
        return ["dataset=folder", f"dataset.clips={folder}", f"dataset.labels={folder / 'labels.json'}", "model=tiny"]

    return write


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["frame=8"], "did you mean frames?"),
        (["+frame=8"], "did you mean frames?"),
        (["frames=0"], "at least 1"),
        (["frames=abc"], "whole number"),
        (["-m", "frames=0,8"], "at least 1"),
        (["lora.r=-1"], "at least 1"),
        (["hardware=gpu"], "auto, cpu, cuda"),
    ],
)
def test_mistakes_in_settings(words, says, tmp_path):
    before = spent()
    result = run("train.py", "experiment=demo", f"outputs={tmp_path}/out", f"data={tmp_path}/data", *words)
    assert is_one_line(result), result.stderr
    assert says in result.stderr
    assert list(tmp_path.iterdir()) == []
    assert spent() - before < 5  # 1 s alone


def test_cuda_that_is_not_there(tmp_path):
    before = spent()
    result = run(
        "train.py",
        "experiment=demo",
        "hardware=cuda",
        f"outputs={tmp_path}/out",
        f"data={tmp_path}/data",
        environment={"CUDA_VISIBLE_DEVICES": ""},
    )
    assert is_one_line(result), result.stderr
    assert "hardware=cpu" in result.stderr
    assert list(tmp_path.iterdir()) == []
    assert spent() - before < 15  # 5 s alone


def test_labels_that_name_a_missing_video(labels, tmp_path):
    words = labels([{"file": "a.mp4", "gloss": "a"}, {"file": "b.mp4", "gloss": "b"}], clips=False)
    result = run("train.py", *words, f"outputs={tmp_path}/out", f"data={tmp_path}/data")
    assert is_one_line(result), result.stderr
    assert "a.mp4" in result.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "data").exists()


def test_labels_of_one_gloss(labels, tmp_path):
    words = labels([{"file": "a.mp4", "gloss": "a"}, {"file": "b.mp4", "gloss": "a"}])
    result = run("train.py", *words, f"outputs={tmp_path}/out", f"data={tmp_path}/data")
    assert is_one_line(result), result.stderr
    assert "at least two glosses" in result.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "data").exists()


def test_a_split_without_a_test_clip(tmp_path):
    words = ["experiment=demo", "dataset.signs=2", "dataset.signers=2"]
    result = run("train.py", *words, f"outputs={tmp_path}/out", f"data={tmp_path}/data")
    assert result.returncode == 2
    last = result.stderr.replace("\r", "\n").splitlines()[-1]
    assert last.startswith("error: ")
    assert "split=signer leaves" in last or "split.coverage" in last
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([f"run={ROOT}/conf"], "expected the folder of a run"),
        (["run=/nowhere"], "expected the folder of a run"),
        (["rum=x"], "did you mean run?"),
        ([], "run is not given"),
        (["run=x", "part=some"], "part=some: expected train, val, test or all"),
        (["run=x", "limit=0"], "limit=0: expected a whole number"),
        (["run=x", "device=gpu"], "device=gpu: expected cpu, cuda, directml or mps"),
    ],
)
def test_evaluate_refuses_what_cannot_be(words, says):
    result = run("evaluate.py", *words)
    assert is_one_line(result), result.stderr
    assert says in result.stderr


def test_a_special_token_in_the_prompt_is_refused_before_there_is_a_folder(tmp_path):
    small = ["experiment=demo", "dataset.signs=2", "dataset.signers=8", "split.coverage=0"]
    words = [*small, "model.prompt='<img> what?'", f"outputs={tmp_path}/out", f"data={tmp_path}/data"]
    result = run("train.py", *words)
    assert result.returncode == 2
    last = result.stderr.replace("\r", "\n").splitlines()[-1]
    assert last.startswith("error: ")
    assert "<img>" in last
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("word", ["-r", "--experimental-rerun", "--config-name=x"])
def test_dashes_that_would_start_an_unchecked_job_are_refused(word, tmp_path):
    result = run("train.py", word, "frames=0", f"outputs={tmp_path}/out")
    assert is_one_line(result), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_wlasl_that_is_not_prepared(tmp_path):
    words = ["model=tiny", f"outputs={tmp_path}/out", f"data={tmp_path}/data"]
    result = run("train.py", *words)
    assert is_one_line(result), result.stderr
    assert "prepare_data.py dataset=wlasl" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_nowhere(tmp_path):
    """As without a network: every address is refused."""
    started = time.monotonic()
    offline = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "*"}
    words = ["experiment=demo", "model=internvl3_5_2b"]
    result = run("train.py", *words, f"outputs={tmp_path}/out", f"data={tmp_path}/data", environment=offline)
    assert is_one_line(result), result.stderr
    assert "model=tiny" in result.stderr
    assert "model.checkpoint=" in result.stderr
    assert time.monotonic() - started < 30  # the hub's own retries take longer
    assert not (tmp_path / "out").exists()


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
    result = run("-X", "importtime", *words)
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert {"torch", "lightning", "transformers"} & imported == set()
    assert "slr" in imported


def test_help_names_every_group_and_key():
    text = run("train.py", "--help").stdout
    for word in ("hardware: auto, cpu, cuda", "experiment: demo, original", "frames: 8", "warmup_steps: 50", "  r: 16"):
        assert word in text
    assert "schema" not in text
