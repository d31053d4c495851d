import pytest

from slr.core.errors import UserError
from slr.data.coverage import Coverage, conflicts, coverage, read_lost, vocabulary
from slr.data.manifest import Clip, Rejected, write_rejected


def clip(name, gloss, part=None, segment=None):
    return Clip(name, f"clips/{name}.mp4", gloss, 9, 25.0, 8, 8, "", "", "", None, part, None, segment)


def lost(name, gloss, part=None, segment=None):
    return Rejected(name, f"{name}.mp4", gloss, "missing", "", part, segment)


CLIPS = [clip("a", "eat", "test", "1#0-9"), clip("b", "room", "train"), clip("c", "run", "test", "2#0-9")]
LOST = [
    lost("d", "food", "test", "1#0-9"),
    lost("e", "box", "train"),
    lost("f", "meal", "val", "3"),
    lost("g", "food", "val", "3"),
]


@pytest.mark.parametrize(
    ("part", "there", "missing"),
    [("test", 2, ["d"]), ("train", 1, ["e"]), ("val", 0, ["f", "g"]), ("all", 3, list("defg"))],
)
def test_an_official_part_is_counted_by_what_the_data_set_lists(part, there, missing):
    found = coverage(CLIPS, LOST, "official", part)
    assert (found.clips, found.listed, found.missing) == (there, there + len(missing), missing)
    assert "official" in found.describe()


def test_parts_of_our_own_are_counted_by_the_whole_data_set():
    assert coverage(CLIPS, LOST, "signer", "test") == Coverage("data set", 3, 7, list("defg"))


def test_an_unknown_official_part_is_refused():
    with pytest.raises(UserError, match=r"official part of every listed clip, found none for 1, h first.*prepare_data"):
        coverage(CLIPS, [*LOST, lost("h", "x")], "official", "test")


def test_the_official_vocabulary_is_all_that_is_listed():
    assert vocabulary(CLIPS, LOST, "official") == ["box", "eat", "food", "meal", "room", "run"]
    assert vocabulary(CLIPS, LOST, "stratified") == ["eat", "room", "run"]


def test_glosses_of_one_stretch_of_video_conflict_also_through_others_and_where_clips_are_lost():
    assert conflicts([*CLIPS, *LOST]) == [["eat", "food", "meal"]]
    assert conflicts(CLIPS) == []


def test_what_was_lost_is_read_and_may_be_nothing(tmp_path):
    assert read_lost(tmp_path) == []
    write_rejected(tmp_path / "rejected.jsonl", LOST)
    assert read_lost(tmp_path) == LOST


def test_wlasls_index_has_the_conflicts_that_its_facts_page_counts(shared):
    from slr.prepare.wlasl.index import read_index, select

    listed = select(read_index(shared / "wlasl" / "index" / "WLASL_v0.3.json"), "core")
    rows = [lost(one.id, one.gloss, one.part, one.segment) for one in listed]
    found = conflicts(rows)
    together = {(one, other) for group in found for one in group for other in group if one < other}
    for pair in (("now", "today"), ("eat", "food"), ("before", "last"), ("box", "room")):
        assert pair in together, pair
