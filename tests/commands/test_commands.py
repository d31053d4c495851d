"""The commands as a person types them: mistakes cost one line, exit code 2, and leave nothing behind."""

import dataclasses
import json
import re
from typing import Any

import pytest
import torch
from entry import ROOT, called, refused

from slr.config import schema
from slr.config.help import groups
from slr.core.errors import UserError


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
        (["lr=1e-3"], "did you mean optimizer.lr?"),
        (["monitor=val/loss"], "did you mean checkpoint.monitor or early_stopping.monitor?"),
        (["lora.r", "=", "8"], "type lora.r=8, without spaces"),
        (["lora.r=", "8"], "type lora.r=8, without spaces"),
        (["--epochs", "3"], "type epochs=3"),
        (["--lora.r=8"], "type lora.r=8"),
    ],
)
def test_mistakes_in_settings(words, says, tmp_path):
    assert says in refused("train.py", "experiment=demo", f"outputs={tmp_path}/out", f"data={tmp_path}/data", *words)
    assert list(tmp_path.iterdir()) == []


def test_cuda_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["experiment=demo", "hardware=cuda", f"outputs={tmp_path}/out", f"data={tmp_path}/data"]
    assert "hardware=cpu" in refused("train.py", *words)
    assert list(tmp_path.iterdir()) == []


def test_labels_that_name_a_missing_video(labels, tmp_path):
    words = labels([{"file": "a.mp4", "gloss": "a"}, {"file": "b.mp4", "gloss": "b"}], clips=False)
    assert "a.mp4" in refused("train.py", *words, f"outputs={tmp_path}/out", f"data={tmp_path}/data")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "data").exists()


def test_labels_of_one_gloss(labels, tmp_path):
    words = labels([{"file": "a.mp4", "gloss": "a"}, {"file": "b.mp4", "gloss": "a"}])
    said = refused("train.py", *words, f"outputs={tmp_path}/out", f"data={tmp_path}/data")
    assert "at least two glosses" in said
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "data").exists()


def test_a_split_without_a_test_clip(tmp_path):
    words = ["experiment=demo", "dataset.signs=2", "dataset.signers=2"]
    code, _, err = called("train.py", *words, f"outputs={tmp_path}/out", f"data={tmp_path}/data")
    assert code == 2
    last = err.replace("\r", "\n").splitlines()[-1]
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
        (["run=x", "part=some"], "part=some: expected one of train, val, test, all"),
        (["run=x", "limit=0"], "limit=0: expected a whole number"),
        (["run=x", "device=gpu"], "device=gpu: expected one of cpu, cuda, directml, mps"),
    ],
)
def test_evaluate_refuses_what_cannot_be(words, says):
    assert says in refused("evaluate.py", *words)


def test_a_special_token_in_the_prompt_is_refused_before_there_is_a_folder(tmp_path):
    small = ["experiment=demo", "dataset.signs=2", "dataset.signers=8", "split.coverage=0"]
    words = [*small, "model.prompt='<img> what?'", f"outputs={tmp_path}/out", f"data={tmp_path}/data"]
    code, _, err = called("train.py", *words)
    assert code == 2
    last = err.replace("\r", "\n").splitlines()[-1]
    assert last.startswith("error: ")
    assert "<img>" in last
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("word", ["-r", "--experimental-rerun", "--config-name=x"])
def test_dashes_that_would_start_an_unchecked_job_are_refused(word, tmp_path):
    refused("train.py", word, "frames=0", f"outputs={tmp_path}/out")
    assert list(tmp_path.iterdir()) == []


def test_wlasl_that_is_not_prepared(tmp_path):
    words = ["model=tiny", f"outputs={tmp_path}/out", f"data={tmp_path}/data"]
    assert "slr prepare dataset=wlasl" in refused("train.py", *words)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_says_so_in_one_line(tmp_path, monkeypatch):
    def fails(*words):
        raise UserError("a fault on purpose")

    monkeypatch.setattr("slr.commands.validate.check_all", lambda configs: None)
    monkeypatch.setattr("slr.commands.train.train", fails)
    code, _, err = called("train.py", "experiment=demo", f"outputs={tmp_path}/out", f"data={tmp_path}/data")
    assert (code, err.splitlines()) == (2, ["error: a fault on purpose"])


def test_help_names_every_group_and_key_with_what_it_means_and_may_be():
    text = called("train.py", "--help")[1]
    lines = [" ".join(entry.split()) for entry in re.split(r"\n(?=  \w|\n)", text)]
    for group, options in groups().items():
        assert any(line.startswith(f"{group} {', '.join(options)}") for line in lines)
    assert f"dataset {', '.join(groups()['dataset'])} (default: wlasl)" in lines
    listed = {line.partition("=")[0]: line for line in lines if "=" in line and " " not in line.partition("=")[0]}
    leaves = {key for key, kind in schema.key_types().items() if not dataclasses.is_dataclass(kind) and kind is not Any}
    assert leaves - set(listed) == {
        *(f"{group}.name" for group in ("cache", "dataset", "model", "objective", "trainer")),
        *("lora.scope", "split.rule", "model.commit"),
    }
    assert [key for key in leaves & set(listed) if listed[key].count(" ") < 3] == []
    assert "[one of uniform, segment]" in listed["sampling"]
    assert "[a whole number, at least 1]" in listed["lora.r"]
    assert "[one of cut, source]" in listed["dataset.local"]
    assert "schema" not in text
