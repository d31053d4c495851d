"""How many of WLASL's clips there are, and why the others are missing, as tables and files."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from slr.core.console import aligned
from slr.core.errors import UserError
from slr.core.files import write_json, write_whole
from slr.data.manifest import PARTS, read_manifest, read_rejected
from slr.prepare.ledger import read_ledger
from slr.prepare.wlasl import urls
from slr.prepare.wlasl.index import SUBSETS, Instance, first_glosses

MOST_SHOWN = 12  # glosses in a line of the terminal
Row = tuple[Instance, str]  # with the reason why there is no clip; an empty text where there is one
Table = list[list[str]]  # a header first


def write_report(listed: Sequence[Instance], chosen: Sequence[Instance], out: Path) -> str:
    """Write report.md and corrupted_videos.json beside the manifest; returns the report for a terminal.

    Raises:
        UserError: There is no manifest, or it is not of these instances.
    """
    rejected = read_rejected(out / "rejected.jsonl")
    reasons = {row.id: row.reason for row in rejected}
    reasons |= {clip.id: "" for clip in read_manifest(out / "manifest.jsonl")}
    if reasons.keys() != {instance.id for instance in chosen}:
        raise UserError(f"expected the manifest of what was selected in {out}, found another; run the stage manifest")
    rows = [(instance, reasons[instance.id]) for instance in chosen]
    lost = Counter(row.reason for row in rejected).most_common()
    parts = _counts("split", [*((part, _of(part, rows)) for part in PARTS), ("all", rows)])
    hosts = sorted(_grouped(rows, lambda instance: urls.host(instance.address)), key=lambda pair: -len(pair[1]))
    tables = {
        "By official split": parts,
        "By host": _counts("host", hosts, ("why",)),
        "Why clips were lost": [["reason", "clips"], *([reason, f"{count:,}"] for reason, count in lost)],
        "Against the official counts": _coverage(listed, rows),
    }
    plain = [title + "\n" + "\n".join(f"  {line}" for line in aligned(t).splitlines()) for title, t in tables.items()]
    tables["By gloss"] = _counts("gloss", _grouped(rows, lambda instance: instance.gloss), PARTS)
    notes = [*_without(rows), _short(out)]
    text = [*(_markdown(*pair) for pair in tables.items()), ""]
    text += [f"{words}: {', '.join(names) or 'none'}.\n" for words, names in notes]
    write_whole(out / "report.md", "# What became of WLASL's clips\n\n" + "\n".join(text))
    missing = [{"video_path": r.file, "gloss": r.gloss, "reason": f"{r.reason}: {r.detail}"} for r in rejected]
    write_json(out / "corrupted_videos.json", missing, indent=2)
    shown = [f"{words}: {_some(names)}" for words, names in notes]
    return "\n\n".join([*plain, "\n".join(shown), f"every gloss: {out / 'report.md'}"])


def _counts(name: str, groups: Iterable[tuple[str, Sequence[Row]]], more: Sequence[str] = ()) -> Table:
    """Clips that were wanted, are there and are lost by group; `more` are parts to count, or `why` clips were lost."""
    table = [[name, "wanted", "clips", "lost", "share", *more]]
    for key, rows in groups:
        clips = _clips(rows)
        share = f"{100 * clips / len(rows):.1f} %" if rows else "–"
        why = ", ".join(f"{reason} {count}" for reason, count in Counter(r for _, r in rows if r).most_common())
        last = [why if column == "why" else str(_clips(_of(column, rows))) for column in more]
        table.append([key or "(none)", f"{len(rows):,}", f"{clips:,}", f"{len(rows) - clips:,}", share, *last])
    return table


def _coverage(listed: Sequence[Instance], rows: Sequence[Row]) -> Table:
    """Clips against the official counts of each subset that was selected whole."""
    selected, table = {instance.gloss for instance, _ in rows}, [["subset", *PARTS]]
    for subset in SUBSETS:
        glosses = first_glosses(listed, subset)
        if subset != "core" and len(glosses) == int(subset) and glosses <= selected:
            groups = [_of(part, [row for row in rows if row[0].gloss in glosses]) for part in PARTS]
            table.append([f"WLASL{subset}", *(f"{_clips(group):,} of {len(group):,}" for group in groups)])
    return table


def _without(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    glosses = dict.fromkeys(instance.gloss for instance, _ in rows)
    notes = []
    for part in PARTS:
        there = {instance.gloss for instance, reason in _of(part, rows) if not reason}
        absent = [gloss for gloss in glosses if gloss not in there]
        notes.append((f"{len(absent):,} of {len(glosses):,} glosses without a {part} clip", absent))
    return notes


def _short(out: Path) -> tuple[str, list[str]]:
    """Clips that are kept although their range goes past the recording's end."""
    outcomes = (read_ledger(out / "source.json") or {"outcomes": {}})["outcomes"]
    short = [f"{name} by {outcome['lacking']}" for name, outcome in outcomes.items() if outcome.get("lacking")]
    return f"{len(short):,} clips end before their range does, by so many pictures", sorted(short)


def _grouped(rows: Sequence[Row], key: Callable[[Instance], str]) -> Iterable[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row[0]), []).append(row)
    return groups.items()


def _of(part: str, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row[0].part == part]


def _clips(rows: Sequence[Row]) -> int:
    return sum(not reason for _, reason in rows)


def _some(names: list[str]) -> str:
    return (", ".join(names[:MOST_SHOWN]) + (", …" if len(names) > MOST_SHOWN else "")) or "none"


def _markdown(title: str, table: Table) -> str:
    header, *cells = [[cell.replace("|", "\\|") for cell in row] for row in table]
    lines = [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *cells]]
    return "\n".join([f"## {title}", "", *lines, ""])
