"""What the parts of a split share (recordings, signers, signers of one gloss), and recordings with several glosses."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

from slr.data.duplicates.groups import Link, joined, sharing
from slr.data.manifest import PARTS

FILES, SEGMENTS, NEAR = "identical files", "identical segments", "near-duplicates"
RECORDING, SIGNER, SIGNER_GLOSS = "one recording, by any of these", "same signer", "same signer and gloss"
CERTAIN = (FILES, SEGMENTS)  # the kinds of copies that make label conflicts
LISTED = 20  # conflicts that the table shows


@dataclass(frozen=True, slots=True)
class Entry:
    """A clip, as far as an audit needs it."""

    id: str
    gloss: str
    signer: str | None
    part: str | None  # None: in no part


@dataclass(frozen=True, slots=True)
class Shared:
    """How much is shared, and how many clips of one part share with a clip of another."""

    groups: int  # of two clips and more
    clips: int  # in these groups
    across_glosses: int  # groups
    across_parts: int  # groups
    test_in_train: int  # test clips that share with a train clip
    test_in_train_other_gloss: int  # … with a train clip of another gloss
    test_in_val: int
    val_in_train: int


def audit(entries: Sequence[Entry], copies: Mapping[str, Iterable[Link] | None]) -> dict[str, Any]:
    """Everything that clips of different parts share.

    Args:
        entries: the clips, ids unique.
        copies: kind -> groups or pairs of ids that show one recording; None where that is not known.

    Returns:
        JSON-able: `clips`, `glosses`, `signers`, `parts` (part -> clips, glosses, signers, and the glosses that it
        lacks), `shared` (kind -> the fields of `Shared`, or None where it is not known), `groups` (kind of copies ->
        lists of ids) and `label_conflicts`, see `conflicts`.
    """
    by_id = {entry.id: entry for entry in entries}

    def merged(kinds: Iterable[str]) -> list[list[str]]:
        links = [list(link) for kind in kinds for link in copies.get(kind) or ()]
        return [group for group in joined(by_id, links) if len(group) > 1]

    copies = {kind: None if links is None else list(links) for kind, links in copies.items()}
    groups = {kind: None if links is None else merged([kind]) for kind, links in copies.items()}
    groups[RECORDING] = merged(copies)
    shared = groups | {
        SIGNER: sharing((entry.id, entry.signer) for entry in entries),
        SIGNER_GLOSS: sharing((entry.id, entry.signer and f"{entry.signer}\0{entry.gloss}") for entry in entries),
    }

    def clips_of(groups: list[list[str]]) -> list[list[Entry]]:
        return [[by_id[name] for name in group] for group in groups]

    return {
        **_numbers(entries),
        "parts": {part: _part(entries, part) for part in PARTS},
        "shared": {kind: None if ids is None else asdict(count(clips_of(ids))) for kind, ids in shared.items()},
        "groups": groups,
        "label_conflicts": conflicts(clips_of(merged(CERTAIN))),
    }


def count(groups: Iterable[Sequence[Entry]]) -> Shared:
    """What groups of two and more clips share, in numbers.

    >>> train, test = Entry("1", "fear", "ann", "train"), Entry("2", "afraid", "ann", "test")
    >>> count([[train, test]])
    Shared(groups=1, clips=2, across_glosses=1, across_parts=1, test_in_train=1, test_in_train_other_gloss=1, \
test_in_val=0, val_in_train=0)
    """
    numbers = Counter(dict.fromkeys(Shared.__slots__, 0))
    for group in groups:
        held = Counter(entry.part for entry in group if entry.part is not None)
        taught = {entry.gloss for entry in group if entry.part == "train"}
        numbers["groups"] += 1
        numbers["clips"] += len(group)
        numbers["across_glosses"] += len({entry.gloss for entry in group}) > 1
        numbers["across_parts"] += len(held) > 1
        if held["train"]:
            numbers["test_in_train"] += held["test"]
            numbers["val_in_train"] += held["val"]
        if held["val"]:
            numbers["test_in_val"] += held["test"]
        numbers["test_in_train_other_gloss"] += sum(
            bool(taught - {entry.gloss}) for entry in group if entry.part == "test"
        )
    return Shared(**numbers)


def conflicts(groups: Iterable[Sequence[Entry]]) -> dict[str, Any]:
    """The recordings with several glosses, and the glosses that share them.

    Returns:
        `groups`: for each such recording its clips, id -> gloss. `glosses`: each gloss -> the other glosses of its
        recordings, with the number of recordings.
    """
    recordings = [{entry.id: entry.gloss for entry in group} for group in groups]
    recordings = [recording for recording in recordings if len(set(recording.values())) > 1]
    pairs: dict[str, Counter[str]] = defaultdict(Counter)
    for recording in recordings:
        for gloss, other in permutations(set(recording.values()), 2):
            pairs[gloss][other] += 1
    glosses = {gloss: dict(sorted(others.items())) for gloss, others in sorted(pairs.items())}
    return {"groups": recordings, "glosses": glosses}


def describe_audit(results: Mapping[str, Any]) -> str:
    """An audit as text: the parts, a table of what they share, and the most frequent label conflicts."""
    lines = [
        f"{name:<6}{numbers['clips']:>7,} clips, {numbers['glosses']:>5,} glosses, {numbers['signers']:>4,} signers"
        + (f", lacks {len(numbers['lacks']):,} glosses" if numbers.get("lacks") else "")
        for name, numbers in {"all": results, **results["parts"]}.items()
    ]
    return "\n".join([*lines, *_table(results["shared"]), *_describe_conflicts(results["label_conflicts"])])


def _table(shared: Mapping[str, Mapping[str, int] | None]) -> list[str]:
    rows = [["", "groups", "clips", "across", "across", "test clips", "of another", "test clips", "val clips"]]
    rows += [["", "", "", "glosses", "parts", "in train", "gloss", "in val", "in train"]]
    for kind, numbers in shared.items():
        unknown = ["not known", *[""] * 7]
        rows.append([kind, *(unknown if numbers is None else [f"{numbers[name]:,}" for name in Shared.__slots__])])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    cells = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return ["  ".join(row).rstrip() for row in cells]


def _describe_conflicts(results: Mapping[str, Any]) -> list[str]:
    sets = Counter(" / ".join(sorted(set(group.values()))) for group in results["groups"])
    lines = [f"{len(results['groups']):,} recordings have several glosses, {len(results['glosses']):,} in all"]
    for glosses, number in sorted(sets.items(), key=lambda row: (-row[1], row[0]))[:LISTED]:
        lines.append(f"  {number:>3}  {glosses}")
    if len(sets) > LISTED:
        lines.append(f"  … and {len(sets) - LISTED:,} other sets of glosses")
    return lines


def _numbers(entries: Sequence[Entry]) -> dict[str, Any]:
    signers = {entry.signer for entry in entries if entry.signer is not None}
    return {"clips": len(entries), "glosses": len({entry.gloss for entry in entries}), "signers": len(signers)}


def _part(entries: Sequence[Entry], part: str) -> dict[str, Any]:
    inside = [entry for entry in entries if entry.part == part]
    lacks = {entry.gloss for entry in entries} - {entry.gloss for entry in inside}
    return {**_numbers(inside), "lacks": sorted(lacks)}
