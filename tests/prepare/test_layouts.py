"""Published layouts, each as a small data set of drawn signers that the test lays out as its authors do."""

import csv
import json
import re
import shutil
from pathlib import Path

import av
import pytest
from entry import ROOT, called
from videos import number_of, numbered, write_video

from slr.config import compose, jobs, overrides
from slr.config.schema import LAYOUTS
from slr.core.errors import UserError
from slr.data.manifest import read_manifest, read_rejected
from slr.prepare import folder as reading
from slr.prepare.folder import prepare_folder, read_layout
from slr.prepare.layouts import lsa64
from slr.prepare.synthetic.prepare import prepare_synthetic


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Eight files by two drawn people."""
    folder = tmp_path_factory.mktemp("drawn")
    manifest = prepare_synthetic(folder, signs=4, signers=2, takes=1, seed=0, size=64, workers=2)
    return [folder / clip.file for clip in read_manifest(manifest)]


@pytest.fixture
def world(tmp_path):
    folder = tmp_path / "it's a, world = ü"
    folder.mkdir()
    return folder


def place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def write_csv(path: Path, rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def prepared(layout: str, world: Path, labels: Path | None = None, out: str = "out"):
    """Clips as (gloss, signer, part) by id, and rejections as (reason, gloss, part, segment)."""
    manifest = prepare_folder(world, labels, world.parent / out, workers=2, layout=layout)
    clips = {clip.id: (clip.gloss, clip.signer, clip.official_part) for clip in read_manifest(manifest)}
    rows = read_rejected(manifest.parent / "rejected.jsonl")
    return clips, {row.id: (row.reason, row.gloss, row.official_part, row.segment) for row in rows}


def refusal(layout: str, world: Path, labels: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        read_layout(layout, world, labels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lay_out_asl_citizen(world: Path, drawn: list[Path]) -> None:
    """Names of files that tell another gloss than the list, or none, as in the archive."""
    header = ["Participant ID", "Video file", "Gloss", "ASL-LEX Code"]
    rows = {
        "train": [["P1", "15-REMEMBER.mp4", "REMEMBER2", "C_02_014"], ["P2", "4.72e-7-seedSOUR.mp4", "SOUR ", "G_01"]],
        "val": [["P3", "16-SOUR.mp4", "SOUR", "G_01"]],
        "test": [["P4", "17-REMEMBER2.mp4", "REMEMBER2", "C_02_014"], ["P4", "18-BARK.mp4", "BARK2", "H_03"]],
    }
    for part, listed in rows.items():
        write_csv(world / "splits" / f"{part}.csv", [header, *listed])
    names = [row[1] for listed in rows.values() for row in listed]
    for source, name in zip(drawn, names[:-1], strict=False):
        place(source, world / "videos" / name)


CITIZEN = {
    "15-REMEMBER": ("REMEMBER2", "P1", "train"),
    "4.72e-7-seedSOUR": ("SOUR", "P2", "train"),
    "16-SOUR": ("SOUR", "P3", "val"),
    "17-REMEMBER2": ("REMEMBER2", "P4", "test"),
}


def test_asl_citizen_by_the_command_as_it_is_typed(world, drawn):
    lay_out_asl_citizen(world, drawn)
    words = ["dataset=folder", "dataset.layout=asl_citizen", f"dataset.clips={world}", f"data={world.parent / 'data'}"]
    code, _, err = called("prepare_data.py", *words)
    assert code == 0, err
    assert "Rejected 1 of 5 videos (missing 1)" in err
    [manifest] = (world.parent / "data").rglob("manifest.jsonl")
    clips = {clip.id: (clip.gloss, clip.signer, clip.official_part) for clip in read_manifest(manifest)}
    assert clips == CITIZEN
    [lost] = read_rejected(manifest.parent / "rejected.jsonl")
    assert (lost.id, lost.file, lost.reason) == ("18-BARK", "videos/18-BARK.mp4", "missing")
    assert (lost.gloss, lost.official_part, lost.segment) == ("BARK2", "test", None)


def test_lists_may_lie_elsewhere(world, drawn):
    lay_out_asl_citizen(world, drawn)
    elsewhere = world.parent / "lists"
    (world / "splits").rename(elsewhere)
    assert prepared("asl_citizen", world, elsewhere)[0] == CITIZEN
    assert "splits" in refusal("asl_citizen", world)
    assert "set dataset.labels" in refusal("asl_citizen", world)


def test_autsl(world, drawn):
    """Classes that share an English name stay two signs; depth videos are no clips."""
    names = [["ClassId", "TR", "EN"], ["0", "abla", "sister"], ["3", "afiyet_olsun", "enjoy_your_meal"]]
    write_csv(world / "SignList_ClassId_TR_EN.csv", [*names, ["175", "sen", "you"], ["182", "siz", "you"]])
    write_csv(world / "train_labels.csv", [["signer0_sample1", "175"], ["signer0_sample11", "182"]])
    write_csv(world / "validation_labels.csv", [["signer11_sample5", "3"], ["signer11_sample6", "0"]])
    write_csv(world / "test_labels.csv", [["signer34_sample1", "0"]])
    there = ["train/signer0_sample1", "train/signer0_sample11", "val/signer11_sample5", "test/signer34_sample1"]
    for source, name in zip(drawn, there, strict=False):
        place(source, world / f"{name}_color.mp4")
        (world / f"{name}_depth.mp4").write_text("not read")
    clips, lost = prepared("autsl", world)
    assert clips == {
        "signer0_sample1": ("you (sen)", "0", "train"),
        "signer0_sample11": ("you (siz)", "0", "train"),
        "signer11_sample5": ("enjoy your meal", "11", "val"),
        "signer34_sample1": ("sister", "34", "test"),
    }
    assert lost == {"signer11_sample6": ("missing", "sister", "val", None)}
    write_csv(world / "test_labels.csv", [["signer34_sample1", "226"]])
    assert "test_labels.csv, line 1, found 'signer34_sample1,226'" in refusal("autsl", world)
    place(drawn[0], world / "copy" / "signer0_sample1_color.mp4")
    assert "one file for signer0_sample1" in refusal("autsl", world)


def test_lsa64(world, drawn):
    names = ["002_001_001", "002_010_005", "008_001_003", "064_003_001"]
    for source, name in zip(drawn, names, strict=False):
        place(source, world / "all" / f"{name}.mp4")
    clips, lost = prepared("lsa64", world)
    assert clips == {
        "002_001_001": ("Red (2)", "001", None),
        "002_010_005": ("Red (2)", "010", None),
        "008_001_003": ("Red (8)", "001", None),
        "064_003_001": ("Find", "003", None),
    }
    assert len(lost) == 64 * 10 * 5 - 4
    assert lost["001_001_001"] == ("missing", "Opaque", None, None)
    assert len(lsa64.NAMES) == 64
    table = world / "names.md"
    table.write_text("".join(f"{number:02d}|sign {number}|R|\n" for number in range(1, 65)))
    assert prepared("lsa64", world, table)[0]["008_001_003"] == ("sign 8", "001", None)
    table.write_text("01|Opaco|R|\n")
    assert "found 1 such lines" in refusal("lsa64", world, table)


def lay_out_include(world: Path, drawn: list[Path]) -> None:
    """Some archives unpacked in folders of their own; one file name in two words; a word of two categories."""
    there = [
        "Adjectives_1of8/Adjectives/1. loud/MVI_5177.MOV",
        "Adjectives/2. quiet/MVI_5180.MOV",
        "Animals/1. Dog/MVI_8560.MP4",
        "Places/19. House/Extra/MVI_3439.MOV",
        "Greetings/51. Good Morning/MVI_9971.MOV",
        "Pronouns/44. it/MVI_9971.MOV",
        "Seasons_1of1/Seasons/Ex. Monsoon/MVI_4671.MOV",
        "Days_and_Time/Second (Number)/MVI_005_4 (2).MOV",
    ]
    for source, name in zip(drawn, there, strict=False):
        place(source, world / name)


def test_include_with_the_authors_three_lists(world, drawn):
    lay_out_include(world, drawn)
    lists = {
        "train": ["Adjectives/1. loud/MVI_5177.MOV", "Animals/1. Dog/MVI_8560.MOV", "Jobs/2. dog/MVI_1.MOV"],
        "val": ["Places/19. House/Extra/MVI_3439.MOV", "Adjectives/2. quiet/MVI_5180.MOV"],
        "test": ["Greetings/51. Good Morning/MVI_9971.MOV", "Pronouns/44. it/MVI_9971.MOV"],
    }
    lists["test"] += ["Seasons/Ex. Monsoon/MVI_4671.MOV", "Days_and_Time/Second (Number)/MVI_005_4 (2).MOV"]
    for part, paths in lists.items():
        (world / f"include_{part}.txt").write_text("\n".join(paths))
    clips, lost = prepared("include", world)
    assert clips == {
        "Adjectives_1._loud_MVI_5177": ("loud", None, "train"),
        "Animals_1._Dog_MVI_8560": ("dog", None, "train"),  # listed as .MOV, there as .MP4
        "Places_19._House_Extra_MVI_3439": ("house", None, "val"),
        "Adjectives_2._quiet_MVI_5180": ("quiet", None, "val"),
        "Greetings_51._Good_Morning_MVI_9971": ("good morning", None, "test"),
        "Pronouns_44._it_MVI_9971": ("it", None, "test"),
        "Seasons_Ex._Monsoon_MVI_4671": ("monsoon", None, "test"),
        "Days_and_Time_Second_Number__MVI_005_4_2": ("second (number)", None, "test"),
    }
    assert lost == {"Jobs_2._dog_MVI_1": ("missing", "dog", "train", None)}


def test_include_with_the_published_pair_and_without_lists(world, drawn):
    lay_out_include(world, drawn)
    without, _ = prepared("include", world)
    assert len(without) == 8
    assert {part for _, _, part in without.values()} == {None}
    assert "found neither" in refusal("include", world, world / "Animals")
    header = ["Category", "Word", "Video", "FilePath"]
    row = ["Animals", "1. Dog", "MVI_8560.MP4", "Animals/1. Dog/MVI_8560.MP4"]
    write_csv(world / "Train_Test_Split" / "train_include.csv", [header, row])
    row = ["Pronouns", "44. it", "MVI_9971.MOV", "Pronouns/44. it/MVI_9971.MOV"]
    write_csv(world / "Train_Test_Split" / "test_include.csv", [header, row])
    clips, lost = prepared("include", world)
    assert clips == {
        "Animals_1._Dog_MVI_8560": ("dog", None, "train"),
        "Pronouns_44._it_MVI_9971": ("it", None, "test"),
    }
    assert lost == {}


def entry(url: str, text: str, start: float, end: float, signer: int) -> dict:
    """One of MS-ASL's, with all of its fields."""
    unread = {"signer": -1, "file": "ASL", "label": 50, "height": 360.0, "width": 640.0, "fps": 30.0}
    unread |= {"org_text": text.upper(), "clean_text": f"{text}s", "box": [0.05, 0.29, 1.0, 0.69], "start": 0, "end": 9}
    return {"url": url, "text": text, "start_time": start, "end_time": end, "signer_id": signer, **unread}


def numbers_in(clip: Path) -> list[int]:
    with av.open(str(clip)) as container:
        return [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def test_ms_asl_ranges_are_cut_by_time(world):
    """A recording that shows the number of each picture, 25 a second: the range is read off the clip itself."""
    recording = [numbered(number) for number in range(120)]
    write_video(world / "mI0ROkSQ7ME.mp4", recording, [number / 25 for number in range(120)], rate=25)
    write_video(world / "Help, a sign [l31UXgChCS4].mkv", recording[:30], [n / 25 for n in range(30)], rate=25)
    for spot in (world / "one", world / "other"):  # as long as an id, and twice, but no list names it
        spot.mkdir()
        (spot / "my_video_01.mp4").write_text("no video")
    (world / "notes.txt").write_text("mI0ROkSQ7ME")
    whole = "https://www.youtube.com/watch?v=mI0ROkSQ7ME"
    lists = {
        "train": [
            entry(whole, "remember", 1.0, 1.6, 63),
            entry("www.youtube.com/watch?v=l31UXgChCS4", "help", 0, 1, 76),
        ],
        "val": [entry("https://youtu.be/mI0ROkSQ7ME", "know", 1.0, 1.6, 63)],
        "test": [
            entry(whole, "remember", 3.98, 4.4, 24),
            entry("www.youtube.com/watch?v=ri3NrdgfAtE", "absent", 0, 1, 1),
            entry(whole, "wink", 2.0, 2.0, 24),
        ],
    }
    for part, rows in lists.items():
        (world / f"MSASL_{part}.json").write_text(json.dumps(rows))
    clips, lost = prepared("ms_asl", world)
    assert clips == {
        "mI0ROkSQ7ME_26-40": ("remember", "63", "train"),
        "l31UXgChCS4_1-25": ("help", "76", "train"),
        "mI0ROkSQ7ME_26-40-2": ("know", "63", "val"),
        "mI0ROkSQ7ME_101-110": ("remember", "24", "test"),
    }
    absent = "https://www.youtube.com/watch?v=ri3NrdgfAtE#1-25"
    assert lost == {
        "ri3NrdgfAtE_1-25": ("missing", "absent", "test", absent),
        "mI0ROkSQ7ME_51-51": ("too_short", "wink", "test", f"{whole}#51-51"),
    }
    manifest = read_manifest(world.parent / "out" / "manifest.jsonl")
    # One stretch under two glosses says so, however its address is spelled.
    assert [clip.segment for clip in manifest] == [
        f"{whole}#26-40",
        "https://www.youtube.com/watch?v=l31UXgChCS4#1-25",
        f"{whole}#26-40",
        f"{whole}#101-110",
    ]
    shown = [numbers_in(world.parent / "out" / clip.file) for clip in manifest]
    assert shown == [list(range(25, 40)), list(range(25)), list(range(25, 40)), list(range(100, 110))]
    (world / "MSASL_val.json").write_text(json.dumps([entry(whole, "know", 2.0, 1.0, 63)]))
    assert "start_time before end_time in entry 1 of" in refusal("ms_asl", world)


def test_every_layout_has_its_reader_and_its_command_on_the_page():
    assert set(LAYOUTS) == {"labels", *reading.READERS}
    page = (ROOT / "docs" / "new_dataset.md").read_text(encoding="utf-8")
    compose.register()
    for layout in reading.READERS:
        [words] = re.findall(rf"`(dataset\.layout={layout} [^`]+)`", page)
        dataset = jobs.configurations(overrides.quote_paths(["dataset=folder", *words.split()]))[0].dataset
        assert (dataset.layout, dataset.labels) == (layout, None)
    for line in re.findall(r"(?m)^python (?:train|prepare_data)\.py (.*)$", page):
        assert jobs.configurations(overrides.quote_paths(line.split()))


@pytest.mark.parametrize("layout", sorted(reading.READERS))
def test_a_folder_without_the_data_set_is_one_line(layout, world):
    assert str(world) in refusal(layout, world)
    assert "set dataset.clips" in refusal(layout, world / "nowhere")


def test_what_is_still_packed_is_said_and_left_packed(world):
    write_csv(world / "SignList_ClassId_TR_EN.csv", [["ClassId", "TR", "EN"], ["0", "abla", "sister"]])
    for name in ("train", "validation", "test"):
        write_csv(world / f"{name}_labels.csv", [["signer0_sample1", "0"]])
    (world / "train_set_vfbha39.zip.001").write_bytes(b"PK")
    before = sorted(world.rglob("*"))
    assert "found none of 3; unpack train_set_vfbha39.zip.001" in refusal("autsl", world)
    assert sorted(world.rglob("*")) == before


def test_no_list_leads_out_of_the_data_set(world, drawn):
    lay_out_asl_citizen(world, drawn)
    place(drawn[0], world / "secret.mp4")
    (world / "videos" / "19-LINK.mp4").symlink_to(world / "secret.mp4")
    header = ["Participant ID", "Video file", "Gloss", "ASL-LEX Code"]
    rows = [["P4", name, "BARK2", "H_03"] for name in ("../secret.mp4", str(world / "secret.mp4"), "19-LINK.mp4")]
    write_csv(world / "splits" / "test.csv", [header, *rows])
    records, lost = read_layout("asl_citizen", world, None)
    assert [row.file for row in lost] == [f"videos/{row[1]}" for row in rows]
    assert {record.file.parent for record in records} == {world / "videos"}
