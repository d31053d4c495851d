"""The ladder on drawn signs: its small steps quickly, the whole of it in minutes."""

import shutil

import pytest
from entry import command

from slr.core.files import read_json

SMALL = ("experiment=demo", "dataset.signs=4", "dataset.signers=8")
STEPS = "rungs=chance,majority,zero_shot,zero_shot_prior,probe"


def test_small_steps_are_measured_once_and_told(workplace):
    words = ["-m", "slr.ladder", *SMALL, STEPS, f"outputs={workplace / 'ladder'}", f"data={workplace / 'data'}"]
    said = command(*words)
    [place] = (workplace / "ladder").glob("*/sweeps/ladder")
    for title in ("chance", "commonest gloss", "base model, no training", "its prior taken out", "linear probe"):
        assert title in said
    assert "it cannot be told from guessing" in said
    stamps = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    again = command(*words)
    assert again.strip().splitlines() == said[said.index("\n\n") :].strip().splitlines()
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()} == stamps, "nothing ran again"


@pytest.mark.slow
def test_the_rungs_of_drawn_signs_are_in_order(trained, workplace):
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
    shutil.copytree(trained[0], workplace / "whole ladder" / "synthetic-tiny" / "alone")
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
