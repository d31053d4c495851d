"""The ladder's words, and what its rungs stand on."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from entry import ONE_FRAME, called, only_run, output_of, refused

from slr.config import compose, jobs, schema
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.core.run_folder import RunFolder
from slr.evaluation import baselines
from slr.evaluation.baselines import finished, one_job, refuse_mixed, table

SMALL = ("experiment=demo", "dataset.signs=4", "dataset.signers=8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rungs=lora,zero"], "rungs=zero: expected some of chance, majority"),
        (["frames=4,8"], "expected words of one run, found those of 2"),
    ],
)
def test_mistakes_cost_one_line(words, said):
    assert said in refused("-m", "slr.ladder", *SMALL, *words)


def test_all_language_weights_learn_and_nothing_else():
    from slr.models import internvl, lora

    model = internvl.load_vlm("tiny", None, "pretrained", "none", torch.bfloat16, "cpu", 0)
    trained = lora.add_lora(model, "full", 1, 1, 0.0, [])
    assert trained is model
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("language_model.layers." in name), name
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name
    state = lora.adapter_state(model)
    lora.load_adapter_state(model, {name: tensor + 1 for name, tensor in state.items()})
    assert all(torch.equal(tensor, state[name] + 1) for name, tensor in lora.adapter_state(model).items())


def test_rungs_of_two_versions_of_the_model_are_refused(tmp_path):
    compose.register()
    folders = {name: RunFolder(tmp_path / name) for name in ("zero_shot", "lora")}
    for commit, folder in zip("ab", folders.values(), strict=True):
        config = jobs.configurations(["experiment=demo"])[0]
        config.model.commit = commit * 40
        write_json(folder.config, schema.to_plain(config))
        write_json(folder.result, {"status": "done"})
    with pytest.raises(UserError, match=r"of one version.*zero_shot with a.*lora with b.*model\.revision"):
        refuse_mixed(folders)
    refuse_mixed({"zero_shot": folders["zero_shot"]})


def test_small_rungs_are_measured_once_and_told(workplace, tmp_path, monkeypatch):
    """The base model is ranked in this process; nothing is trained."""
    started = []

    def in_this_process(command, check):
        started.append(command)
        words = [word for word in command[3:] if not word.startswith("sweep=")]
        return SimpleNamespace(returncode=called("train.py", *words)[0])

    monkeypatch.setattr(baselines.subprocess, "run", in_this_process)
    names = "rungs=chance,majority,zero_shot,zero_shot_prior,probe"
    words = ["-m", "slr.ladder", *SMALL, *ONE_FRAME, names, f"outputs={tmp_path}", f"data={workplace / 'data'}"]
    said = output_of(*words)
    assert [command[2] for command in started] == ["-m"]
    assert {"lora=none", "sweep=ladder"} <= set(started[0])
    [place] = tmp_path.glob("*/sweeps/ladder")
    run = only_run(tmp_path)
    rows = read_json(place / "ladder.json")["rows"]
    test = read_json(run / "result.json")["test"]
    assert rows["chance"]["top1"] == test["chance"]["top1"] == 0.25
    assert {row["n"] for row in rows.values()} == {test["n"]}
    parts = read_json(run / "split.json")["parts"]
    glosses = {name: name.split("_")[1] for name in parts}
    trained = [glosses[name] for name, part in parts.items() if part == "train"]
    commonest = min(set(trained), key=lambda gloss: (-trained.count(gloss), gloss))
    tested = [glosses[name] for name, part in parts.items() if part == "test"]
    assert rows["majority"]["top1"] == pytest.approx(tested.count(commonest) / len(tested))
    for title in ("chance", "commonest gloss", "base model, no training", "its prior taken out", "linear probe"):
        assert title in said
    stamps = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    again = output_of(*words)
    assert again.strip().splitlines() == said[said.index("\n\n") :].strip().splitlines()
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()} == stamps
    assert len(started) == 1


def test_a_rung_that_fails_says_so_and_all_weights_learn_more_slowly(tmp_path, monkeypatch):
    compose.register()
    started = []
    monkeypatch.setattr(
        baselines.subprocess, "run", lambda words, check: started.append(words) or SimpleNamespace(returncode=3)
    )
    words = [*SMALL, f"outputs={tmp_path}", "optimizer.lr=0.002"]
    with pytest.raises(UserError, match=r"rung full: train\.py ended with 3"):
        baselines.trained("full", words, tmp_path / "synthetic-tiny" / "sweeps" / "ladder", one_job(words))
    assert started[0][-2:] == ["lora=full", "optimizer.lr=0.0002"]


def test_runs_are_found_by_their_settings_when_they_are_done(tmp_path):
    compose.register()

    def laid_out(name: str, status: str, *words: str) -> Path:
        write_json(tmp_path / name / "config.json", schema.to_plain(one_job([*SMALL, *words])))
        write_json(tmp_path / name / "result.json", {"status": status})
        for file in ("vocabulary.json", "split.json"):
            write_json(tmp_path / name / file, {})
        return tmp_path / name

    laid_out("failed", "failed")
    laid_out("other", "done", "frames=3")
    done = [laid_out("a/deep", "done"), laid_out("b", "done", "hardware.workers=7")]  # another machine, the same run
    wanted = baselines.digest(schema.identity(one_job(SMALL)))
    assert [folder.root for folder in finished(tmp_path, wanted)] == done


def test_the_table_says_which_rungs_cannot_be_told_from_guessing():
    chance = {"title": "guess", "top1": 0.25, "top5": 1.0, "mrr": 0.5, "n": 8}
    intervals = {"top5_interval": [0.5, 1.0], "chance": {"top1": 0.25}}
    weak = chance | intervals | {"title": "weak", "top1": 0.5, "top1_interval": [0.2, 0.8]}
    strong = weak | {"title": "strong", "top1": 0.9, "top1_interval": [0.7, 1.0]}
    lines = table([chance, weak, strong]).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["guess", "weak", "strong", "weak:"]
    assert "0.200 – 0.800" in lines[2]
    assert lines[-1] == "weak: its interval contains chance, 0.250; it cannot be told from guessing"
