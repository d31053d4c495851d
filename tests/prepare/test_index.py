import json
import subprocess
import time
from collections import Counter

import pytest

from slr.core.errors import UserError
from slr.prepare.wlasl.index import (
    PUBLISHED,
    core_glossary,
    describe_glossary,
    describe_index,
    hashes,
    identical_segments,
    near_misses,
    read_index,
    select,
)

PARTS = ("train", "val", "test")


@pytest.fixture(scope="module")
def real(shared):
    return shared / "wlasl" / "index" / "WLASL_v0.3.json"


def row(name="1", **changes):
    plain = {"video_id": name, "split": "train", "bbox": [1, 2, 3, 4], "frame_start": 1, "frame_end": -1}
    return plain | {"url": "http://a.example/1.mp4", "source": "a", "signer_id": 3} | changes


def write(path, rows, gloss="hello"):
    path.write_text(json.dumps([{"gloss": gloss, "instances": rows}]))
    return path


@pytest.mark.parametrize(
    ("subset", "glosses", "counts"),
    [
        ("100", 100, (1_442, 338, 258)),
        ("300", 300, (3_549, 900, 668)),
        ("1000", 1_000, (8_974, 2_318, 1_876)),
        ("2000", 2_000, (14_289, 3_916, 2_878)),
        ("core", 282, (2_752, 700, 538)),
    ],
)
def test_subsets_of_the_real_index_have_their_known_counts(real, subset, glosses, counts):
    chosen = select(read_index(real, PUBLISHED), subset)
    parts = Counter(instance.part for instance in chosen)
    assert tuple(parts[part] for part in PARTS) == counts
    assert len({instance.gloss for instance in chosen}) == glosses


def test_the_real_index_holds_what_is_known_of_it(real):
    instances = read_index(real)
    assert len(instances) == len({instance.id for instance in instances}) == 21_083
    signers = [{i.signer for i in instances if i.part in parts} for parts in (PARTS, *[(part,) for part in PARTS])]
    assert [len(names) for names in signers] == [119, 117, 109, 105]
    groups = identical_segments(instances)
    assert (len(groups), sum(map(len, groups))) == (897, 1_978)
    assert sum(len({instance.gloss for instance in group}) > 1 for group in groups) == 804
    assert sum(len({instance.part for instance in group}) > 1 for group in groups) == 442
    assert sum((instance.first, instance.last) != (1, -1) for instance in instances) == 2_131
    per_gloss = Counter(instance.gloss for instance in instances).values()
    assert (min(per_gloss), max(per_gloss)) == (6, 40)


def test_subsets_are_those_of_the_authors(real):
    for subset in ("100", "300", "1000"):
        theirs = json.loads((real.parent / f"nslt_{subset}.json").read_text())
        ours = {instance.id: instance.part for instance in select(read_index(real), subset)}
        # The authors' files name a few ids that the index does not have.
        assert {name: value["subset"] for name, value in theirs.items() if name in ours} == ours
        assert len(theirs) - len(ours) == {"100": 0, "300": 1, "1000": 6}[subset]


def test_printing_the_real_index_is_quick(real):
    started = time.process_time()
    text = "\n".join(describe_index(read_index(real, PUBLISHED)) + describe_glossary(read_index(real)))
    assert time.process_time() - started < 10
    for words in (
        "train 1,442 / val 338 / test 258",
        "train 3,549 / val 900 / test 668",
        "train 8,974 / val 2,318 / test 1,876",
        "train 14,289 / val 3,916 / test 2,878",
        "897 groups of identical segments (1,978 instances), 804 of them across glosses, 442 across splits",
        "282 of 319 words are glosses, 37 are not",
    ):
        assert words in text


def test_the_core_glossary_is_the_one_that_was_given(shared):
    given = (shared / "glossary_core.txt").read_text().split()
    assert [word.upper() for word in core_glossary()] == given


def test_words_without_a_gloss_come_with_near_ones(real):
    near = near_misses({instance.gloss for instance in read_index(real)})
    assert len(near) == 37
    assert {"drive", "look at", "post", "surprise"} <= {gloss for glosses in near.values() for gloss in glosses}


def test_hashes_are_those_of_git_and_sha256(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"some content\n")
    git = subprocess.run(["git", "hash-object", str(path)], capture_output=True, text=True)
    assert hashes(path.read_bytes())[0] == git.stdout.strip()


def test_an_index_is_checked_by_hash(tmp_path):
    path = write(tmp_path / "index.json", [row()])
    for right in hashes(path.read_bytes()):
        assert read_index(path, right)[0].gloss == "hello"
    with pytest.raises(UserError, match="expected an index with the hash 6077") as refusal:
        read_index(path, PUBLISHED)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "..", "a/b", "a\\b", "", ".hidden", "c:x", "a b", 7, "x" * 65]
)
def test_ids_that_could_lead_out_of_a_folder_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="expected a video_id of letters"):
        read_index(write(tmp_path / "index.json", [row(name)]))


@pytest.mark.parametrize(
    "changes",
    [
        {"split": "dev"},
        {"frame_start": 0},
        {"frame_start": "1"},
        {"frame_end": -2},
        {"frame_start": 9, "frame_end": 8},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, 3, 4.5]},
        {"frame_start": True},
    ],
)
def test_impossible_rows_are_refused(tmp_path, changes):
    with pytest.raises(UserError, match=r"for 1, found|of four numbers"):
        read_index(write(tmp_path / "index.json", [row(**changes)]))


def test_what_is_no_index_is_refused(tmp_path):
    path = tmp_path / "index.json"
    for text in ("", "{", '{"a": 1}', "[]", '[{"gloss": "a"}]', '[{"gloss": "a", "instances": [{}]}]'):
        path.write_text(text)
        with pytest.raises(UserError):
            read_index(path)
    with pytest.raises(UserError, match="'1' more than once"):
        read_index(write(path, [row(), row()]))
    with pytest.raises(UserError, match="takes none"):
        select(read_index(write(path, [row()], "zyzzyva")), "core")
