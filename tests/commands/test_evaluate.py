"""`evaluate.py` on a run that was trained once and is kept: its words, its refusals, its files."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from entry import output_of, refused
from scipy.special import softmax

from slr.config.saved_run import open_run
from slr.core.files import read_json, write_json
from slr.data.manifest import read_manifest, write_manifest
from slr.data.split import make_split, read_split, write_split


def prepared(run: Path) -> Path:
    """The folder of the clips that a run was made from."""
    _, config, _ = open_run(run)
    return Path(config.data) / config.dataset.place


def test_an_evaluation_of_other_things_than_the_runs_is_refused_with_both_hashes(demo, tmp_path):
    """Vocabulary, split and clips: each changed behind the run's back, one after the other."""
    copy = tmp_path / "tampered"
    shutil.copytree(demo, copy)
    known = read_json(demo / "result.json")["hashes"]
    vocabulary, split, config = (read_json(copy / f"{name}.json") for name in ("vocabulary", "split", "config"))

    def refusal() -> str:
        return refused("evaluate.py", f"run={copy}")

    write_json(copy / "vocabulary.json", vocabulary[::-1])
    assert re.search(
        rf"the vocabulary that the run.* hash {known['vocabulary'][:12]}, found another, hash \w{{12}};", refusal()
    )
    write_json(copy / "vocabulary.json", vocabulary)

    moved = dict(split["parts"]) | {next(name for name, part in split["parts"].items() if part == "test"): "train"}
    write_json(copy / "split.json", split | {"parts": moved})
    assert re.search(rf"other clips than.*\(hash {known['split'][:12]}, now \w{{12}}\)", refusal())
    own = read_split(demo / "split.json", clips := read_manifest(prepared(demo) / "manifest.jsonl"))
    other = make_split(clips, "signer", 1, {"train": 0.7, "val": 0.15, "test": 0.15})
    write_split(copy / "split.json", other)
    assert re.search(rf"the split that.* hash {own.hash[:12]}, found another, hash {other.hash[:12]};", refusal())
    write_json(copy / "split.json", split)

    place = tmp_path / "other data"
    clips[0] = dataclasses.replace(clips[0], gloss=clips[-1].gloss)
    write_json(copy / "config.json", config | {"data": str(place)})
    (place / prepared(demo).relative_to(config["data"])).mkdir(parents=True)
    write_manifest(prepared(copy) / "manifest.jsonl", clips)
    assert re.search(rf"other clips than.*\(hash {known['split'][:12]}, now \w{{12}}\)", refusal())


def test_limits_and_other_checkpoints(demo, tmp_path):
    copy = tmp_path / "limited"
    shutil.copytree(demo, copy)
    content = torch.load(copy / "checkpoints" / "best.ckpt", weights_only=True)
    content["state_dict"] = {name: 0 * tensor for name, tensor in content["state_dict"].items()}
    torch.save(content, copy / "zeroed.ckpt")
    rankings = []
    for checkpoint in ("best", copy / "zeroed.ckpt"):
        said = output_of("evaluate.py", f"run={copy}", "part=val", "limit=5", f"checkpoint={checkpoint}")
        results = read_json(copy / "evaluation" / "evaluation_results.json")
        about = results["summary"]
        assert (about["n"], about["part"], about["checkpoint"]) == (5, "val", str(checkpoint))
        assert f"{about['top1']:.3f}" in said
        assert said.splitlines()[-1].startswith(f"next: open {copy / 'evaluation' / 'report.html'}")
        rankings.append(results["predictions"])
    assert rankings[0] != rankings[1]
    assert (copy / "evaluation" / "report.html").is_file()


def test_load_ranks_a_clip_as_the_evaluation_did(demo, tmp_path):
    import slr

    prediction = read_json(demo / "evaluation" / "evaluation_results.json")["predictions"][3]
    recognizer = slr.load(demo)
    ranked = recognizer.rank(prepared(demo) / "clips" / f"{prediction['clip']}.mp4", top=99)
    assert [gloss for gloss, _ in ranked] == [row["gloss"] for row in prediction["ranking"]]
    logarithms = np.array([row["log_probability"] for row in prediction["ranking"]])
    expected = softmax(logarithms / recognizer.calibration.temperature)
    np.testing.assert_allclose([probability for _, probability in ranked], expected, atol=1e-5)

    brought = tmp_path / "somebody's, clip = ü.mp4"
    shutil.copy(prepared(demo) / "clips" / f"{prediction['clip']}.mp4", brought)
    assert recognizer.rank(brought, top=1)[0][0] == ranked[0][0]
    assert len(recognizer.rank(brought, top=3)) == 3


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT 0.21 with transformers 5.23
def test_anybody_can_load_the_adapter(demo):
    from peft import PeftModel

    from slr.models import internvl

    base = internvl.load_vlm("tiny", None, "pretrained", "none", torch.float32, "cpu", 0)
    adapted = PeftModel.from_pretrained(base, str(demo / "adapter"))
    best = torch.load(demo / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    own = dict(adapted.named_parameters())
    for name, tensor in best.items():
        assert torch.equal(own[name.removeprefix("network.")], tensor)
