import csv
import json

import pytest

from slr.core.errors import UserError
from slr.prepare.labels import read_labels


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "it's, a = clips ü"
    (folder / "more").mkdir(parents=True)
    for name in ["a.mp4", "b c.MP4", "more/a.mp4", "Größe.mov"]:
        (folder / name).write_bytes(b"")
    return folder


def labels(tmp_path, content, name="labels.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_list_an_object_and_a_table_say_the_same(tmp_path, clips):
    rows = [
        {"file": "a.mp4", "gloss": "don't want", "signer": "7", "split": "val", "prompt": "Which, sign?"},
        {"file": "b c.MP4", "gloss": "hello", "signer": "", "split": "", "prompt": ""},
    ]
    table = tmp_path / "labels.csv"
    with table.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    semicolons = labels(
        tmp_path, "file;gloss;signer;split;prompt\na.mp4;don't want;7;val;Which, sign?\nb c.MP4;hello;;;\n", "b.csv"
    )
    listed = read_labels(labels(tmp_path, rows), clips)
    assert read_labels(table, clips) == read_labels(semicolons, clips) == listed
    named = read_labels(labels(tmp_path, {"a": rows[0], "b_c": rows[1]}), clips)
    assert named == listed
    assert [record.id for record in listed] == ["a", "b_c"]
    assert [record.file for record in listed] == [clips / "a.mp4", clips / "b c.MP4"]
    first, second = listed
    assert (first.gloss, first.signer, first.official_part, first.prompt) == ("don't want", "7", "val", "Which, sign?")
    assert (second.signer, second.official_part, second.prompt) == (None, None, None)


def test_the_original_systems_list_is_taken(tmp_path, clips):
    rows = [{"prompt": "?", "video_path": str(clips / name), "gloss": name} for name in ("a.mp4", "more/a.mp4")]
    assert [record.file for record in read_labels(labels(tmp_path, rows), clips)] == [
        clips / "a.mp4",
        clips / "more" / "a.mp4",
    ]


def test_numbers_are_names_and_spaces_are_stripped(tmp_path, clips):
    rows = {"x": {"file": "a.mp4", "gloss": " hello ", "signer_id": 0}, "y": {"file": "a.mp4", "gloss": 1}}
    records = read_labels(labels(tmp_path, rows), clips)
    assert [(record.gloss, record.signer) for record in records] == [("hello", "0"), ("1", None)]


def test_one_file_under_two_glosses_is_two_clips_with_ids_of_their_own(tmp_path, clips):
    files = ["a.mp4", "more/a.mp4", "a.mp4", "Größe.mov"]
    rows = [{"file": file, "gloss": str(number)} for number, file in enumerate(files)]
    assert [record.id for record in read_labels(labels(tmp_path, rows), clips)] == ["a", "a-2", "a-3", "Gr_e"]


@pytest.mark.parametrize("key", ["../../x", "/etc/passwd", "a/b", "a\\b", "..", "", "ü", "x" * 300, "nul\0", "A\n"])
def test_ids_are_file_names_anywhere(key, tmp_path, clips):
    rows = {
        key: {"file": "a.mp4", "gloss": "a"},
        "a": {"file": "a.mp4", "gloss": "b"},
        "A": {"file": "a.mp4", "gloss": "c"},
    }
    names = [record.id for record in read_labels(labels(tmp_path, rows), clips)]
    assert len({name.casefold() for name in names}) == 3
    for name in names:
        assert name.isascii()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
        assert not name.startswith(".")
        assert 0 < len(name) <= 110


GOOD = {"file": "a.mp4", "gloss": "b"}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([GOOD, {"file": "x.mp4", "gloss": "c"}, {"file": "y.mp4", "gloss": "d"}], ["2 of 3 missing", "x.mp4"]),
        ([GOOD, {"path": "a.mp4", "gloss": "c"}], ["file or video_path", "record 2", "path, gloss"]),
        ([GOOD, {"file": "a.mp4", "word": "c"}], ["gloss", "record 2", "file, word"]),
        ([GOOD, {"file": "a.mp4", "gloss": "  "}], ["gloss", "record 2", "None"]),
        ([GOOD, {"file": "a.mp4", "gloss": ["c"]}], ["text for gloss", "['c']"]),
        ([GOOD, {"file": "a.mp4", "gloss": "c", "split": "dev"}], ["train, val or test", "record 2", "'dev'"]),
        ([GOOD, GOOD], ["two glosses", "found 1 in 2 records"]),
        ([], ["two glosses", "found 0"]),
        ([GOOD, "a.mp4"], ["records", "str 'a.mp4' as number 2"]),
        ({"clips": [GOOD]}, ["records", "list"]),
        ("[{", ["JSON"]),
        ("word,video\nhello,a.mp4\n", ["file or video_path", "word, video"]),
        ("", ["two glosses", "found 0"]),
        ("file,gloss,prompt\na.mp4,hello,Which, then?\n", ["3 cells", "line 2"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(content, named, tmp_path, clips):
    path = labels(tmp_path, content)
    with pytest.raises(UserError) as refusal:
        read_labels(path, clips)
    for word in [*named, str(path)]:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_missing_labels_and_clips_are_named(tmp_path, clips):
    with pytest.raises(UserError, match=r"dataset\.labels"):
        read_labels(tmp_path / "absent.json", clips)
    with pytest.raises(UserError, match=r"dataset\.labels"):
        read_labels(tmp_path, clips)
    (tmp_path / "latin.csv").write_bytes(b"file,gloss\na.mp4,gr\xfc\xdfen\n")
    with pytest.raises(UserError, match="UTF-8"):
        read_labels(tmp_path / "latin.csv", clips)
    with pytest.raises(UserError, match=r"dataset\.clips"):
        read_labels(labels(tmp_path, [GOOD]), tmp_path / "absent")
