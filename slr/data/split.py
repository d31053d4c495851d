"""Which clip trains, which selects, which tests: seeded rules, and the file that records what they gave."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slr.data.manifest import PARTS, Clip
from slr.errors import UserError
from slr.files import write_whole

Shares = Mapping[str, float]  # part -> share of the clips; together 1
Units = list[list[Clip]]  # clips that must stay together


@dataclass(frozen=True)
class Split:
    """Clip id -> part, the rule that gave it, and a hash that changes with either or with a clip's content."""

    rule: str
    seed: int
    parts: dict[str, str]
    hash: str

    def select(self, clips: Sequence[Clip], part: str) -> list[Clip]:
        """The clips of `part` (train, val, test or all), in the manifest's order."""
        return [clip for clip in clips if part == "all" or self.parts[clip.id] == part]


def make_split(clips: Sequence[Clip], rule: str, seed: int, shares: Shares) -> Split:
    """Put every clip into exactly one part; byte-identical sources always into the same.

    Args:
        clips: verified clips, ids unique.
        rule: `stratified` divides each gloss by `shares`: one clip trains, of two one tests, of three or more each part
            gets at least one where identical files allow it. `signer` gives whole signers to the parts.
        seed: same clips, rule, shares and seed give the same split, in whatever order the clips come.
        shares: train, val and test, together 1.

    Raises:
        UserError: fewer than two glosses, a clip without signer under `signer`, or a part left empty.
    """
    glosses = sorted({clip.gloss for clip in clips})
    if len(glosses) < 2:
        raise UserError(f"expected clips of at least two glosses, found {len(glosses)}: {', '.join(glosses) or 'none'}")
    ordered = sorted(clips, key=lambda clip: clip.id)
    parts = RULES[rule](ordered, seed, shares)
    counts = Counter(parts.values())
    empty = [part for part in PARTS if not counts[part]]
    if empty:
        raise UserError(
            f"split={rule} leaves {' and '.join(empty)} without a clip ({len(clips)} clips, {len(glosses)} glosses); "
            "add clips or signers, or change the shares split.train, split.val, split.test"
        )
    return Split(rule, seed, parts, _hash(rule, seed, ordered, parts))


def _stratified(clips: list[Clip], seed: int, shares: Shares) -> dict[str, str]:
    unit_of = _units_by_content(clips)
    by_gloss: dict[str, list[int]] = defaultdict(list)
    for number, unit in enumerate(unit_of):
        for gloss in {clip.gloss for clip in unit}:
            by_gloss[gloss].append(number)
    chosen: dict[int, str] = {}
    for gloss in sorted(by_gloss):
        units = by_gloss[gloss]
        wanted = Counter(_quota(len(units), shares))
        wanted.subtract(chosen[number] for number in units if number in chosen)
        free = [number for number in units if number not in chosen]
        for number in _generator(seed, gloss).permutation(free).tolist():
            part = max(("train", "test", "val"), key=lambda name: wanted[name])
            wanted[part] -= 1
            chosen[number] = part
    return {clip.id: chosen[number] for number, unit in enumerate(unit_of) for clip in unit}


def _quota(count: int, shares: Shares) -> dict[str, int]:
    """How many of `count` clips of one gloss each part gets."""
    test = max(1, round(count * shares["test"])) if count >= 2 else 0
    val = max(1, round(count * shares["val"])) if count >= 3 else 0
    excess = max(0, test + val - (count - 1))  # large shares of few clips must leave one to train on
    val_less = min(excess, max(0, val - 1))
    return {"train": count - test - val + excess, "val": val - val_less, "test": test - (excess - val_less)}


def _by_signer(clips: list[Clip], seed: int, shares: Shares) -> dict[str, str]:
    nameless = [clip.id for clip in clips if clip.signer is None]
    if nameless:
        raise UserError(
            f"split=signer needs the signer of every clip, found {len(nameless)} of {len(clips)} without one, "
            f"{nameless[0]} first; add `signer` to the labels or use split=stratified"
        )
    groups = _together(clips, lambda clip: (f"signer {clip.signer}", f"file {clip.source_sha256}"))
    order = _generator(seed, "signer").permutation(len(groups))
    largest_first = sorted(order.tolist(), key=lambda number: -len(groups[number]))
    missing = {part: shares[part] * len(clips) for part in ("test", "train", "val")}
    parts: dict[str, str] = {}
    for number in largest_first:
        part = max(missing, key=lambda name: round(missing[name], 6))
        missing[part] -= len(groups[number])
        parts |= {clip.id: part for clip in groups[number]}
    return parts


RULES: dict[str, Callable[[list[Clip], int, Shares], dict[str, str]]] = {
    "stratified": _stratified,
    "signer": _by_signer,
}


def _units_by_content(clips: list[Clip]) -> Units:
    return _together(clips, lambda clip: (f"file {clip.source_sha256}",))


def _together(clips: list[Clip], labels: Callable[[Clip], tuple[str, ...]]) -> Units:
    """Clips joined wherever they share a label, directly or through others (union-find)."""
    parent: dict[str, str] = {}

    def root(label: str) -> str:
        parent.setdefault(label, label)
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    for clip in clips:
        first, *others = labels(clip)
        for other in others:
            parent[root(other)] = root(first)
    units: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        units[root(labels(clip)[0])].append(clip)
    return list(units.values())


def _generator(seed: int, label: str) -> np.random.Generator:
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(label.encode()).digest()[:8])])


def _hash(rule: str, seed: int, clips: list[Clip], parts: dict[str, str]) -> str:
    rows = [[clip.id, parts[clip.id], clip.gloss, clip.sha256] for clip in clips]
    return hashlib.sha256(json.dumps([rule, seed, rows], ensure_ascii=False).encode()).hexdigest()


def describe(clips: Sequence[Clip], split: Split) -> str:
    """One line: clips and signers per part, and the glosses that val or test lacks."""
    words = []
    for part in PARTS:
        chosen = split.select(clips, part)
        signers = {clip.signer for clip in chosen if clip.signer is not None}
        words.append(f"{part} {len(chosen)} clips" + (f" of {len(signers)} signers" if signers else ""))
    glosses = {clip.gloss for clip in clips}
    for part in ("val", "test"):
        absent = sorted(glosses - {clip.gloss for clip in split.select(clips, part)})
        if absent:
            names = ", ".join(absent[:10]) + (", …" if len(absent) > 10 else "")
            words.append(f"{len(absent)} of {len(glosses)} glosses without a {part} clip: {names}")
    return f"split {split.rule}, seed {split.seed}: " + "; ".join(words)


def write_split(path: Path, split: Split) -> None:
    """Write the split as JSON."""
    fields = {"rule": split.rule, "seed": split.seed, "hash": split.hash, "parts": split.parts}
    write_whole(path, json.dumps(fields, ensure_ascii=False, indent=1) + "\n")


def read_split(path: Path, clips: Sequence[Clip]) -> Split:
    """Read what `write_split` wrote and hold it against the clips it divided.

    Raises:
        UserError: the file is no split, or the prepared clips are no longer those that it divided.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        split = Split(fields["rule"], fields["seed"], fields["parts"], fields["hash"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected the split of a run, found none that can be read ({error})") from error
    ordered = sorted(clips, key=lambda clip: clip.id)
    same_ids = set(split.parts) == {clip.id for clip in clips}
    if not same_ids or split.hash != _hash(split.rule, split.seed, ordered, split.parts):
        raise UserError(
            f"{path}: the run divided other clips than those prepared now; prepare the run's data set again, "
            "or train a new run"
        )
    return split
