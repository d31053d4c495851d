"""What was wanted of WLASL, what came of it and what was lost, as tables and files."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slr.core.errors import UserError
from slr.core.files import write_whole
from slr.data.manifest import PARTS, read_manifest, read_rejected
from slr.prepare.ledger import read_ledger
from slr.prepare.wlasl.index import Instance

MOST_SHOWN = 12  # glosses in a line of the terminal
NUMBERS = 5  # columns from the second to this one are numbers
SUBSETS = (100, 300, 1000, 2000)
Rows = list[list[str]]


@dataclass(frozen=True, slots=True)
class _Table:
    title: str
    header: list[str]
    rows: Rows


def write_report(listed: Sequence[Instance], chosen: Sequence[Instance], out: Path) -> str:
    """Write report.md and corrupted_videos.json beside the manifest; returns the report for a terminal.

    Raises:
        UserError: There is no manifest, or it is not of these instances.
    """
    reasons = _reasons(chosen, out)
    tables = [
        _by_part(chosen, reasons),
        _by_host(chosen, reasons),
        _by_reason(reasons),
        _coverage(listed, chosen, reasons),
    ]
    notes = _without(chosen, reasons) + _short(out)
    full = [_markdown(table) for table in [*tables, _by_gloss(chosen, reasons)]]
    glosses = [f"{words}: {', '.join(names) or 'none'}." for words, names in notes]
    report = "# What became of WLASL's clips\n\n" + "\n".join([*full, "", *(f"{line}\n" for line in glosses)])
    write_whole(out / "report.md", report)
    rows = [
        {"video_path": row.file, "gloss": row.gloss, "reason": f"{row.reason}: {row.detail}"}
        for row in read_rejected(out / "rejected.jsonl")
    ]
    write_whole(out / "corrupted_videos.json", json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    shown = [f"{words}: {_some(names)}" for words, names in notes]
    return "\n\n".join([*map(_plain, tables), "\n".join(shown), f"every gloss: {out / 'report.md'}"])


def _reasons(chosen: Sequence[Instance], out: Path) -> dict[str, str]:
    """By id, why there is no clip; an empty text where there is one."""
    reasons = {row.id: row.reason for row in read_rejected(out / "rejected.jsonl")}
    reasons |= {clip.id: "" for clip in read_manifest(out / "manifest.jsonl")}
    if reasons.keys() != {instance.id for instance in chosen}:
        raise UserError(f"expected the manifest of what was selected in {out}, found another; run the stage manifest")
    return reasons


def _by_part(chosen: Sequence[Instance], reasons: dict[str, str]) -> _Table:
    groups = {part: [instance for instance in chosen if instance.part == part] for part in PARTS}
    rows = [[name, *_share(group, reasons)] for name, group in [*groups.items(), ("all", list(chosen))]]
    return _Table("By official split", ["split", "wanted", "clips", "lost", "share"], rows)


def _by_host(chosen: Sequence[Instance], reasons: dict[str, str]) -> _Table:
    groups: dict[str, list[Instance]] = defaultdict(list)
    for instance in chosen:
        groups[instance.host].append(instance)
    rows = []
    for host, group in sorted(groups.items(), key=lambda pair: -len(pair[1])):
        lost = Counter(reasons[instance.id] for instance in group if reasons[instance.id])
        told = ", ".join(f"{reason} {count}" for reason, count in lost.most_common())
        rows.append([host or "(none)", *_share(group, reasons), told])
    return _Table("By host", ["host", "wanted", "clips", "lost", "share", "why"], rows)


def _by_reason(reasons: dict[str, str]) -> _Table:
    counts = Counter(reason for reason in reasons.values() if reason)
    return _Table("Why clips were lost", ["reason", "clips"], [[name, f"{n:,}"] for name, n in counts.most_common()])


def _coverage(listed: Sequence[Instance], chosen: Sequence[Instance], reasons: dict[str, str]) -> _Table:
    """Clips against the official counts of each subset that was selected whole."""
    glosses = list(dict.fromkeys(instance.gloss for instance in listed))
    selected = {instance.gloss for instance in chosen}
    rows = []
    for size in [size for size in SUBSETS if size <= len(glosses) and set(glosses[:size]) <= selected]:
        names = set(glosses[:size])
        row = [f"WLASL{size}"]
        for part in PARTS:
            group = [instance for instance in chosen if instance.gloss in names and instance.part == part]
            row.append(f"{_clips(group, reasons):,} of {len(group):,}")
        rows.append(row)
    return _Table("Against the official counts", ["subset", *PARTS], rows)


def _by_gloss(chosen: Sequence[Instance], reasons: dict[str, str]) -> _Table:
    groups: dict[str, list[Instance]] = defaultdict(list)
    for instance in chosen:
        groups[instance.gloss].append(instance)
    rows = []
    for gloss, group in groups.items():
        parts = [str(_clips([i for i in group if i.part == part], reasons)) for part in PARTS]
        rows.append([gloss, *_share(group, reasons), *parts])
    return _Table("By gloss", ["gloss", "wanted", "clips", "lost", "share", *PARTS], rows)


def _without(chosen: Sequence[Instance], reasons: dict[str, str]) -> list[tuple[str, list[str]]]:
    glosses = dict.fromkeys(instance.gloss for instance in chosen)
    notes = []
    for part in PARTS:
        there = {instance.gloss for instance in chosen if instance.part == part and not reasons[instance.id]}
        absent = [gloss for gloss in glosses if gloss not in there]
        notes.append((f"{len(absent):,} of {len(glosses):,} glosses without a {part} clip", absent))
    return notes


def _short(out: Path) -> list[tuple[str, list[str]]]:
    """Clips that are kept although their range goes past the recording's end."""
    outcomes = (read_ledger(out / "source.json") or {"outcomes": {}})["outcomes"]
    short = [f"{name} by {outcome['lacking']}" for name, outcome in outcomes.items() if outcome.get("lacking")]
    return [(f"{len(short):,} clips end before their range does, by so many pictures", sorted(short))]


def _clips(group: Sequence[Instance], reasons: dict[str, str]) -> int:
    return sum(not reasons[instance.id] for instance in group)


def _share(group: Sequence[Instance], reasons: dict[str, str]) -> list[str]:
    clips = _clips(group, reasons)
    share = f"{100 * clips / len(group):.1f} %" if group else "–"
    return [f"{len(group):,}", f"{clips:,}", f"{len(group) - clips:,}", share]


def _some(names: list[str]) -> str:
    return (", ".join(names[:MOST_SHOWN]) + (", …" if len(names) > MOST_SHOWN else "")) or "none"


def _plain(table: _Table) -> str:
    widths = [max(len(row[column]) for row in [table.header, *table.rows]) for column in range(len(table.header))]
    aligned = [
        [cell.rjust(width) if 0 < column < NUMBERS else cell.ljust(width) for column, (cell, width) in cells]
        for cells in (enumerate(zip(row, widths, strict=True)) for row in [table.header, *table.rows])
    ]
    lines = ["  ".join(row).rstrip() for row in aligned]
    return "\n".join([table.title, *(f"  {line}" for line in lines)])


def _markdown(table: _Table) -> str:
    rows = [[cell.replace("|", "\\|") for cell in row] for row in table.rows]
    lines = [f"| {' | '.join(row)} |" for row in [table.header, ["---"] * len(table.header), *rows]]
    return "\n".join([f"## {table.title}", "", *lines, ""])
