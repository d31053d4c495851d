"""Group clips that show one recording."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from slr.data.manifest import Clip

Link = Collection[str]  # ids of clips that show one recording


def joined(ids: Iterable[str], links: Iterable[Link]) -> list[list[str]]:
    """Every id in exactly one group; ids share a group where links join them, directly or through others (union-find).

    >>> joined("abcde", [("a", "c"), ("c", "e")])
    [['a', 'c', 'e'], ['b'], ['d']]
    """
    parent = {name: name for name in ids}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for first, *others in links:
        for other in others:
            parent[root(other)] = root(first)
    groups: dict[str, list[str]] = defaultdict(list)
    for name in parent:
        groups[root(name)].append(name)
    return list(groups.values())


def sharing(labels: Iterable[tuple[str, str | None]]) -> list[list[str]]:
    """The ids under each label, for labels of two ids and more; None is no label.

    >>> sharing([("a", "red"), ("b", None), ("c", "red"), ("d", "blue")])
    [['a', 'c']]
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name, label in labels:
        if label is not None:
            groups[label].append(name)
    return [group for group in groups.values() if len(group) > 1]


def identical_files(clips: Sequence[Clip]) -> list[list[str]]:
    """Groups of clips that were made from the same bytes, or became the same bytes."""
    links = sharing((clip.id, mark) for clip in clips for mark in marks(clip))
    return [group for group in joined((clip.id for clip in clips), links) if len(group) > 1]


def identical_segments(clips: Iterable[Clip]) -> list[list[str]]:
    """Groups of clips that their data set calls the same segment of the same recording."""
    return sharing((clip.id, clip.segment) for clip in clips)


def marks(clip: Clip) -> set[str]:
    """What identifies a clip's content: its source with the segment cut from it, and its own bytes."""
    return {f"{clip.source_sha256} {(clip.segment or '').rpartition('#')[2]}", clip.sha256}
