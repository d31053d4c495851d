"""Which clip trains, which selects, which tests: seeded rules, and the file that records what they gave."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from slr.core.errors import UserError
from slr.core.files import generator, write_whole
from slr.data.duplicates.groups import Link, identical_files, identical_segments, joined, sharing
from slr.data.manifest import PARTS, Clip
from slr.data.signer_split import divide_signers

Shares = Mapping[str, float]  # part -> share of the clips; together 1
Units = list[list[Clip]]  # clips that must stay together


@dataclass(frozen=True)
class Split:
    """Clip id -> part, the rule that gave it, and a hash that changes with either or with a clip's content.

    Attributes:
        leaks: of `official`, each train or val clip that shows the recording of a val or test clip -> that clip's id.
            `parts` lacks them where they were dropped.
        uncoverable: glosses that the rule could not put on both sides, train and test, whatever it did.
        limit_train: clips that a gloss may train with, at most; None does not limit them.
        left_out: training clips beyond that limit; `parts` lacks them.
    """

    rule: str
    seed: int
    parts: dict[str, str]
    hash: str
    leaks: dict[str, str] = field(default_factory=dict)
    uncoverable: list[str] = field(default_factory=list)
    limit_train: int | None = None
    left_out: list[str] = field(default_factory=list)

    def select(self, clips: Sequence[Clip], part: str) -> list[Clip]:
        """The clips of `part` (train, val, test or all), in the manifest's order; dropped ones are in none."""
        return [clip for clip in clips if clip.id in self.parts and part in ("all", self.parts[clip.id])]


def make_split(
    clips: Sequence[Clip],
    rule: str,
    seed: int,
    shares: Shares,
    copies: Iterable[Link] = (),
    coverage: float = 0.0,
    drop_leaks: bool = False,
    limit_train: int | None = None,
) -> Split:
    """Put clips into parts; `stratified` and `signer` keep all that show one recording in the same.

    Args:
        clips: verified clips, ids unique.
        rule: `stratified` divides each gloss by `shares`: one clip trains, of two one tests, of three or more each part
            gets at least one where copies allow it. `signer` gives whole signers to the parts. `official` takes the
            parts that came with the data set.
        seed: same clips, rule, shares and seed give the same split, in whatever order the clips come.
        shares: train, val and test, together 1; of no account to `official`.
        copies: ids of clips that show one recording, beside those that are known by file and segment.
        coverage: share of the glosses that `signer` must give both train and test a clip of.
        drop_leaks: `official` leaves train and val clips out that show the recording of a val or test clip.
        limit_train: leave out training clips beyond so many of a gloss, drawn by the seed alone: what a smaller limit
            keeps, a larger one keeps too. Val and test stay as they are.

    Raises:
        UserError: fewer than two glosses, a clip without signer or official part where the rule needs it, a coverage
            that is not reached, or a part left empty.
    """
    glosses = sorted({clip.gloss for clip in clips})
    if len(glosses) < 2:
        raise UserError(f"expected clips of at least two glosses, found {len(glosses)}: {', '.join(glosses) or 'none'}")
    ordered = sorted(clips, key=lambda clip: clip.id)
    links = [*identical_files(ordered), *identical_segments(ordered), *copies]
    leaks: dict[str, str] = {}
    uncoverable: list[str] = []
    match rule:
        case "official":
            parts = _official(ordered)
            leaks = _leaks(parts, links)
            parts = {name: part for name, part in parts.items() if not (drop_leaks and name in leaks)}
        case "stratified":
            units = _units(ordered, links)
            parts, uncoverable = _stratified(units, seed, shares), _in_one(units)
        case "signer":
            units = _units(ordered, [*links, *_signers(ordered)])
            parts = divide_signers(units, shares, coverage, generator(seed, "signer"))
            uncoverable = _in_one(units)
        case _:
            raise ValueError(f"expected rule official, stratified or signer, found {rule!r}")
    _refuse_empty(parts, rule, clips)
    left_out = set() if limit_train is None else _beyond(ordered, parts, seed, limit_train)
    parts = {name: part for name, part in parts.items() if name not in left_out}
    own = _hash(rule, seed, ordered, parts)
    return Split(rule, seed, parts, own, leaks, uncoverable, limit_train, sorted(left_out))


def _beyond(clips: list[Clip], parts: Mapping[str, str], seed: int, limit: int) -> set[str]:
    """Training clips beyond `limit` of their gloss, whose order is the seed's."""
    training: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        if parts.get(clip.id) == "train":
            training[clip.gloss].append(clip.id)
    return {
        names[place]
        for gloss, names in training.items()
        for place in generator(seed, f"limit {gloss}").permutation(len(names))[limit:]
    }


def _refuse_empty(parts: Mapping[str, str], rule: str, clips: Sequence[Clip]) -> None:
    empty = [part for part in PARTS if part not in parts.values()]
    if empty:
        remedy = "add clips or signers, or change the shares split.train, split.val, split.test"
        if rule == "official":
            remedy = "use split=stratified or split=signer"
        raise UserError(
            f"split={rule} leaves {' and '.join(empty)} without a clip ({len(clips)} clips, "
            f"{len({clip.gloss for clip in clips})} glosses); {remedy}"
        )


def _official(clips: list[Clip]) -> dict[str, str]:
    parts = {clip.id: clip.official_part for clip in clips if clip.official_part is not None}
    without = [clip.id for clip in clips if clip.id not in parts]
    if without:
        raise UserError(
            f"split=official needs the data set's own part of every clip, found {len(without)} of {len(clips)} without "
            f"one, {without[0]} first; add `split` to the labels or use split=stratified"
        )
    return parts


def _leaks(parts: Mapping[str, str], links: list[Link]) -> dict[str, str]:
    """Train or val clips of a recording that also tests or selects -> the clip that does; test outranks val."""
    leaks = {}
    for group in joined(parts, links):
        keeper = max(group, key=lambda name: PARTS.index(parts[name]))
        leaks |= {name: keeper for name in group if parts[name] != parts[keeper]}
    return leaks


def _units(clips: list[Clip], links: Iterable[Link]) -> Units:
    by_id = {clip.id: clip for clip in clips}
    return [[by_id[name] for name in group] for group in joined(by_id, links)]


def _in_one(units: Units) -> list[str]:
    """Glosses whose clips are all of one unit: none can train and test."""
    counts = Counter(gloss for unit in units for gloss in {clip.gloss for clip in unit})
    return sorted(gloss for gloss, count in counts.items() if count == 1)


def _stratified(units: Units, seed: int, shares: Shares) -> dict[str, str]:
    by_gloss: dict[str, list[int]] = defaultdict(list)
    for number, unit in enumerate(units):
        for gloss in {clip.gloss for clip in unit}:
            by_gloss[gloss].append(number)
    chosen: dict[int, str] = {}
    for gloss in sorted(by_gloss):
        numbers = by_gloss[gloss]
        wanted = Counter(_quota(len(numbers), shares))
        wanted.subtract(chosen[number] for number in numbers if number in chosen)
        free = [number for number in numbers if number not in chosen]
        for number in generator(seed, gloss).permutation(free).tolist():
            part = max(("train", "test", "val"), key=lambda name: wanted[name])
            wanted[part] -= 1
            chosen[number] = part
    return {clip.id: chosen[number] for number, unit in enumerate(units) for clip in unit}


def _quota(count: int, shares: Shares) -> dict[str, int]:
    """How many of `count` clips of one gloss each part gets."""
    test = max(1, round(count * shares["test"])) if count >= 2 else 0
    val = max(1, round(count * shares["val"])) if count >= 3 else 0
    excess = max(0, test + val - (count - 1))  # large shares of few clips must leave one to train on
    val_less = min(excess, max(0, val - 1))
    return {"train": count - test - val + excess, "val": val - val_less, "test": test - (excess - val_less)}


def _signers(clips: list[Clip]) -> list[list[str]]:
    nameless = [clip.id for clip in clips if clip.signer is None]
    if nameless:
        raise UserError(
            f"split=signer needs the signer of every clip, found {len(nameless)} of {len(clips)} without one, "
            f"{nameless[0]} first; add `signer` to the labels or use split=stratified"
        )
    return sharing((clip.id, clip.signer) for clip in clips)


def _hash(rule: str, seed: int, clips: list[Clip], parts: dict[str, str]) -> str:
    """Of all that a run's numbers depend on; not of where a clip came from."""
    rows = [
        [clip.id, parts.get(clip.id), clip.gloss, clip.signer, clip.prompt, clip.frames, clip.sha256] for clip in clips
    ]
    return hashlib.sha256(json.dumps([rule, seed, rows], ensure_ascii=False).encode()).hexdigest()


def describe(clips: Sequence[Clip], split: Split) -> str:
    """One line: clips and signers per part, the glosses that val or test lacks, and the leaks of the official parts."""
    words = []
    for part in PARTS:
        chosen = split.select(clips, part)
        signers = {clip.signer for clip in chosen if clip.signer is not None}
        words.append(f"{part} {len(chosen)} clips" + (f" of {len(signers)} signers" if signers else ""))
    glosses = {clip.gloss for clip in clips}
    for part in ("val", "test"):
        absent = sorted(glosses - {clip.gloss for clip in split.select(clips, part)})
        if absent:
            words.append(f"{len(absent)} of {len(glosses)} glosses without a {part} clip: {_some(absent)}")
    if split.uncoverable:
        words.append(
            f"{len(split.uncoverable)} glosses cannot both train and test, their clips belong together: "
            f"{_some(split.uncoverable)}"
        )
    if split.leaks:
        dropped = not split.leaks.keys() <= split.parts.keys() | set(split.left_out)
        words.append(
            f"{len(split.leaks)} train or val clips show the recording of a val or test clip: "
            + ("left out" if dropped else "kept, split.drop_leaks=true leaves them out")
        )
    if split.limit_train is not None:
        words.append(f"at most {split.limit_train} a gloss train, {len(split.left_out)} more are left out")
    seed = "" if split.rule == "official" and split.limit_train is None else f", seed {split.seed}"
    return f"split {split.rule}{seed}: " + "; ".join(words)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")


def write_split(path: Path, split: Split) -> None:
    """Write the split as JSON."""
    write_whole(path, json.dumps(asdict(split), ensure_ascii=False, indent=1) + "\n")


def read_split(path: Path, clips: Sequence[Clip]) -> Split:
    """Read what `write_split` wrote and hold it against the clips it divided.

    Raises:
        UserError: the file is no split, or the prepared clips are no longer those that it divided.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        split = Split(**fields)
        whose = split.parts.keys() | split.leaks.keys() | set(split.left_out)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected the split of a run, found none that can be read ({error})") from error
    ordered = sorted(clips, key=lambda clip: clip.id)
    found = _hash(split.rule, split.seed, ordered, split.parts)
    if whose != {clip.id for clip in clips} or split.hash != found:
        raise UserError(
            f"{path}: the run divided other clips than those prepared now (hash {split.hash[:12]}, now {found[:12]}); "
            "prepare the run's data set again, or train a new run"
        )
    return split
