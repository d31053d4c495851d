"""What 4 bits cost on the demo, and whether adapters know in how many bits they learned."""

import dataclasses

import pytest
from entry import command, only_run

from slr import factory
from slr.config.saved_run import open_run
from slr.core.files import read_json
from slr.data.split import read_split
from slr.evaluation import evaluate
from slr.models import lora
from slr.predict import recognizer


def score(run):
    return read_json(run / "result.json")["test"]["top1"]


def elsewhere(run, quantization):
    """The test top-1 of a run's adapter on a model in other numbers, and the language layers' numbers."""
    folder, config, vocabulary = open_run(run)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, quantization=quantization))
    clips = factory.clips(config)
    split = read_split(folder.split, clips)
    with recognizer.assembled(folder, config, vocabulary) as ranker:
        numbers = {row.dtype for row in lora.census(ranker._model.network) if row.part == "language"}
        context = evaluate.context(config, clips, split, "test", "best", None)
        found = evaluate.score(ranker, split.select(clips, "test"), context)
    return found["summary"]["top1"], numbers


@pytest.mark.slow
def test_four_bits_learn_as_well_and_adapters_go_both_ways(trained, workplace):
    run, _ = trained
    place = [f"outputs={workplace / 'unquantised'}", f"data={workplace / 'data'}"]
    command("train.py", "experiment=demo", "model.quantization=none", *place)
    whole = only_run(workplace / "unquantised")
    print(f"test top-1: NF4 {score(run):.3f}, not quantised {score(whole):.3f}")
    assert abs(score(run) - score(whole)) <= 0.03

    moved, numbers = elsewhere(run, "none")
    assert numbers == {"float32"}
    back, packed = elsewhere(whole, "nf4")
    assert "nf4" in packed
    print(f"adapters exchanged: of NF4 on float32 {moved:.3f}, of float32 on NF4 {back:.3f}")
    assert abs(moved - score(run)) <= 0.03
    assert abs(back - score(whole)) <= 0.03
