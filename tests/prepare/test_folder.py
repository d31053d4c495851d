import functools
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from slr.core.errors import UserError
from slr.data.manifest import read_manifest, read_rejected
from slr.prepare import verify
from slr.prepare.decode.sandbox import Limits
from slr.prepare.encode import write_clip
from slr.prepare.folder import prepare_folder
from slr.prepare.verify import checked


@pytest.fixture
def world(tmp_path):
    """Four videos and a page with their labels, under a name that any shell passes and few programs like."""
    root = tmp_path / "it's a, world = ü"
    (root / "clips").mkdir(parents=True)
    for number, name in enumerate(["a", "b", "c", "d"]):
        frames = np.random.default_rng(number).integers(0, 256, (12, 48, 64, 3), dtype=np.uint8)
        write_clip(root / "clips" / f"{name}.mp4", frames, fps=30)
    (root / "clips" / "page.mp4").write_text("<html>" * 100)
    rows = [
        {"file": f"{name}.mp4", "gloss": gloss}
        for name, gloss in zip(["c", "page", "a", "b", "d"], "xyxyz", strict=True)
    ]
    rows[0] |= {"signer": 3, "split": "train", "prompt": "Which sign?"}
    (root / "labels.json").write_text(json.dumps(rows))
    return root


def prepare(world):
    return prepare_folder(world / "clips", world / "labels.json", world / "out", workers=2)


def snapshot(folder):
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_manifest_says_what_is_there(world, capsys):
    manifest = prepare(world)
    assert manifest == world / "out" / "manifest.jsonl"
    clips = read_manifest(manifest)
    assert [(clip.id, clip.gloss) for clip in clips] == [("c", "x"), ("a", "x"), ("b", "y"), ("d", "z")]
    assert (clips[0].signer, clips[0].official_part, clips[0].prompt) == ("3", "train", "Which sign?")
    for clip in clips:
        facts = checked(manifest.parent / clip.file)
        assert facts.frames == 10  # 12 frames at 30 a second
        assert (facts.frames, facts.fps, facts.width, facts.height, facts.sha256) == (
            clip.frames,
            clip.fps,
            clip.width,
            clip.height,
            clip.sha256,
        )
        assert clip.source_sha256 == hashlib.sha256((world / "clips" / clip.source).read_bytes()).hexdigest()
    (rejected,) = read_rejected(manifest.parent / "rejected.jsonl")
    assert (rejected.id, rejected.file, rejected.gloss, rejected.reason) == ("page", "page.mp4", "y", "page")
    said = capsys.readouterr()
    assert said.out == ""
    assert "cut " in said.err
    assert "4 done, 1 failed, 0 left" in said.err
    assert "5/5" in said.err
    assert "Rejected 1 of 5 videos (page 1)" in said.err
    assert sorted(path.name for path in (world / "out").iterdir()) == [
        ".lock",
        "clips",
        "manifest.jsonl",
        "rejected.jsonl",
        "source.json",
    ]


def test_a_current_folder_is_left_alone(world, capsys):
    prepare(world)
    before = snapshot(world / "out")
    capsys.readouterr()
    prepare(world)
    assert snapshot(world / "out") == before
    assert capsys.readouterr() == ("", "")


def test_only_what_changed_is_made_again(world):
    prepare(world)
    before = snapshot(world / "out")
    write_clip(world / "clips" / "a.mp4", np.zeros((20, 48, 64, 3), np.uint8))
    (world / "out" / "clips" / "b.mp4").unlink()
    clips = read_manifest(prepare(world))
    assert [(clip.id, clip.frames) for clip in clips] == [("c", 10), ("a", 20), ("b", 10), ("d", 10)]
    after = snapshot(world / "out")
    assert after["clips/b.mp4"][0] == before["clips/b.mp4"][0]
    assert [name for name in ("clips/c.mp4", "clips/d.mp4") if after[name] != before[name]] == []


def test_new_labels_need_no_new_clips_and_old_clips_go(world):
    prepare(world)
    before = snapshot(world / "out")
    rows = [{"file": "d.mp4", "gloss": "new"}, {"file": "a.mp4", "gloss": "x"}]
    (world / "labels.json").write_text(json.dumps(rows))
    assert [(clip.id, clip.gloss) for clip in read_manifest(prepare(world))] == [("d", "new"), ("a", "x")]
    after = snapshot(world / "out")
    assert sorted(name for name in after if name.startswith("clips/")) == ["clips/a.mp4", "clips/d.mp4"]
    assert after["clips/a.mp4"] == before["clips/a.mp4"]


def test_another_recipe_makes_every_clip_anew(world, monkeypatch):
    prepare(world)
    before = snapshot(world / "out" / "clips")
    monkeypatch.setattr("slr.prepare.records.VERSION", 0)
    prepare(world)
    after = snapshot(world / "out" / "clips")
    assert {name: content for name, (content, _) in after.items()} == {n: content for n, (content, _) in before.items()}
    assert all(after[name] != before[name] for name in before)


def test_a_lost_or_damaged_manifest_is_written_again(world):
    manifest = prepare(world)
    before = snapshot(world / "out")
    manifest.unlink()
    prepare(world)
    manifest.write_text(manifest.read_text()[:50])
    prepare(world)
    assert {name: content for name, (content, _) in snapshot(world / "out").items()} == {
        name: content for name, (content, _) in before.items()
    }


def test_an_interrupted_preparation_goes_on_where_it_was(world, monkeypatch):
    import slr.prepare.records as records

    honest = records.prepare_clips

    def interrupted(jobs, workers):
        for count, pair in enumerate(honest(jobs, workers)):
            if count == 2:
                raise KeyboardInterrupt
            yield pair

    monkeypatch.setattr(records, "prepare_clips", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(world)
    assert not (world / "out" / "manifest.jsonl").exists()
    asked = []

    def counted(jobs, workers):
        asked.extend(jobs)
        return honest(jobs, workers)

    monkeypatch.setattr(records, "prepare_clips", counted)
    assert len(read_manifest(prepare(world))) == 4
    assert len(asked) == 3


def test_two_preparations_of_one_folder_take_turns(world):
    code = "import sys, pathlib\nfrom slr.prepare.folder import prepare_folder\n"
    code += "root = pathlib.Path(sys.argv[1])\nprepare_folder(root / 'clips', root / 'labels.json', root / 'out', 1)"
    both = [subprocess.Popen([sys.executable, "-c", code, str(world)], stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum(b"verify" in text for text in said) == 1
    assert len(read_manifest(world / "out" / "manifest.jsonl")) == 4


def test_a_preparation_that_begins_while_another_one_looks_is_not_foreign(world, monkeypatch):
    import slr.prepare.ledger as ledger

    honest, looks = ledger.read_ledger, []

    def overtaken(path):
        looks.append(None)
        if len(looks) == 1:
            prepare(world)  # by another process, between this one's look at the folder and its look at the ledger
        return honest(path)

    monkeypatch.setattr(ledger, "read_ledger", overtaken)
    manifest = prepare(world)
    assert len(read_manifest(manifest)) == 4


@pytest.mark.parametrize("error", ["OSError", "ImportError"])
def test_a_reader_that_does_not_load_is_not_the_fault_of_the_videos(world, monkeypatch, error):
    """As while the environment is being installed: once it is whole, the same command goes on."""
    (world / "site").mkdir()
    (world / "site" / "decord.py").write_text(f"raise {error}('libavformat.so: cannot open shared object file')")
    with monkeypatch.context() as broken:
        broken.setattr(sys, "path", [str(world / "site"), *sys.path])
        refused(world, ["libavformat.so", "run the same command again"])
    assert not (world / "out" / "rejected.jsonl").exists()
    before = snapshot(world / "out" / "clips")
    assert len(read_manifest(prepare(world))) == 4
    assert snapshot(world / "out" / "clips") == before


def refused(world, words):
    with pytest.raises(UserError) as refusal:
        prepare(world)
    assert "\n" not in str(refusal.value)
    for word in words:
        assert word in str(refusal.value)


def test_a_missing_video_is_refused_before_anything_is_written(world):
    (world / "clips" / "b.mp4").unlink()
    refused(world, ["1 of 5 missing", "b.mp4"])
    assert not (world / "out").exists()


def test_no_foreign_folder_is_taken(world):
    (world / "out").mkdir()
    (world / "out" / "thesis.txt").write_text("mine")
    before = snapshot(world / "out")
    refused(world, ["thesis.txt"])
    (world / "out" / "source.json").write_text('{"dataset": "synthetic"}')
    refused(world, ["found another"])
    (world / "out" / "source.json").write_text("{")
    refused(world, ["delete it or choose another"])
    (world / "out" / "source.json").unlink()
    assert snapshot(world / "out") == before


def test_sources_are_not_overwritten(world):
    before = snapshot(world)
    with pytest.raises(UserError, match="outside"):
        prepare_folder(world / "clips", world / "labels.json", world, workers=1)
    assert snapshot(world) == before


def test_no_clip_at_all_is_refused_each_time(world):
    for path in (world / "clips").iterdir():
        path.write_text("<html>" * 100)
    refused(world, ["5 files, found none", "rejected.jsonl"])
    refused(world, ["5 files, found none", "rejected.jsonl"])
    assert len(read_rejected(world / "out" / "rejected.jsonl")) == 5


@pytest.mark.skipif(os.name != "posix", reason="needs a system that limits processor time")
def test_a_video_that_runs_into_a_limit_is_rejected(world, monkeypatch):
    """Of processor time: by the clock the small videos too would take long beside other work."""
    noise = np.random.default_rng(0).integers(0, 256, (10, 360, 640, 3), dtype=np.uint8)
    write_clip(world / "clips" / "a.mp4", (noise[number % 10] for number in range(500)), preset="ultrafast")
    limited = functools.partial(verify.prepare_clips, limits=Limits(cpu=1))
    monkeypatch.setattr("slr.prepare.records.prepare_clips", limited)
    manifest = prepare(world)
    assert {clip.id for clip in read_manifest(manifest)} == {"b", "c", "d"}
    rejected = read_rejected(manifest.parent / "rejected.jsonl")
    assert ("a", "timeout") in [(row.id, row.reason) for row in rejected]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user who may not write everywhere")
def test_a_place_that_cannot_be_written_is_one_line(world):
    (world / "out").mkdir(mode=0o500)
    refused(world, ["out"])
