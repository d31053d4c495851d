"""What commit 4cc3ba9 has left ranks, goes on and compares as it did, on its own base: see `tests/fixtures/make.py`."""

import dataclasses
import importlib.metadata
import importlib.util
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from entry import ROOT, command, status
from safetensors.torch import load_file

import slr
from slr.commands import compare, evaluate, train, validate
from slr.config import compose, sweep_name
from slr.config import jobs as commandline
from slr.config.saved_run import find_run
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.core.run_folder import RunFolder
from slr.core.signals import Stopping
from slr.data.manifest import read_manifest
from slr.evaluation import baselines
from slr.export import export
from slr.models import hub
from slr.sweeps.runner import SweepJob, lay_out
from slr.training import loop, start

compose.register()
MADE = ROOT / "tests" / "fixtures" / "4cc3ba9"
HOW = read_json(MADE / "made.json")
ADAPTER = "adapter/adapter_model.safetensors"
TINY = hub.PACKAGED["tiny"]


def copied(name: str, to: Path) -> Path:
    """A copy of something made, whose runs find the clips."""
    shutil.copytree(MADE / name, to / name)
    for path in (to / name).rglob("config.json"):
        if "data" in (config := read_json(path)):
            write_json(path, config | {"data": str(MADE / "data"), "outputs": str(to)})
    return to / name


@pytest.fixture
def run(tmp_path) -> Path:
    return copied("run", tmp_path)


@pytest.fixture
def killed(tmp_path) -> Path:
    return copied("killed", tmp_path)


@pytest.mark.parametrize("name", ["run", "export"])
def test_the_run_and_its_export_rank_as_then(tmp_path, name):
    truth = {
        one["clip"]: one["ranking"] for one in read_json(MADE / "run/evaluation/evaluation_results.json")["predictions"]
    }
    [manifest] = (MADE / "data").rglob("manifest.jsonl")
    clips = [clip for clip in read_manifest(manifest) if clip.id in truth]
    with slr.load(copied(name, tmp_path), device="cpu") as recognizer:
        found = recognizer.look_clips(clips, "ranking", manifest.parent).log_probability
    then = [{row["gloss"]: row["log_probability"] for row in truth[clip.id]} for clip in clips]
    expected = np.array([[own[gloss] for gloss in recognizer.vocabulary] for own in then])
    assert found.shape == (len(truth), 4)
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_killed_run_goes_on_to_the_undisturbed_end(killed):
    train.resume([f"resume={killed}"])
    calm = MADE / "run"
    assert status(killed) == "done"
    best = [torch.load(one / "checkpoints/best.ckpt", weights_only=True)["global_step"] for one in (killed, calm)]
    last = torch.load(calm / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert best[0] == best[1] < last
    results = [read_json(one / "result.json") for one in (killed, calm)]
    assert results[0]["progress"]["step"] == results[1]["progress"]["step"] == last
    assert results[0]["val"]["top1"] == results[1]["val"]["top1"]
    versions = {name: importlib.metadata.version(name) for name in HOW["versions"]}
    if (versions, torch.backends.cpu.get_cpu_capability()) == (HOW["versions"], HOW["capability"]):
        assert (killed / ADAPTER).read_bytes() == (calm / ADAPTER).read_bytes()
    weights, expected = load_file(killed / ADAPTER), load_file(calm / ADAPTER)
    assert weights.keys() == expected.keys()
    assert all(torch.allclose(weights[name], expected[name], rtol=0, atol=1e-5) for name in expected)
    assert results[0]["hashes"]["base"] == hub.sha256(TINY / "model.safetensors")


def test_the_callbacks_states_are_found_in_the_checkpoint(tmp_path):
    states = torch.load(MADE / "killed/checkpoints/last.ckpt", weights_only=True)["callbacks"]
    config = find_run(MADE / "run")[1].early_stopping

    class Renamed(loop.CheckpointCallback):
        pass

    class RenamedToo(loop.Pruner):
        pass

    keeper = Renamed(tmp_path, "val/top1", 1.0, Stopping(), print)
    assert set(states) == {keeper.state_key, loop.early_stopping(config.monitor, config.patience).state_key}
    assert RenamedToo(lambda *_: False).state_key == "Pruner"  # which that run did not have


def test_run_and_sweep_are_compared(run, tmp_path, monkeypatch, capsys):
    sweep = copied("sweep", tmp_path)
    monkeypatch.setattr(sys, "argv", ["slr.compare", str(run), str(sweep), "by=seed", f"csv={tmp_path / 'rows.csv'}"])
    compare.main()
    said = capsys.readouterr().out
    assert "3 runs done" in said
    assert "group" not in said  # they stand on the same clips, parts and glosses
    assert "killed" in said
    runs, broken = compare.gather([run, sweep])
    assert not broken
    for one in runs:
        if one.status == "done":
            assert one.test["top1"].value == read_json(one.folder / "result.json")["test"]["top1"]


@pytest.mark.parametrize("same", [True, False])
def test_runs_of_different_bases_are_not_taken_for_alike(run, tmp_path, monkeypatch, capsys, same):
    """One of before, and one whose base was recorded: the packaged model of then, or another."""
    other = shutil.copytree(run, tmp_path / "other")
    told = read_json(other / "result.json")
    base = hub.sha256(TINY / "model.safetensors") if same else "0" * 64
    write_json(other / "result.json", told | {"hashes": told["hashes"] | {"base": base}})
    monkeypatch.setattr(sys, "argv", ["slr.compare", str(run), str(other), f"csv={tmp_path / 'rows.csv'}"])
    compare.main()
    assert ("different versions of the base model's weights" in capsys.readouterr().out) != same
    with nullcontext() if same else pytest.raises(UserError, match="expected rungs of one version"):
        baselines.refuse_mixed({"zero_shot": RunFolder(run), "lora": RunFolder(other)})


def test_the_same_command_finds_the_sweep_and_what_is_left_of_it(tmp_path):
    folder = copied("sweep", tmp_path)
    typed = ["-m", *HOW["sweep"], f"lora.r={','.join(HOW['ranks'])}"]
    [name] = [word.partition("=")[2] for word in sweep_name.named(typed) if word.startswith("sweep=")]
    jobs = [SweepJob(RunFolder(folder / name / f"lora.r-{rank}"), rank) for rank in HOW["ranks"]]
    for job, config in zip(jobs, commandline.configurations(typed), strict=True):
        lay_out(job.folder, config, [])  # refuses other settings
        job.look()
    assert [job.status for job in jobs] == ["done", "done", "killed"]


def test_an_export_made_today_records_the_base(run):
    folder, parity = export.export(run, "adapter", run / "export", 2)
    assert read_json(folder / "slr.json")["hashes"]["base"] == hub.sha256(TINY / "model.safetensors")
    own, *_ = parity["rows"]
    assert own["largest"] <= 1e-5


@pytest.mark.slow
def test_the_same_command_does_only_what_is_missing(tmp_path):
    folder = copied("sweep", tmp_path / "synthetic-tiny")
    folder.rename(folder.with_name("sweeps"))
    shutil.copytree(MADE / "data", tmp_path / "data")
    places = (f"outputs={tmp_path}", f"data={tmp_path / 'data'}")
    out = command("train.py", "-m", *HOW["sweep"], f"lora.r={','.join(HOW['ranks'])}", *places)
    jobs = sorted((tmp_path / "synthetic-tiny" / "sweeps").glob("*/*/result.json"))
    assert [status(job.parent) for job in jobs] == ["done"] * 3
    for job in jobs[:2]:
        [before] = (MADE / "sweep").glob(f"*/{job.parent.name}/result.json")
        assert job.read_bytes() == before.read_bytes()
    assert "3 done" in out or "[3/3]" in out


@pytest.fixture
def other_base(tmp_path, monkeypatch) -> Path:
    """The packaged model with another last number."""
    folder = tmp_path / "other"
    shutil.copytree(TINY, folder)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    monkeypatch.setitem(hub.PACKAGED, "tiny", folder)
    return folder


def evaluated(run: Path) -> None:
    evaluate.evaluate(evaluate.EvaluateArgs(run, report=False))


def begun_with(run: Path) -> None:
    """Where a run is asked for, and where it begins: its folder, whatever a command has checked."""
    config = dataclasses.replace(find_run(run)[1], init=str(run))
    with pytest.raises(UserError, match=r"^init="):
        validate.check_all([config])
    start.record_beginning(RunFolder(run.parent / "new"), config, [], None, [])


WAYS = {
    "load": ("run", slr.load),
    "evaluate": ("run", evaluated),
    "export": ("run", lambda run: export.export(run, "adapter", run.parent / "to", 4)),
    "load an export": ("export", slr.load),
    "resume": ("killed", lambda run: train.resume([f"resume={run}"])),
    "more epochs": ("run", lambda run: train.resume([f"resume={run}", "epochs=20"])),
    "init": ("run", begun_with),
}


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_another_base_is_refused_in_one_line(tmp_path, other_base, way, recorded):
    """What was made before base models were recorded is known by the weights that shipped then."""
    name, use = WAYS[way]
    path = copied(name, tmp_path)
    expected = hub.sha256(TINY / "model.safetensors")
    if recorded:
        expected = "0" * 64
        file = path / ("slr.json" if name == "export" else "result.json")
        told = read_json(file)
        write_json(file, told | {"hashes": told["hashes"] | {"base": expected}})
    before = [(file, file.read_bytes()) for file in sorted(path.rglob("*.json"))]
    found = hub.sha256(other_base / "model.safetensors")
    with pytest.raises(UserError, match=f"expected the base .*{expected[:12]}, found one of {found[:12]};") as refused:
        use(path)
    assert "\n" not in str(refused.value)
    assert all(file.read_bytes() == content for file, content in before)
    assert not (tmp_path / "new").exists()
