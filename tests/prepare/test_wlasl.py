import json
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from entry import output_of, refused
from servers import Server

from slr.config import compose, jobs, overrides
from slr.core.errors import UserError
from slr.data.manifest import read_manifest, read_rejected
from slr.prepare.encode import write_clip
from slr.prepare.verify import checked
from slr.prepare.wlasl.download import FetchPolicy
from slr.prepare.wlasl.index import hashes
from slr.prepare.wlasl.prepare import STAGES, WlaslOptions, prepare_wlasl

ROOT = Path(__file__).resolve().parents[2]


def picture(number, size=(48, 64)):
    """Grey that tells its number."""
    return np.full((*size, 3), 20 + 5 * number, np.uint8)


def instance(name, address=None, part="train", **changes):
    row = {"video_id": name, "split": part, "bbox": [8, 8, 40, 48], "frame_start": 1, "frame_end": -1}
    return row | {"url": address or f"http://a.example/{name}.mp4", "source": "a", "signer_id": 3} | changes


@pytest.fixture
def world(tmp_path):
    """A folder of six videos, forty pictures each, and what is needed to prepare an index of them."""
    (tmp_path / "videos").mkdir()
    for name in "123456":
        frames = [picture(number) + int(name) for number in range(40)]
        write_clip(tmp_path / "videos" / f"{name}.mp4", frames)
    return tmp_path


def prepare(world, rows, stages=STAGES, **wish):
    glosses = {}
    for gloss, row in rows:
        glosses.setdefault(gloss, []).append(row)
    index = world / "index.json"
    index.write_text(json.dumps([{"gloss": gloss, "instances": group} for gloss, group in glosses.items()]))
    wish = WlaslOptions(**{"index": str(index), "clips": world / "videos", **wish})
    return prepare_wlasl(wish, world / "downloads", world / "out", 1, stages)


def rejections(world):
    return {row.id: row.reason for row in read_rejected(world / "out" / "rejected.jsonl")}


def test_the_kaggle_layout_is_taken_as_cut(world, capsys):
    rows = [("x", instance("1", frame_start=5, frame_end=30)), ("y", instance("2", part="val")), ("y", instance("9"))]
    clips = read_manifest(prepare(world, rows))
    assert [(clip.id, clip.gloss, clip.frames, clip.official_part) for clip in clips] == [
        ("1", "x", 40, "train"),
        ("2", "y", 40, "val"),
    ]
    assert clips[0].segment == "http://a.example/1.mp4#5-30"
    assert rejections(world) == {"9": "missing"}
    said = capsys.readouterr()
    assert "2 of 3 listed clips are in" in said.err
    assert "3 instances: train 2 / val 1 / test 0" in said.out
    assert "1 of 2 glosses without a train clip: y" in said.out


def test_ranges_are_cut_from_recordings(world):
    ranges = {"1": (5, 30), "2": (33, 42), "3": (41, 60), "4": (20, -1), "5": (36, -1), "6": (30, 60)}
    rows = [("xy"[int(name) % 2], instance(name, frame_start=a, frame_end=b)) for name, (a, b) in ranges.items()]
    clips = {clip.id: clip for clip in read_manifest(prepare(world, rows, local="source"))}
    # 33 to 42 lacks two pictures of ten and is kept; 30 to 60 lacks most; 36 to 40 are too few.
    assert {name: clip.frames for name, clip in clips.items()} == {"1": 26, "2": 8, "4": 21}
    assert rejections(world) == {"3": "range_past_end", "5": "too_short", "6": "range_past_end"}
    with av.open(str(world / "out" / clips["1"].file)) as container:
        shown = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    assert shown == pytest.approx([20 + 5 * number + 1 for number in range(4, 30)], abs=2)
    report = (world / "out" / "report.md").read_text()
    assert "1 clips end before their range does, by so many pictures: 2 by 2." in report


def test_signers_can_be_cut_out(world):
    (clip, *_) = read_manifest(prepare(world, [("x", instance("1")), ("y", instance("2"))], crop=0.0))
    assert (clip.width, clip.height) == (32, 40)


def test_links_are_refused(world):
    secret = world / "secret.mp4"
    (world / "videos" / "2.mp4").rename(secret)
    (world / "videos" / "2.mp4").symlink_to(secret)
    rows = [("x", instance("1")), ("y", instance("2"))]
    assert [clip.id for clip in read_manifest(prepare(world, rows))] == ["1"]
    assert rejections(world) == {"2": "symlink"}


def test_no_clip_is_written_through_a_link(world):
    (world / "elsewhere").mkdir()
    (world / "out").mkdir()
    (world / "out" / "clips").symlink_to(world / "elsewhere")
    with pytest.raises(UserError, match="found a link"):
        prepare(world, [("x", instance("1")), ("y", instance("2"))])
    assert list((world / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..\\x"])
def test_ids_cannot_lead_out(world, name):
    with pytest.raises(UserError, match="expected a video_id"):
        prepare(world, [("x", instance(name))])
    assert not (world / "out").exists()


def test_one_content_under_three_addresses_of_a_host_is_a_stub(world):
    for name in "2346":
        shutil.copy(world / "videos" / "1.mp4", world / "videos" / f"{name}.mp4")
    other = "http://b.example/"
    rows = [
        ("x", instance("1")),
        ("y", instance("2")),
        ("x", instance("3")),
        ("y", instance("4", other + "4")),  # a second host with this content, under one address
        ("x", instance("6", other + "4")),  # which has two glosses
        ("x", instance("5")),
    ]
    clips = read_manifest(prepare(world, rows))
    assert rejections(world) == {"1": "stub", "2": "stub", "3": "stub"}
    assert [clip.id for clip in clips] == ["6", "5", "4"]
    assert clips[0].segment == clips[2].segment
    assert clips[0].gloss != clips[2].gloss


def test_stages_one_by_one_give_what_all_at_once_give(world, capsys):
    rows = [("x", instance("1")), ("y", instance("2")), ("y", instance("7"))]
    whole = prepare(world, rows).parent
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    wanted = {path: (whole / path).read_bytes() for path in files if path.name != "source.json"}
    shutil.rmtree(whole)
    capsys.readouterr()
    prepare(world, rows, ["index"])
    prepare(world, rows, ["select"])
    assert not whole.exists()
    prepare(world, rows, ["cut"])
    assert len(list((whole / "clips").iterdir())) == 2
    assert not (whole / "manifest.jsonl").exists()
    for stage in ("verify", "manifest", "report"):
        prepare(world, rows, [stage])
    assert {path: (whole / path).read_bytes() for path in wanted} == wanted
    (whole / "manifest.jsonl").unlink()
    with pytest.raises(UserError, match="expected a manifest"):
        prepare(world, rows, ["report"])


def test_a_clip_that_does_not_read_back_is_none(world):
    rows = [("x", instance("1")), ("y", instance("2"))]
    prepare(world, rows, ["cut"])
    write_clip(world / "out" / "clips" / "1.mp4", [picture(number) for number in range(39)])
    assert [clip.id for clip in read_manifest(prepare(world, rows, ["verify", "manifest"]))] == ["2"]
    assert rejections(world) == {"1": "unverified"}


def test_the_original_list_of_corrupted_videos(world):
    (world / "videos" / "2.mp4").write_text("<html>" * 20)
    prepare(world, [("x", instance("1")), ("y", instance("2"))])
    (row,) = json.loads((world / "out" / "corrupted_videos.json").read_text())
    assert (row["video_path"], row["gloss"], row["reason"].partition(":")[0]) == ("2.mp4", "y", "page")


def test_refusals(world):
    with pytest.raises(UserError, match=r"none of the 2"):
        prepare(world, [("x", instance("8")), ("y", instance("9"))])
    with pytest.raises(UserError, match=r"set dataset\.clips"):
        prepare(world, [("x", instance("1"))], clips=world / "nowhere")
    with pytest.raises(UserError, match="expected an index with the hash"):
        prepare(world, [("x", instance("1"))], index_hash="0" * 40)
    with pytest.raises(UserError, match=r"expected WLASL_v0.3.json"):
        prepare(world, [("x", instance("1"))], index=str(world / "absent.json"))
    assert not (world / "out").exists()


def test_an_index_from_an_address_is_checked_by_hash_and_fetched_once(world):
    prepare(world, [("x", instance("1")), ("y", instance("2"))])
    content = (world / "index.json").read_bytes()
    polite = FetchPolicy(pause=0, attempts=1, allow_private=True)
    with Server("plain", {"/index.json": content}) as server:
        words = {"index": f"{server.address}/index.json", "clips": world / "videos", "policy": polite}
        for wanted in (None, "0" * 40):  # neither what is published nor what is asked for
            with pytest.raises(UserError, match="expected an index with the hash"):
                prepare_wlasl(WlaslOptions(**words, index_hash=wanted), world / "downloads", world / "out", 1)
        asked = len(server.asked)
        for _ in range(2):
            wish = WlaslOptions(**words, index_hash=hashes(content)[1])
            assert len(read_manifest(prepare_wlasl(wish, world / "downloads", world / "out", 1))) == 2
        assert len(server.asked) == asked + 1
    with pytest.raises(UserError, match=r"set dataset\.index to a copy"):
        prepare_wlasl(
            WlaslOptions(**words | {"index": f"{server.address}/other"}), world / "downloads", world / "out", 1
        )


def test_what_the_folder_lacks_comes_from_the_network(world):
    flash = world / "clip.swf"
    with av.open(str(flash), "w") as container:
        stream = container.add_stream("flv", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode(None))
    with Server("plain", {"/a.swf": flash.read_bytes()}) as server:
        address = f"{server.address}/a.swf"
        rows = [
            ("x", instance("1")),
            ("y", instance("8", address, frame_start=3, frame_end=14)),
            ("y", instance("9", address)),
            ("x", instance("7", "file:///etc/passwd")),
        ]
        polite = FetchPolicy(pause=0, attempts=1, allow_private=True)
        clips = read_manifest(prepare(world, rows, fetch=True, policy=polite))
        assert [(clip.id, clip.frames, clip.source) for clip in clips] == [
            ("1", 40, "1.mp4"),
            ("8", 12, address),
            ("9", 30, address),
        ]
        assert len(server.asked) == 1
    assert rejections(world) == {"7": "address"}
    assert [path.name.partition("-")[0] for path in (world / "downloads" / "files").iterdir()] == ["8"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("dataset.subset=50", "dataset.subset=50: expected one of 100, 300, 1000, 2000, core"),
        ("dataset.local=raw", "dataset.local=raw: expected one of cut, source"),
        ("dataset.crop=-1", "dataset.crop=-1"),
        ("dataset.per_host=0", "dataset.per_host=0: expected at least 1"),
        ("dataset.index_hash=abc", "dataset.index_hash=abc: expected a SHA-256"),
        ("dataset.fetch=maybe", "dataset.fetch=maybe: "),
    ],
)
def test_impossible_settings_are_one_line(word, message):
    compose.register()
    with pytest.raises(UserError) as refusal:
        jobs.configurations(["dataset=wlasl", word])
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_an_address_of_an_index_reaches_the_configuration_as_typed():
    compose.register()
    address = "https://example.org/WLASL_v0.3.json?a=1,2&b='x'"
    words = overrides.quote_paths(["dataset=wlasl", f"dataset.index={address}", "dataset.subset=100"])
    dataset = jobs.configurations(words)[0].dataset
    assert (dataset.index, dataset.subset, dataset.place) == (address, "100", "wlasl/100")


def test_the_command_as_it_is_typed(shared, tmp_path):
    """The index in full, a folder of four of its clips, in a place with an awkward name."""
    place = tmp_path / "it's a, world = ü"
    (place / "videos").mkdir(parents=True)
    listed = json.loads((shared / "wlasl" / "clips.json").read_text())
    for name in sorted(listed)[:4]:
        shutil.copy(shared / "wlasl" / "clips" / f"{name}.mp4", place / "videos")
    words = [f"dataset.index={shared / 'wlasl' / 'index' / 'WLASL_v0.3.json'}", f"dataset.clips={place / 'videos'}"]
    said = output_of("prepare_data.py", "dataset=wlasl", *words, f"data={place / 'data'}")
    clips = read_manifest(place / "data" / "wlasl" / "2000" / "manifest.jsonl")
    found = {clip.id: (clip.gloss, clip.signer, clip.official_part) for clip in clips}
    wanted = sorted(listed)[:4]
    assert found == {n: (listed[n]["gloss"], str(listed[n]["signer_id"]), listed[n]["split"]) for n in wanted}
    for clip in clips:
        assert checked(place / "data" / "wlasl" / "2000" / clip.file).frames == clip.frames
    here = [listed[name]["split"] for name in wanted]
    official = {"train": 14_289, "val": 3_916, "test": 2_878}
    counts = [f"{here.count(part)} of {total:,}" for part, total in official.items()]
    assert re.search(r"WLASL2000 +" + " +".join(counts), said)
    assert re.search(r"all +21,083 +4 +21,079 ", said)
    for part in official:
        glosses = {listed[name]["gloss"] for name in wanted if listed[name]["split"] == part}
        assert f"{2_000 - len(glosses):,} of 2,000 glosses without a {part} clip" in said
    report = (place / "data" / "wlasl" / "2000" / "report.md").read_text()
    assert len(re.findall(r"(?m)^\| [^|]+ \| \d+ \| \d+ \| \d+ \| [\d.]+ % \| \d+ \| \d+ \| \d+ \|$", report)) == 2_000
    assert len(read_rejected(place / "data" / "wlasl" / "2000" / "rejected.jsonl")) == 21_083 - 4


def test_mistyped_stages_are_one_line():
    assert "expected some of index, select, fetch" in refused("prepare_data.py", "dataset=wlasl", "stages=[fetsch]")
