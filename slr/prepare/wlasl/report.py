"""How many of WLASL's clips there are, and why the others are missing, as tables and files."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from slr.core.console import aligned
from slr.core.errors import UserError
from slr.core.files import write_json, write_whole
from slr.data.manifest import PARTS, read_manifest, read_rejected
from slr.prepare.ledger import read_ledger
from slr.prepare.wlasl import urls
from slr.prepare.wlasl.index import SUBSETS, Instance

MOST_SHOWN = 12  # glosses in a line of the terminal
COUNTS = ["wanted", "clips", "lost", "share"]
Reasons = dict[str, str]  # by id, why there is no clip; an empty text where there is one
Table = tuple[str, list[list[str]]]  # title and rows, a header first


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
    groups = {part: _of(part, chosen) for part in PARTS} | {"all": chosen}
    lost = Counter(row.reason for row in rejected).most_common()
    tables = [
        ("By official split", [["split", *COUNTS], *([name, *_share(g, reasons)] for name, g in groups.items())]),
        _by_host(chosen, reasons),
        ("Why clips were lost", [["reason", "clips"], *([reason, f"{count:,}"] for reason, count in lost)]),
        _coverage(listed, chosen, reasons),
    ]
    notes = [*_without(chosen, reasons), _short(out)]
    full = [_markdown(*table) for table in [*tables, _by_gloss(chosen, reasons)]]
    glosses = [f"{words}: {', '.join(names) or 'none'}.\n" for words, names in notes]
    write_whole(out / "report.md", "# What became of WLASL's clips\n\n" + "\n".join([*full, "", *glosses]))
    rows = [{"video_path": row.file, "gloss": row.gloss, "reason": f"{row.reason}: {row.detail}"} for row in rejected]
    write_json(out / "corrupted_videos.json", rows, indent=2)
    plain = [title + "\n" + "\n".join(f"  {line}" for line in aligned(rows).splitlines()) for title, rows in tables]
    shown = [f"{words}: {_some(names)}" for words, names in notes]
    return "\n\n".join([*plain, "\n".join(shown), f"every gloss: {out / 'report.md'}"])


def _by_host(chosen: Sequence[Instance], reasons: Reasons) -> Table:
    rows = [["host", *COUNTS, "why"]]
    groups = _grouped(chosen, lambda instance: urls.host(instance.address))
    for host, group in sorted(groups.items(), key=lambda pair: -len(pair[1])):
        lost = Counter(reasons[instance.id] for instance in group if reasons[instance.id])
        why = ", ".join(f"{reason} {count}" for reason, count in lost.most_common())
        rows.append([host or "(none)", *_share(group, reasons), why])
    return "By host", rows


def _coverage(listed: Sequence[Instance], chosen: Sequence[Instance], reasons: Reasons) -> Table:
    """Clips against the official counts of each subset that was selected whole."""
    glosses = list(dict.fromkeys(instance.gloss for instance in listed))
    selected = {instance.gloss for instance in chosen}
    rows = [["subset", *PARTS]]
    for size in [int(subset) for subset in SUBSETS if subset != "core"]:
        names = set(glosses[:size])
        if size <= len(glosses) and names <= selected:
            groups = [_of(part, [i for i in chosen if i.gloss in names]) for part in PARTS]
            rows.append([f"WLASL{size}", *(f"{_clips(group, reasons):,} of {len(group):,}" for group in groups)])
    return "Against the official counts", rows


def _by_gloss(chosen: Sequence[Instance], reasons: Reasons) -> Table:
    rows = [["gloss", *COUNTS, *PARTS]]
    for gloss, group in _grouped(chosen, lambda instance: instance.gloss).items():
        rows.append([gloss, *_share(group, reasons), *(str(_clips(_of(part, group), reasons)) for part in PARTS)])
    return "By gloss", rows


def _without(chosen: Sequence[Instance], reasons: Reasons) -> list[tuple[str, list[str]]]:
    glosses = dict.fromkeys(instance.gloss for instance in chosen)
    notes = []
    for part in PARTS:
        there = {instance.gloss for instance in _of(part, chosen) if not reasons[instance.id]}
        absent = [gloss for gloss in glosses if gloss not in there]
        notes.append((f"{len(absent):,} of {len(glosses):,} glosses without a {part} clip", absent))
    return notes


def _short(out: Path) -> tuple[str, list[str]]:
    """Clips that are kept although their range goes past the recording's end."""
    outcomes = (read_ledger(out / "source.json") or {"outcomes": {}})["outcomes"]
    short = [f"{name} by {outcome['lacking']}" for name, outcome in outcomes.items() if outcome.get("lacking")]
    return f"{len(short):,} clips end before their range does, by so many pictures", sorted(short)


def _grouped(chosen: Iterable[Instance], key: Callable[[Instance], str]) -> dict[str, list[Instance]]:
    groups: dict[str, list[Instance]] = defaultdict(list)
    for instance in chosen:
        groups[key(instance)].append(instance)
    return groups


def _of(part: str, group: Iterable[Instance]) -> list[Instance]:
    return [instance for instance in group if instance.part == part]


def _clips(group: Iterable[Instance], reasons: Reasons) -> int:
    return sum(not reasons[instance.id] for instance in group)


def _share(group: Sequence[Instance], reasons: Reasons) -> list[str]:
    clips = _clips(group, reasons)
    share = f"{100 * clips / len(group):.1f} %" if group else "–"
    return [f"{len(group):,}", f"{clips:,}", f"{len(group) - clips:,}", share]


def _some(names: list[str]) -> str:
    return (", ".join(names[:MOST_SHOWN]) + (", …" if len(names) > MOST_SHOWN else "")) or "none"


def _markdown(title: str, rows: list[list[str]]) -> str:
    header, *cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *cells]]
    return "\n".join([f"## {title}", "", *lines, ""])
