"""DirectML's way, on a stand-in with its operators (tests/standin); and what each hardware=… gives, combined."""

import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from entry import ROOT, SMALL, ended, only_run

from slr import factory
from slr.config.saved_run import open_run
from slr.core.files import read_json
from slr.predict import recognizer

STANDIN = ROOT / "tests" / "standin"
# What tensors of the processor's may meet: being made, looked at otherwise, and sent; nothing that computes.
MADE = {"aten.lift_fresh.default", "aten.empty.memory_format", "aten.set_.source_Storage"}
SEEN = {"aten.detach.default", "aten.permute.default"}
SENT = {"aten._to_copy.default", "aten.copy_.default"}


@pytest.fixture
def there(standin, monkeypatch):
    """Processes that start now have torch-directml."""
    for key, value in standin.items():
        monkeypatch.setenv(key, value)
    return monkeypatch


def trained(workplace, name, *words, program="train.py"):
    """A run of the small demo: its folder and all that it said."""
    place = [f"outputs={workplace / name}", f"data={workplace / 'data'}"]
    code, out, err = ended(program, *SMALL, "epochs=1", *place, *words)
    assert code == 0, err[-3000:]
    return only_run(workplace / name), out


def rankings(results):
    """Clip -> gloss -> its log-probability."""
    answers = {one["clip"]: one["ranking"] for one in results["predictions"]}
    return {clip: {row["gloss"]: row["log_probability"] for row in rows} for clip, rows in answers.items()}


@pytest.mark.slow
def test_a_demo_on_the_standin_computes_there_and_as_the_cpu_does(there, workplace):
    there.setenv("WATCHED", str(workplace / "watched.json"))
    run, said = trained(workplace, "directml", "hardware=directml", program=STANDIN / "watched.py")
    assert re.search(r"hardware: directml \(the stand-in\), 32-true, quantisation none.*directml cannot do it", said)
    assert re.search(r"leaves \d+ operators to the CPU.*aten::logaddexp.out", said)
    assert "_foreach" not in said

    rows = json.loads((workplace / "watched.json").read_text())
    computed = {"privateuseone": 0, "cpu": 0}
    strays = set()
    for operator, devices, count in rows:
        if devices in computed:
            computed[devices] += count
        if "cpu" in devices.split() and operator not in MADE | SEEN | SENT:
            strays.add((operator, devices))
    print(computed, strays)
    assert computed["privateuseone"] > 10_000
    assert strays == set()

    same = ["model.quantization=none", "hardware.micro_batch=1", "hardware.frames_at_once=16"]
    other, _ = trained(workplace, "beside", "hardware=cpu", *same)
    ours, theirs = (read_json(one / "evaluation" / "evaluation_results.json") for one in (run, other))
    for key in ("top1", "top5", "mrr"):
        assert ours["summary"][key] == theirs["summary"][key]
    by_clip, expected = rankings(ours), rankings(theirs)
    assert by_clip.keys() == expected.keys()
    for clip, row in expected.items():
        np.testing.assert_allclose([by_clip[clip][gloss] for gloss in row], list(row.values()), atol=1e-2)

    folder, config, vocabulary = open_run(run)
    assert config.model.quantization == "auto"  # what that was there holds here, where NF4 could be had
    clips = [clip for clip in factory.clips(config) if clip.id in {one["clip"] for one in ours["predictions"]}]
    with recognizer.assembled(folder, config, vocabulary, device="cpu") as ranker:  # whose state is read anywhere
        looked = ranker.look_clips(clips, "ranking")
    for clip, row in zip(clips, looked.log_probability, strict=True):
        np.testing.assert_allclose(row, [by_clip[clip.id][gloss] for gloss in vocabulary], atol=1e-2)


@pytest.mark.slow
def test_an_operator_that_is_missing_is_named_before_there_is_a_folder(there, workplace):
    there.setenv("STANDIN_LACKS", "aten::silu.out")
    place = [f"outputs={workplace / 'lacking'}", f"data={workplace / 'data'}"]
    code, _, err = ended("train.py", *SMALL, *place, "hardware=directml")
    assert code == 2
    assert "error: hardware=directml: aten::silu.out is missing there, and training needs it;" in err
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert not (workplace / "lacking").exists()


def absent(kind):
    return (kind == "cuda" and not torch.cuda.is_available()) or (
        kind == "mps" and not torch.backends.mps.is_available()
    )


@pytest.mark.slow
def test_every_combination_runs_a_step_as_asked_or_says_why_not(there):
    done = subprocess.run(
        [sys.executable, STANDIN / "matrix.py"], cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    hardware, scopes, objectives = ("auto", "cpu", "cuda", "directml", "mps"), ("language", "full", "none"), 2
    assert len(rows) == len(hardware) * len(scopes) * objectives * 3
    best = next(kind for kind in ("cuda", "mps", "directml") if not absent(kind))
    numbers = {}
    for row in rows:
        asked, scope, objective, quantization = row["words"]
        print(f"{' '.join(row['words']):42}", row.get("refused") or f"{row['devices'][0]}, {row['four_bit']} in 4 bits")
        kind = best if asked == "auto" else asked
        cannot = absent(kind) or (quantization == "nf4" and (scope == "full" or kind == "directml"))
        if cannot:
            assert "\n" not in row["refused"]
            assert ("model.quantization=nf4" if quantization == "nf4" else f"hardware={kind}") in row["refused"] or (
                absent(kind) and f"hardware={kind}" in row["refused"]
            )
            continue
        assert (row["kind"], row["devices"]) == (kind, [{"directml": "privateuseone"}.get(kind, kind)])
        four_bit = scope != "full" and kind != "directml" and quantization != "none"
        assert (row["four_bit"] > 0) == four_bit
        assert f"quantisation {'nf4' if four_bit else 'none'}," in row["said"]
        if quantization == "auto":
            assert f"quantisation {'auto is nf4' if four_bit else ''}" in row["said"]
            assert "because" in row["said"].partition(";")[2]
        assert (row["learns"] > 0) == (scope != "none")
        numbers[kind, scope, objective, four_bit] = row["numbers"]
    for scope, objective in itertools.product(scopes, ("token", "closed_set")):
        ours, theirs = (numbers[kind, scope, objective, False] for kind in ("directml", "cpu"))
        assert ours.keys() == theirs.keys()
        for what in ours:
            np.testing.assert_allclose(ours[what], theirs[what], rtol=1e-4)
