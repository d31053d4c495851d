import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from slr.data.duplicates.groups import identical_files, identical_segments, joined, sharing
from slr.data.manifest import Clip


def clip(name: str, source: str, segment: str | None = None, prepared: str | None = None) -> Clip:
    prepared = prepared or f"prepared {name}"
    return Clip(name, f"clips/{name}.mp4", "g", 9, 25.0, 8, 8, prepared, "", source, None, None, None, segment)


@pytest.mark.parametrize("seed", range(20))
def test_joined_are_the_connected_components(seed):
    rng = np.random.default_rng(seed)
    names = [f"n{number}" for number in range(60)]
    links = [rng.choice(60, size=rng.integers(1, 4)).tolist() for _ in range(25)]
    rows, columns = zip(*[(link[0], other) for link in links for other in link], strict=True)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(60, 60))
    _, label = connected_components(graph, directed=False)
    expected = {frozenset(np.flatnonzero(label == number).tolist()) for number in label.tolist()}
    found = joined(names, [[names[number] for number in link] for link in links])
    assert sum(map(len, found)) == 60
    assert {frozenset(int(name[1:]) for name in group) for group in found} == expected
    # Groups and members come in the order of the ids.
    assert [names.index(group[0]) for group in found] == sorted(names.index(group[0]) for group in found)


def test_links_to_strangers_are_an_error():
    with pytest.raises(KeyError):
        joined(["a"], [("a", "b")])


def test_sharing_needs_a_label_and_two_who_bear_it():
    assert sharing([("a", None), ("b", None), ("c", "x")]) == []
    assert sharing([("a", "x"), ("b", "y"), ("c", "x"), ("d", "y")]) == [["a", "c"], ["b", "d"]]


def test_identical_files_are_of_the_same_source_and_stretch_or_of_the_same_bytes():
    clips = [
        clip("a", "file 1"),
        clip("b", "file 1"),
        clip("c", "long file", "http://x/1#1-50"),
        clip("d", "long file", "http://x/1#51-90"),  # another stretch of the same recording is no copy
        clip("e", "long file", "http://y/1#51-90"),  # the same bytes at another address are
        clip("f", "file 2", prepared="same"),
        clip("g", "file 3", prepared="same"),
        clip("h", "file 4"),
    ]
    assert identical_files(clips) == [["a", "b"], ["d", "e"], ["f", "g"]]


def test_identical_segments_are_those_that_the_data_set_names():
    clips = [clip("a", "1", "s"), clip("b", "2", "s"), clip("c", "3", "t"), clip("d", "4"), clip("e", "5")]
    assert identical_segments(clips) == [["a", "b"]]
