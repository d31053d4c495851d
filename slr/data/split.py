"""Split clips into train, val and test by seeded rules; the split is kept in a file."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from slr.core.errors import UserError
from slr.core.files import generator, write_json
from slr.data.duplicates.groups import Link, identical_files, identical_segments, joined, sharing
from slr.data.manifest import PARTS, Clip
from slr.data.signer_split import divide_signers, listed

Shares = Mapping[str, float]  # part -> share of the clips; together 1


@dataclass(frozen=True)
class Split:
    """Clip id -> part, the rule that gave it, and a hash that changes with either or with a clip's content.

    `leaks` are, of the rule `official`, the train or val clips that show the recording of a val or test clip -> that
    clip's id; `parts` lacks them if they were dropped.
    """

    rule: str
    seed: int
    parts: dict[str, str]
    hash: str
    leaks: dict[str, str] = field(default_factory=dict)
    uncoverable: list[str] = field(default_factory=list)  # glosses that cannot be in both train and test
    limit_train: int | None = None  # most training clips per gloss
    left_out: list[str] = field(default_factory=list)  # training clips beyond that limit; `parts` lacks them

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
        seed: same clips, rule, shares and seed give the same split, whatever the order of the clips.
        shares: train, val and test, together 1; not used by `official`.
        copies: ids of clips that show one recording, beside those that are known by file and segment.
        coverage: share of the glosses of which `signer` must put clips into both train and test.
        drop_leaks: `official` leaves out train and val clips that show the recording of a val or test clip.
        limit_train: leave out training clips beyond so many per gloss, drawn by the seed alone: a larger limit keeps
            all that a smaller one keeps. Val and test do not change.

    Raises:
        UserError: fewer than two glosses, a clip without the signer or official part that the rule needs, a coverage
            that is not reached, or an empty part.
    """
    glosses = sorted({clip.gloss for clip in clips})
    if len(glosses) < 2:
        raise UserError(f"expected clips of at least two glosses, found {len(glosses)}: {', '.join(glosses) or 'none'}")
    ordered = sorted(clips, key=lambda clip: clip.id)
    links = [*identical_files(ordered), *identical_segments(ordered), *copies]
    leaks: dict[str, str] = {}
    uncoverable: list[str] = []
    if rule == "official":
        _refuse_unknown(rule, "the data set's own part", "split", ordered, "official_part")
        parts = {clip.id: str(clip.official_part) for clip in ordered}
        leaks = _leaks(parts, links)
        parts = {name: part for name, part in parts.items() if not (drop_leaks and name in leaks)}
    else:
        if rule == "signer":
            _refuse_unknown(rule, "the signer", "signer", ordered, "signer")
            links += sharing((clip.id, clip.signer) for clip in ordered)
        by_id = {clip.id: clip for clip in ordered}
        units = [[by_id[name] for name in group] for group in joined(by_id, links)]
        units_of = Counter(gloss for unit in units for gloss in {clip.gloss for clip in unit})
        uncoverable = sorted(gloss for gloss, count in units_of.items() if count == 1)
        if rule == "signer":
            parts = divide_signers(units, shares, coverage, generator(seed, "signer"))
        else:
            parts = _stratified(units, seed, shares)
    _refuse_empty(parts, rule, clips)
    left_out = set() if limit_train is None else _beyond(ordered, parts, seed, limit_train)
    parts = {name: part for name, part in parts.items() if name not in left_out}
    digest = _hash(rule, seed, ordered, parts)
    return Split(rule, seed, parts, digest, leaks, uncoverable, limit_train, sorted(left_out))


def _beyond(clips: list[Clip], parts: Mapping[str, str], seed: int, limit: int) -> set[str]:
    """Training clips beyond `limit` of their gloss, in the seed's order."""
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
        raise UserError(
            f"split={rule} leaves {' and '.join(empty)} without a clip ({len(clips)} clips, "
            f"{len({clip.gloss for clip in clips})} glosses); add clips or signers, change the shares split.train, "
            "split.val, split.test, or use another split"
        )


def _refuse_unknown(rule: str, wanted: str, column: str, clips: list[Clip], attribute: str) -> None:
    without = [clip.id for clip in clips if getattr(clip, attribute) is None]
    if without:
        raise UserError(
            f"split={rule} needs {wanted} of every clip, found {len(without)} of {len(clips)} without one, "
            f"{without[0]} first; add `{column}` to the labels or use split=stratified"
        )


def _leaks(parts: Mapping[str, str], links: list[Link]) -> dict[str, str]:
    """Train or val clips of a recording that also tests or selects -> the clip that does; test outranks val."""
    leaks = {}
    for group in joined(parts, links):
        keeper = max(group, key=lambda name: PARTS.index(parts[name]))
        leaks |= {name: keeper for name in group if parts[name] != parts[keeper]}
    return leaks


def _stratified(units: list[list[Clip]], seed: int, shares: Shares) -> dict[str, str]:
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


def _hash(rule: str, seed: int, clips: list[Clip], parts: dict[str, str]) -> str:
    """Of all that a run's numbers depend on; not of where a clip came from."""
    rows = [[c.id, parts.get(c.id), c.gloss, c.signer, c.prompt, c.frames, c.sha256] for c in clips]
    return hashlib.sha256(json.dumps([rule, seed, rows], ensure_ascii=False).encode()).hexdigest()


def describe(clips: Sequence[Clip], split: Split) -> str:
    """One line: clips and signers per part, glosses without val or test clips, leaks of the official parts.

    A second line warns where less than half of the glosses have clips in both train and test.
    """
    words = []
    every = {clip.gloss for clip in clips}
    glosses = {part: {clip.gloss for clip in split.select(clips, part)} for part in PARTS}
    for part in PARTS:
        chosen = split.select(clips, part)
        signers = {clip.signer for clip in chosen if clip.signer is not None}
        words.append(f"{part} {len(chosen)} clips" + (f" of {len(signers)} signers" if signers else ""))
    for part in ("val", "test"):
        if absent := sorted(every - glosses[part]):
            words.append(f"{len(absent)} of {len(every)} glosses without a {part} clip: {listed(absent)}")
    if names := split.uncoverable:
        words.append(f"{len(names)} of {len(every)} glosses have clips that must stay in one part: {listed(names)}")
    if split.leaks:
        kept = split.leaks.keys() <= split.parts.keys() | set(split.left_out)
        fate = "kept, split.drop_leaks=true leaves them out" if kept else "left out"
        words.append(f"{len(split.leaks)} train or val clips show the recording of a val or test clip: {fate}")
    if split.limit_train is not None:
        words.append(f"at most {split.limit_train} training clips per gloss, {len(split.left_out)} left out")
    seed = "" if split.rule == "official" and split.limit_train is None else f", seed {split.seed}"
    line = f"split {split.rule}{seed}: " + "; ".join(words)
    both = len(glosses["train"] & glosses["test"])
    if 2 * both >= len(every):
        return line
    return (
        f"{line}\nWARNING: only {both} of {len(every)} glosses have clips in both train and test; the test score says "
        "nothing about the others; add clips of these glosses"
    )


def write_split(path: Path, split: Split) -> None:
    """Write the split as JSON."""
    write_json(path, asdict(split))


def read_split(path: Path, clips: Sequence[Clip]) -> Split:
    """Read what `write_split` wrote and compare it with the clips.

    Raises:
        UserError: the file is no split, or it divides other clips.
    """
    try:
        split = Split(**json.loads(path.read_text(encoding="utf-8")))
        whose = split.parts.keys() | split.leaks.keys() | set(split.left_out)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected the split of a run, found none that can be read ({error})") from error
    ordered = sorted(clips, key=lambda clip: clip.id)
    digest = _hash(split.rule, split.seed, ordered, split.parts)
    if whose != {clip.id for clip in clips} or split.hash != digest:
        raise UserError(
            f"{path}: the run divided other clips than those prepared now (hash {split.hash[:12]}, now {digest[:12]}); "
            "prepare the run's data set again, or train a new run"
        )
    return split
