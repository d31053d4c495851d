"""What the parts of a split share (recordings, signers, signers of one gloss), and recordings with several glosses."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from slr.data.duplicates.groups import Link, joined, sharing
from slr.data.manifest import PARTS

FILES, SEGMENTS, NEAR = "identical files", "identical segments", "near-duplicates"
RECORDING, SIGNER, SIGNER_GLOSS = "one recording, by any of these", "same signer", "same signer and gloss"
CERTAIN = (FILES, SEGMENTS)  # the kinds of copies that make label conflicts
LISTED = 20  # conflicts that the table shows
COUNTS = (
    *("groups", "clips", "across_glosses", "across_parts"),
    *("test_in_train", "test_in_train_other_gloss", "test_in_val", "val_in_train"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A clip, as far as an audit needs it."""

    id: str
    gloss: str
    signer: str | None
    part: str | None  # None: in no part


def audit(entries: Sequence[Entry], copies: Mapping[str, Iterable[Link] | None]) -> dict[str, Any]:
    """Everything that clips of different parts share.

    Args:
        entries: the clips, ids unique.
        copies: kind -> groups or pairs of ids that show one recording; None where that is not known.

    Returns:
        JSON-able: `clips`, `glosses`, `signers`, `parts` (part -> clips, glosses, signers, and the glosses that it
        lacks), `shared` (kind -> `count`, or None where it is not known), `groups` (kind of copies ->
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
        SIGNER_GLOSS: sharing((e.id, None if e.signer is None else f"{e.signer}\0{e.gloss}") for e in entries),
    }

    def clips_of(groups: list[list[str]]) -> list[list[Entry]]:
        return [[by_id[name] for name in group] for group in groups]

    return {
        **_numbers(entries),
        "parts": {part: _numbers(entries, part) for part in PARTS},
        "shared": {kind: None if ids is None else count(clips_of(ids)) for kind, ids in shared.items()},
        "groups": groups,
        "label_conflicts": conflicts(clips_of(merged(CERTAIN))),
    }


def count(groups: Iterable[Sequence[Entry]]) -> dict[str, int]:
    """What groups of two and more clips share.

    Returns:
        `groups` and `clips` in them; the groups `across_glosses` and `across_parts`; the test clips that share with a
        train clip (`test_in_train`), with one of another gloss (`test_in_train_other_gloss`), with a val clip
        (`test_in_val`); the val clips that share with a train clip (`val_in_train`).

    >>> train, test = Entry("1", "fear", "ann", "train"), Entry("2", "afraid", "ann", "test")
    >>> list(count([[train, test]]).values())
    [1, 2, 1, 1, 1, 1, 0, 0]
    """
    rows = []
    for group in groups:
        parts = Counter(entry.part for entry in group)
        trained = {entry.gloss for entry in group if entry.part == "train"}
        other_gloss = [entry for entry in group if entry.part == "test" and trained - {entry.gloss}]
        row = [1, len(group), len({entry.gloss for entry in group}) > 1, len(parts.keys() - {None}) > 1]
        row += [parts["test"] * bool(parts["train"]), len(other_gloss)]
        rows.append([*row, parts["test"] * bool(parts["val"]), parts["val"] * bool(parts["train"])])
    return {name: sum(row[column] for row in rows) for column, name in enumerate(COUNTS)}


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
        rows.append([kind, *([f"{n:,}" for n in numbers.values()] if numbers else ["not known", *[""] * 7])])
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


def _numbers(entries: Sequence[Entry], part: str | None = None) -> dict[str, Any]:
    """Clips, glosses and signers of a part, and the glosses that it lacks; of all clips without a part."""
    inside = [entry for entry in entries if part in (None, entry.part)]
    glosses, signers = {entry.gloss for entry in inside}, {entry.signer for entry in inside} - {None}
    numbers = {"clips": len(inside), "glosses": len(glosses), "signers": len(signers)}
    return numbers if part is None else numbers | {"lacks": sorted({entry.gloss for entry in entries} - glosses)}
