"""An exported recognizer ranks as the run did, on a machine that has neither the run nor its data."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from entry import ROOT, output_of

import slr
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.export import export
from slr.predict.bundle import read_exported

CLIPS = 4


@pytest.fixture(scope="module")
def run(demo, tmp_path_factory):
    """A copy of the demo's run, whose words say that it may be exported into its own folder."""
    copy = tmp_path_factory.mktemp("to export") / "run"
    shutil.copytree(demo, copy)
    return copy


@pytest.fixture(scope="module")
def adapter(run):
    """An exported adapter and what was printed."""
    printed = output_of("-m", "slr.export", f"run={run}", f"clips={CLIPS}")
    return run / "export" / "adapter", printed


@pytest.fixture(scope="module")
def brought(run, tmp_path_factory):
    """Two clips of the test part as somebody's files, with the run's own rankings of them."""
    predictions = read_json(run / "evaluation" / "evaluation_results.json")["predictions"][:2]
    folder = tmp_path_factory.mktemp("brought")
    config = read_json(run / "config.json")
    place = next(Path(config["data"]).glob("synthetic/*/clips"))
    for one in predictions:
        shutil.copy(place / f"{one['clip']}.mp4", folder)
    return folder, predictions


def test_what_is_exported_says_nothing_of_this_machine(run, adapter):
    text = "".join(file.read_text(encoding="utf-8") for file in adapter[0].rglob("*.json"))
    text += (adapter[0] / "README.md").read_text(encoding="utf-8")
    config = read_json(run / "config.json")
    for place in (str(run.parent), str(ROOT), config["data"], config["outputs"]):
        assert place not in text
    assert not any(file.suffix in (".ckpt", ".pt", ".bin", ".mp4") for file in adapter[0].rglob("*"))


def test_the_card_tells_figures_split_terms_and_limits(run, adapter):
    card = (adapter[0] / "README.md").read_text(encoding="utf-8")
    result = read_json(run / "result.json")
    test = result["test"]
    low, high = test["top1_interval"]
    assert f"| top-1 | {test['top1']:.3f} | {low:.3f} – {high:.3f} | 0.062 | {test['n']} |" in card
    assert result["hashes"]["split"] in card
    for word in ("MIT licence", "adapter on NF4", "Isolated signs", 'library_name: "peft"', "signer, hash"):
        assert word in card


def test_the_parity_is_that_of_rankings_made_otherwise(run, adapter):
    """Against transformers' merged model as it lies in the export, and the run's own numbers."""
    printed = adapter[1]
    told = read_json(adapter[0] / "slr.json")["parity"]
    assert [row["form"] for row in told["rows"]] == list(export.FORMS)
    assert (told["part"], told["n"]) == ("test", CLIPS)
    for row in told["rows"]:
        assert f"{row['agreement']:.1%}" in printed
    one, other = (
        np.log(np.array([[0.5, 0.2], [0.1, 0.4]], np.float32)),
        np.log(np.array([[0.4, 0.2], [0.3, 0.1]], np.float32)),
    )
    row = export.parity_row("x", one, other)
    assert row["agreement"] == 0.5
    assert row["largest"] == pytest.approx(np.log(4), rel=1e-5)


def test_merged_weights_need_no_base_and_rank_as_the_parity_says(run, brought):
    folder, printed = export.export(run, "merged", run / "export" / "merged", CLIPS)
    from transformers import InternVLForConditionalGeneration

    plain = InternVLForConditionalGeneration.from_pretrained(folder, dtype="auto")
    assert {tensor.dtype for tensor in plain.state_dict().values()} == {torch.bfloat16}
    assert not any("lora" in name for name in plain.state_dict())
    assert "adapter" not in [file.name for file in folder.iterdir()]
    row = next(row for row in printed["rows"] if row["form"] == "merged bf16")
    assert row["agreement"] >= 0.75
    place, predictions = brought
    recognizer = slr.load(folder, device="cpu")
    for one in predictions:
        ranked = recognizer.rank(place / f"{one['clip']}.mp4", top=99)
        truth = {entry["gloss"]: entry["log_probability"] for entry in one["ranking"]}
        assert set(truth) == {gloss for gloss, _ in ranked}
        if ranked[0][1] > 0.9:
            assert ranked[0][0] == max(truth, key=truth.get)


def test_exporting_again_replaces_an_export_and_nothing_else(run, adapter, tmp_path):
    occupied = tmp_path / "mine"
    occupied.mkdir()
    (occupied / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="expected a new folder or an earlier export"):
        export.export(run, "adapter", occupied, CLIPS)
    assert (occupied / "thesis.tex").read_text() == "years of work"
    told = read_exported(adapter[0])
    write_json(adapter[0] / "slr.json", {"format": 0})
    with pytest.raises(UserError, match="of format 1"):
        slr.load(adapter[0])
    with pytest.raises(UserError, match="expected the folder of a run"):
        slr.load(tmp_path)
    export.write_exported(told, {})


@pytest.mark.parametrize(("status", "scope", "said"), [("running", None, "killed"), ("done", "none", "lora=none")])
def test_what_cannot_be_exported_is_refused_before_anything_is_written(run, tmp_path, status, scope, said):
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("config.json", "result.json", "vocabulary.json", "split.json"):
        shutil.copy(run / name, copy)
    write_json(copy / "result.json", read_json(copy / "result.json") | {"status": status})
    if scope:
        config = read_json(copy / "config.json")
        config["lora"] |= {"scope": scope, "targets": []}
        write_json(copy / "config.json", config)
    with pytest.raises(UserError, match=said):
        export.export(copy, "adapter", tmp_path / "to", CLIPS)
    assert not (tmp_path / "to").exists()


def test_a_push_uploads_that_folder_privately_and_only_when_asked(monkeypatch, tmp_path):
    from huggingface_hub import HfApi

    calls = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **words: calls.append((name, words)))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **words: calls.append(words) or "https://hub/x")
    assert export.push(tmp_path, "me/signs") == "https://hub/x"
    assert calls == [
        ("me/signs", {"private": True, "exist_ok": True}),
        {"repo_id": "me/signs", "folder_path": tmp_path},
    ]

    def refuses(self, name, **words):
        raise OSError("403 Forbidden\nmore")

    monkeypatch.setattr(HfApi, "create_repo", refuses)
    with pytest.raises(UserError, match=r"found 403 Forbidden; may HF_TOKEN write"):
        export.push(tmp_path, "me/signs")
