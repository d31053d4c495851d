"""How many of the clips that a data set lists are there, and which glosses its labels confuse."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slr.core.errors import UserError
from slr.data.duplicates.groups import joined, sharing
from slr.data.manifest import Clip, Rejected, read_rejected


@dataclass(frozen=True)
class Coverage:
    """How many of the listed clips are there."""

    of: str  # what is counted, `official test part` or `data set`
    clips: int  # k, those that are there
    listed: int  # n
    missing: list[str]  # ids of the others

    @property
    def share(self) -> float:
        """k / n, in (0, 1]."""
        return self.clips / self.listed

    def describe(self) -> str:
        """For example `100 of 258 clips listed for the official test part`."""
        return f"{self.clips:,} of {self.listed:,} clips listed for the {self.of}"


def read_lost(folder: Path) -> list[Rejected]:
    """The clips that a prepared data set lists and lacks."""
    return read_rejected(path) if (path := folder / "rejected.jsonl").is_file() else []


def vocabulary(clips: Iterable[Clip], lost: Iterable[Rejected], rule: str) -> list[str]:
    """The glosses that a run ranks, in alphabetical order.

    With the official parts these are all that the data set lists, also those without a clip, as in published numbers;
    else those of the clips.
    """
    rows = [*clips, *lost] if rule == "official" else clips
    return sorted({row.gloss for row in rows})


def coverage(clips: Sequence[Clip], lost: Sequence[Rejected], rule: str, part: str) -> Coverage:
    """The coverage of an official part, or of the whole data set where the parts are our own.

    Raises:
        UserError: a lost clip whose official part is not known.
    """
    if rule != "official":
        return Coverage("data set", len(clips), len(clips) + len(lost), sorted(row.id for row in lost))
    unknown = [row.id for row in lost if row.official_part is None]
    if unknown:
        raise UserError(
            f"expected the official part of every listed clip, found none for {len(unknown)}, {unknown[0]} first; run "
            "prepare_data.py again, which keeps finished clips"
        )
    there = sum(part in ("all", clip.official_part) for clip in clips)
    missing = sorted(row.id for row in lost if part in ("all", row.official_part))
    of = "official split" if part == "all" else f"official {part} part"
    return Coverage(of, there, there + len(missing), missing)


def conflicts(rows: Iterable[Clip | Rejected]) -> list[list[str]]:
    """Groups of glosses that a data set gives to one segment of one recording, directly or through others.

    No system can tell such glosses apart by sight: WLASL calls the same seconds `now` and `today`.
    """
    segments = {(row.gloss, row.segment): None for row in rows}
    groups = joined(sorted({gloss for gloss, _ in segments}), sharing(segments))
    return sorted(sorted(group) for group in groups if len(group) > 1)


def among(groups: Iterable[Iterable[str]], vocabulary: Collection[str]) -> list[list[str]]:
    """The glosses of each group that are in a vocabulary, where there are two or more.

    >>> among([["eat", "food", "meal"], ["now", "today"]], ["eat", "meal", "today"])
    [['eat', 'meal']]
    """
    known = set(vocabulary)
    kept = [[gloss for gloss in group if gloss in known] for group in groups]
    return [group for group in kept if len(group) > 1]
