"""The ladder on drawn signs: its small steps quickly, the whole of it in minutes."""

import shutil

import pytest
import torch
from entry import command, ended, only_run

from slr import commandline, composing, schema
from slr.errors import UserError
from slr.ladder import refuse_mixed
from slr.run import RunFolder, read_json, write_json

SMALL = ("experiment=demo", "dataset.signs=4", "dataset.signers=8")
STEPS = "rungs=chance,majority,zero_shot,zero_shot_prior,probe"


def test_small_steps_are_measured_once_and_told(workplace):
    words = ["-m", "slr.ladder", *SMALL, STEPS, f"outputs={workplace / 'ladder'}", f"data={workplace / 'data'}"]
    said = command(*words)
    [place] = (workplace / "ladder").glob("*/sweeps/ladder")
    run = only_run(workplace / "ladder")
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
    assert "it cannot be told from guessing" in said
    stamps = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    again = command(*words)
    assert again.strip().splitlines() == said[said.index("\n\n") :].strip().splitlines()
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()} == stamps, "nothing ran again"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rungs=lora,zero"], "rungs=zero: expected some of chance, majority"),
        (["frames=4,8"], "expected words of one run, found those of 2"),
    ],
)
def test_mistakes_cost_one_line(words, said):
    code, _, err = ended("-m", "slr.ladder", *SMALL, *words)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_the_rungs_of_drawn_signs_are_in_order(demo, workplace):
    """A step up is told from the one below by their intervals, but where nothing was learned."""
    names = "rungs=chance,zero_shot,probe,lora"
    words = [
        "-m",
        "slr.ladder",
        "experiment=demo",
        names,
        f"outputs={workplace / 'whole ladder'}",
        f"data={workplace / 'data'}",
    ]
    shutil.copytree(demo[0], workplace / "whole ladder" / "synthetic-tiny" / "alone")
    said = command(*words)
    [place] = (workplace / "whole ladder").glob("*/sweeps/ladder")
    rows = read_json(place / "ladder.json")["rows"]
    runs = [path.parent for path in (workplace / "whole ladder").rglob("result.json")]
    assert len(runs) == 2, "the demo was not trained anew"
    by_scope = {read_json(run / "config.json")["lora"]["scope"]: read_json(run / "result.json")["test"] for run in runs}
    low, high = by_scope["none"]["top1_interval"]
    assert low <= rows["chance"]["top1"] <= high, "nobody taught the base model these signs"
    assert rows["probe"]["top1_interval"][0] > high
    assert by_scope["language"]["top1_interval"][0] > rows["probe"]["top1_interval"][1]
    assert said.index("base model, no training") < said.index("linear probe") < said.index("LoRA")


def test_all_language_weights_learn_and_nothing_else():
    from slr.model import lora, vlm

    model = vlm.load_vlm("tiny", None, "pretrained", "none", torch.bfloat16, "cpu", 0)
    trained = lora.add_lora(model, "full", 1, 1, 0.0, [])
    assert trained is model
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("language_model.layers." in name), name
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name
    state = lora.adapter_state(model)
    lora.load_adapter_state(model, {name: tensor + 1 for name, tensor in state.items()})
    assert all(torch.equal(tensor, state[name] + 1) for name, tensor in lora.adapter_state(model).items())


def test_rungs_of_two_versions_of_the_model_are_refused(tmp_path):
    composing.register()
    folders = {name: RunFolder(tmp_path / name) for name in ("zero_shot", "lora")}
    for commit, folder in zip("ab", folders.values(), strict=True):
        config = commandline.configurations(["experiment=demo"])[0]
        config.model.commit = commit * 40
        write_json(folder.config, schema.to_plain(config))
        write_json(folder.result, {"status": "done"})
    with pytest.raises(UserError, match=r"of one version.*zero_shot with a.*lora with b.*model\.revision"):
        refuse_mixed(folders)
    refuse_mixed({"zero_shot": folders["zero_shot"]})
