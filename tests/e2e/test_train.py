"""The main job, end to end, as a person runs it: one trained demo for all tests of a session."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from entry import command, ended, only_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from slr.config.saved_run import open_run
from slr.core.files import read_json
from slr.data.manifest import read_manifest


def prepared(run: Path) -> Path:
    """The folder of the clips that a run was made from."""
    _, config, _ = open_run(run)
    return Path(config.data) / config.dataset.place


def summary(run: Path) -> dict:
    return read_json(run / "evaluation" / "evaluation_results.json")["summary"]


@pytest.mark.slow
def test_the_demo_learns_signs_of_people_it_has_never_seen(trained):
    run, printed = trained
    found = summary(run)
    assert found["top1"] >= 0.90
    assert found["n"] >= 150
    assert found["signers"] >= 8
    assert found["glosses"] >= 16
    assert all(
        word in printed for word in ("chance", "95 % interval", "top-1", str(found["n"]), f"{found['top1']:.3f}")
    )


@pytest.mark.slow
def test_no_signer_of_the_test_was_trained_on(trained):
    run, _ = trained
    parts = read_json(run / "split.json")["parts"]
    signers: dict[str, set] = {"train": set(), "val": set(), "test": set()}
    for clip in read_manifest(prepared(run) / "manifest.jsonl"):
        signers[parts[clip.id]].add(clip.signer)
    assert not signers["train"] & (signers["test"] | signers["val"])
    assert not signers["val"] & signers["test"]


@pytest.mark.slow
def test_another_process_evaluates_to_the_same_numbers(trained, workplace):
    run, _ = trained
    copy = workplace / "copied, a = ö's"
    shutil.copytree(run, copy)
    before = read_json(copy / "evaluation" / "evaluation_results.json")
    shutil.rmtree(copy / "evaluation")
    command("evaluate.py", f"run={copy}")
    assert read_json(copy / "evaluation" / "evaluation_results.json") == before


@pytest.mark.slow
def test_a_demo_knows_how_sure_to_be_of_people_it_has_never_seen_and_what_it_does_not_know(trained, workplace):
    """Fresh signers, half of the signs outside the vocabulary: calibration, abstention, and the free text beside."""
    run, _ = trained
    place = workplace / "strangers"
    words = ["dataset=synthetic", "dataset.signs=32", "dataset.signers=32", "dataset.seed=7", f"data={place}"]
    command("prepare_data.py", *words)
    [folder] = (place / "synthetic").iterdir()
    said = command("evaluate.py", f"run={run}", f"other={folder}", "report=no")
    results = read_json(run / "evaluation" / f"other-{folder.name}" / "evaluation_results.json")
    found, unknown = results["summary"], results["summary"]["unknown"]
    assert (found["n"], unknown["n"], unknown["glosses"]) == (512, 512, 16)
    assert results["calibration"]["ece"] <= 0.05
    assert len(results["calibration"]["bins"]) == 15
    assert unknown["abstained"] >= 0.8
    assert results["calibration"]["answered_here"] >= 0.9
    assert "glosses outside the vocabulary" in said


@pytest.mark.slow
def test_wlasls_official_protocol_ranks_all_glosses_and_says_how_few_clips_there_are(shared, workplace):
    place = workplace / "official"
    wlasl = ["dataset=wlasl", "dataset.subset=core", f"dataset.clips={shared / 'wlasl' / 'clips'}", f"data={place}"]
    index = f"dataset.index={shared / 'wlasl' / 'index' / 'WLASL_v0.3.json'}"
    command("prepare_data.py", *wlasl, index)
    said = command(
        "train.py", *wlasl, index, "split=official", "model=tiny", "lora=none", f"outputs={place / 'outputs'}"
    )
    run = only_run(place / "outputs")
    found = summary(run)
    listed = [
        one for one in json.loads((shared / "wlasl" / "clips.json").read_text()).values() if one["split"] == "test"
    ]
    assert found["glosses"] == 282
    assert found["chance"]["top1"] == pytest.approx(1 / 282)
    covered = found["coverage"]
    assert 0 < covered["clips"] == found["n"] <= len(listed)
    assert covered["of"] == "official test part"
    assert f"coverage: {covered['clips']} of {covered['listed']} clips listed for the official test part; top-1" in said
    code, _, err = ended("evaluate.py", f"run={run}")
    assert code == 2
    missing = (run / "evaluation" / "missing.txt").read_text().split()
    assert len(missing) == covered["missing"] == covered["listed"] - covered["clips"]
    [line] = err.splitlines()
    assert f"found {covered['clips']} of {covered['listed']} clips listed" in line
    assert missing[0] in line
    share = re.search(r"coverage=([\d.]+)$", line).group(1)
    command("evaluate.py", f"run={run}", f"coverage={share}", "report=no")


@pytest.mark.slow
def test_the_run_folder_holds_what_is_needed_and_not_the_base(trained):
    run, _ = trained
    for name in ("config.json", "split.json", "vocabulary.json", "result.json", ".hydra/overrides.yaml"):
        assert (run / name).is_file()
    for name in ("best", "last"):
        content = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert content["state_dict"]
        assert all("lora_" in key for key in content["state_dict"])
    result = read_json(run / "result.json")
    assert result["status"] == "done"
    assert result["test"] == summary(run)
    assert result["hashes"]["split"] == read_json(run / "split.json")["hash"]


@pytest.mark.slow
def test_tensorboard_shows_curves_settings_and_a_batch(trained):
    run, _ = trained
    events = EventAccumulator(str(run), size_guidance={"tensors": 0, "images": 0}).Reload()
    tags = events.Tags()
    assert {"train/loss", "train/lr", "val/loss", "val/top1", "val/mrr"} <= set(tags["scalars"])
    assert "train/batch" in tags["images"]  # others where the run was evaluated since
    assert "_hparams_/session_start_info" in events.summary_metadata
    losses = [event.value for event in events.Scalars("train/loss")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_a_sweep_runs_every_job(workplace):
    small = ["experiment=demo", "dataset.signs=4", "dataset.signers=8", "epochs=1", f"data={workplace / 'data'}"]
    command("train.py", "-m", *small, "frames=1", "lora.r=2,4", f"outputs={workplace / 'sweep'}", "sweep=grid")
    runs = sorted(path.parent for path in (workplace / "sweep").rglob("result.json"))
    assert len(runs) == 2
    assert {run.parent.name for run in runs} == {"grid"}
    settings = {(read_json(run / "config.json")["frames"], read_json(run / "config.json")["lora"]["r"]) for run in runs}
    assert settings == {(1, 2), (1, 4)}
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert all(set(run.name) <= allowed for run in runs)


def test_without_an_adapter_the_model_is_evaluated_as_it_is(workplace):
    words = ["experiment=demo", "lora=none", "dataset.signs=4", "dataset.signers=8"]
    command("train.py", *words, f"data={workplace / 'data'}", f"outputs={workplace / 'zero'}")
    run = only_run(workplace / "zero")
    assert summary(run)["n"] > 0
    assert not (run / "checkpoints").exists()
    before = (run / "evaluation" / "evaluation_results.json").read_text()
    command("evaluate.py", f"run={run}")
    assert (run / "evaluation" / "evaluation_results.json").read_text() == before


@pytest.mark.parametrize("cache", [pytest.param("frames", marks=pytest.mark.slow), "features"])
def test_caches_and_the_closed_set_objective_go_all_the_way(workplace, cache):
    """A second run finds everything in the cache, whatever its seed and its objective."""
    small = ["experiment=demo", "dataset.signs=4", "dataset.signers=8", "epochs=2", f"cache={cache}", "cache.views=2"]
    small += [f"data={workplace / cache}", f"outputs={workplace / f'{cache} runs'}"]
    command("train.py", *small, "objective=closed_set")
    [first] = (workplace / f"{cache} runs").rglob("result.json")
    [kept] = (workplace / cache / "cache").rglob("data.bin")
    before = kept.read_bytes()
    printed = command("train.py", *small, "seed=5")
    assert kept.read_bytes() == before
    assert "at the peak" in printed
    evaluation = first.parent / "evaluation" / "evaluation_results.json"
    numbers = evaluation.read_text()
    command("evaluate.py", f"run={first.parent}", "report=no")
    assert evaluation.read_text() == numbers
    events = EventAccumulator(str(first.parent), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["train/batch"]


@pytest.mark.slow
def test_real_clips_go_all_the_way(shared, real_clips, workplace):
    """156 clips of WLASL: every one in one part, byte-identical ones in the same; no accuracy is claimed."""
    clips, labels = shared / "wlasl" / "clips", shared / "wlasl" / "clips.json"
    words = [
        "dataset=folder",
        f"dataset.clips={clips}",
        f"dataset.labels={labels}",
        "model=tiny",
        "epochs=1",
        "frames=2",
    ]
    command("train.py", *words, f"data={workplace / 'data'}", f"outputs={workplace / 'real runs'}")
    run = only_run(workplace / "real runs")
    command("evaluate.py", f"run={run}", "part=all")
    results = read_json(run / "evaluation" / "evaluation_results.json")
    listed = json.loads(labels.read_text())
    assert Counter(row["clip"] for row in results["predictions"]) == Counter(list(listed))
    vocabulary = {row["gloss"] for row in listed.values()}
    assert all({row["gloss"] for row in p["ranking"]} == vocabulary for p in results["predictions"])
    parts = read_json(run / "split.json")["parts"]
    assert set(parts) == set(listed)
    by_content: dict[str, set] = {}
    for name, row in listed.items():
        by_content.setdefault(row["sha256"], set()).add(parts[name])
    assert len(by_content) < len(listed)
    assert all(len(sides) == 1 for sides in by_content.values())


def test_a_clip_that_is_no_video_is_listed_and_the_run_goes_on(demo, workplace):
    run = demo
    clips = read_manifest(prepared(run) / "manifest.jsonl")
    people = sorted({clip.signer for clip in clips})[:3]
    rows = [clip for clip in clips if clip.signer in people]
    folder = workplace / "with a bad one"
    folder.mkdir()
    for clip in rows:
        shutil.copy(prepared(run) / clip.file, folder)
    (folder / "bad.mp4").write_bytes(b"<html>gone</html>" * 100)
    labels = [{"video_path": f"{clip.id}.mp4", "gloss": clip.gloss} for clip in rows]
    labels.append({"video_path": "bad.mp4", "gloss": labels[0]["gloss"]})
    (folder / "labels.json").write_text(json.dumps(labels))
    words = ["dataset=folder", f"dataset.clips={folder}", f"dataset.labels={folder / 'labels.json'}", "model=tiny"]
    command("train.py", *words, "lora=none", f"data={workplace / 'bad'}", f"outputs={workplace / 'bad runs'}")
    rejected = next((workplace / "bad").rglob("rejected.jsonl")).read_text().splitlines()
    assert len(rejected) == 1
    assert json.loads(rejected[0])["file"] == "bad.mp4"
    assert json.loads(rejected[0])["reason"]
    assert set(read_json(only_run(workplace / "bad runs") / "split.json")["parts"]) == {clip.id for clip in rows}


@pytest.mark.slow
def test_another_seed_learns_too(trained, workplace):
    outputs = workplace / "seed 1"
    command("train.py", "experiment=demo", "seed=1", f"outputs={outputs}", f"data={workplace / 'data'}")
    assert summary(only_run(outputs))["top1"] >= 0.90


@pytest.mark.slow
def test_one_frame_does_not_tell_directions(trained, one_frame):
    run, _ = trained
    assert summary(one_frame)["top1"] <= summary(run)["top1"] - 0.25


@pytest.mark.slow
def test_permuted_labels_teach_nothing(trained, workplace):
    """Glosses shuffled among the training clips, right elsewhere: what the test then gives must be chance."""
    run, _ = trained
    clips, parts = read_manifest(prepared(run) / "manifest.jsonl"), read_json(run / "split.json")["parts"]
    training = [clip.gloss for clip in clips if parts[clip.id] == "train"]
    shuffled = iter(np.random.default_rng(0).permutation(training).tolist())
    rows = {
        clip.id: {
            "file": clip.file,
            "gloss": next(shuffled) if parts[clip.id] == "train" else clip.gloss,
            "signer": clip.signer,
        }
        for clip in clips
    }
    labels = workplace / "permuted.json"
    labels.write_text(json.dumps(rows))
    words = ["experiment=demo", "dataset=folder", f"dataset.clips={prepared(run)}", f"dataset.labels={labels}"]
    command("train.py", *words, f"outputs={workplace / 'permuted'}", f"data={workplace / 'permuted data'}")
    permuted = only_run(workplace / "permuted")
    assert read_json(permuted / "split.json")["parts"] == parts
    assert summary(permuted)["top1"] <= 3 / 16  # three times chance
