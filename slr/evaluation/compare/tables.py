"""What a comparison says: lines and tables for a person, CSV for programs."""

import csv
import io
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from slr.core.console import ABSENT, aligned, folded
from slr.core.units import format_bytes
from slr.evaluation.compare.runs import METRICS, Run, Score
from slr.evaluation.compare.settings import Answer, Group, Setting, Spread, answers, differing, shown
from slr.evaluation.compare.significance import SEEDS, Difference, Pair

PARTS = {"val": "validation", "test": "test"}
TITLES = {"top1": "top-1", "top5": "top-5", "mrr": "mrr"}


def group_paragraphs(group: Group, by: Sequence[str], metric: str) -> list[str]:
    """What is known of comparable runs: their table, their settings' table, what differs, and what to mind."""
    repeats = "seeds" if list(by) == ["seed"] else f"values of {','.join(by)}"
    best = group.settings[0]
    paragraphs = [
        run_table(group.runs, by, metric),
        f"settings, best validation {TITLES[metric]} first:\n{setting_table(group.settings, metric, repeats)}",
    ]
    found = answers(group.settings, metric, repeats)
    if found:
        head = f"the validation part chose {best.label}; on the test part:"
        paragraphs.append("\n".join([head, *sentences(found, metric, repeats)]))
    notes = [*repeated(group.settings, by), *made_with(group.runs), *unread(group.runs)]
    return [*paragraphs, "\n".join(notes)] if notes else paragraphs


def run_table(runs: Sequence[Run], by: Sequence[str], metric: str) -> str:
    """One row a run: settings that differ, scores with their 95 % intervals, cost."""
    keys = _columns(runs, by)
    scores = [("val", name) for name in dict.fromkeys(("top1", metric))] + [("test", name) for name in METRICS]
    head = [*keys, *(f"{part} {TITLES[name]} [95 %]" for part, name in scores), "seconds", "memory", "run"]
    root = common_root(runs)
    rows = [
        [
            *(shown(run, key) for key in keys),
            *(_interval(getattr(run, part)[name]) for part, name in scores),
            _seconds(run.seconds),
            _memory(run.memory),
            os.path.relpath(run.folder, root),
        ]
        for run in runs
    ]
    return folded([head, *rows], len(keys))


def status_table(runs: Sequence[Run], by: Sequence[str]) -> str:
    """One row a run that is not done."""
    keys = _columns(runs, by)
    root = common_root(runs)
    rows = [
        [run.status, *(shown(run, key) for key in keys), os.path.relpath(run.folder, root), run.error] for run in runs
    ]
    return aligned([["status", *keys, "run", "error"], *rows])


def setting_table(settings: Sequence[Setting], metric: str, repeats: str) -> str:
    """One row a setting, in the order given: mean, deviation and range over its seeds; mean seconds, highest peak."""
    title = TITLES[metric]
    head = ["", "setting", repeats, f"val {title}", "sd", "min – max", "val mrr", f"test {title}", "sd", "min – max"]
    rows = [[*head, "seconds", "memory"]]
    for number, setting in enumerate(settings, 1):
        val, test = setting.spread("val", metric), setting.spread("test", metric)
        seconds = [run.seconds for run in setting.runs if run.seconds is not None]
        memory = [run.memory for run in setting.runs if run.memory is not None]
        rows.append(
            [
                str(number),
                setting.label,
                str(len(setting.seeds)),
                *_spread(val),
                f"{setting.spread('val', 'mrr').mean:.3f}",
                *_spread(test),
                _seconds(sum(seconds) / len(seconds) if seconds else None),
                _memory(max(memory, default=None)),
            ]
        )
    return folded(rows, 2)


def sentences(answers: Sequence[Answer], metric: str, repeats: str) -> list[str]:
    """What is known of the differences between the best setting and the others, one line each."""
    lines = []
    for answer in answers:
        head = f"{answer.best.label} against {answer.other.label}: "
        match answer.found:
            case Difference():
                questions = sum(isinstance(other.found, Difference) for other in answers)
                lines.append(head + _of_settings(answer, answer.found, metric, questions))
            case Pair():
                questions = sum(isinstance(other.found, Pair) for other in answers)
                lines.append(head + _of_networks(answer, answer.found, metric, questions))
            case reason:
                lines.append(head + reason)
    if any(isinstance(answer.found, Pair) for answer in answers):
        lines.append(
            f"That is about these networks: one run each says nothing of the settings; "
            f"train {SEEDS} {repeats} or more of each."
        )
    return lines


def _of_settings(answer: Answer, found: Difference, metric: str, questions: int) -> str:
    figures = (
        f"test {TITLES[metric]} {found.value:+.3f} (95 % interval {found.low:+.3f} to {found.high:+.3f}; "
        f"{_p(found.p, answer.p, questions)}): "
    )
    if not answer.differs:
        return figures + "no real difference shown"
    if found.value > 0:
        return figures + f"{answer.best.label} won, the difference is real"
    return figures + f"{answer.other.label} won, the difference is real, though the validation part ranks it lower"


def _of_networks(answer: Answer, found: Pair, metric: str, questions: int) -> str:
    test = "sign test of reciprocal ranks" if metric == "mrr" else f"McNemar test of {TITLES[metric]}"
    figures = (
        f"ahead on {found.ahead} test clips, behind on {found.behind} "
        f"(exact {test}, {_p(found.p, answer.p, questions)}): "
    )
    return figures + ("these two networks differ" if answer.differs else "no difference of these two networks shown")


def _p(alone: float, corrected: float, questions: int) -> str:
    return f"p = {alone:.2g}" + (f", Holm's for {questions} questions {corrected:.2g}" if questions > 1 else "")


def made_with(runs: Sequence[Run]) -> list[str]:
    """A line for the code and each package of which the runs have different versions."""
    lines = []
    for name in dict.fromkeys(name for run in runs for name in run.made_with):
        versions = Counter(run.made_with.get(name, "none") for run in runs)
        if len(versions) > 1:
            counts = ", ".join(f"{version} ({counted(count)})" for version, count in versions.most_common())
            what = {"code": "slr's code (hashes)", "base": "the base model's weights (hashes)"}.get(name, name)
            lines.append(f"note: made with different versions of {what}: {counts}")
    return lines


def repeated(settings: Sequence[Setting], by: Sequence[str]) -> list[str]:
    """A line for each seed of a setting that was run more than once."""
    return [
        f"note: {setting.label} has {len(runs)} runs of {','.join(by)}={seed}; they count as one, with their mean"
        for setting in settings
        for seed, runs in setting.seeds.items()
        if len(runs) > 1
    ]


def unread(runs: Sequence[Run]) -> list[str]:
    """A line for each run whose rankings cannot be tested."""
    return [f"note: not tested over clips: {run.unread}" for run in runs if run.unread]


def why_apart(groups: Sequence[Group]) -> list[str]:
    """Which runs are comparable with each other, and what separates each two groups."""
    lines = []
    for number, group in enumerate(groups, 1):
        root = common_root([run for group in groups for run in group.runs])
        names = ", ".join(os.path.relpath(run.folder, root) for run in group.runs)
        lines.append(f"group {number}, comparable with each other: {names}")
    for (one, first), (other, second) in itertools.combinations(enumerate(groups, 1), 2):
        reason = first.ground.against(second.ground)
        lines.append(f"groups {one} and {other} are not ranked against each other, for they differ: {reason}")
    return lines


def csv_text(groups: Sequence[Group], runs: Sequence[Run], by: Sequence[str]) -> str:
    """One row a run, done or not, with every setting that differs and, in `group`, which ones are comparable.

    Columns: group, status, settings, `<part>_<metric>` with `_low` and `_high` of the 95 % interval, seconds, memory in
    bytes, folder.
    """
    numbers = {group.ground: number for number, group in enumerate(groups, 1)}
    keys = _columns(runs, by)
    scores = [(part, name) for part in ("val", "test") for name in METRICS]
    sides = [f"{part}_{name}{side}" for part, name in scores for side in ("", "_low", "_high")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["group", "status", *keys, *sides, "seconds", "memory", "folder"])
    for run in runs:
        group = numbers[run.ground] if run.ground else None
        values = [shown(run, key) if key in run.settings else None for key in keys]
        figures = [side for part, name in scores for side in (getattr(run, part)[name] if run.ground else [None] * 3)]
        writer.writerow([group, run.status, *values, *figures, run.seconds, run.memory, run.folder])
    return out.getvalue()


def counted(runs: int) -> str:
    """A number of runs in words."""
    return f"{runs} run" if runs == 1 else f"{runs} runs"


def common_root(runs: Sequence[Run]) -> Path:
    """The deepest folder that holds all of the runs' folders."""
    return Path(os.path.commonpath([run.folder.parent for run in runs]))


def _columns(runs: Sequence[Run], by: Sequence[str]) -> list[str]:
    """The settings that differ, and those over which runs repeat each other in any case, these last."""
    return [key for key in differing(runs) if key not in by] + list(by)


def _interval(score: Score) -> str:
    return f"{score.value:.3f}" + ("" if score.low is None else f" [{score.low:.3f}, {score.high:.3f}]")


def _spread(spread: Spread) -> list[str]:
    deviation = ABSENT if spread.deviation is None else f"{spread.deviation:.3f}"
    return [f"{spread.mean:.3f}", deviation, f"{spread.low:.3f} – {spread.high:.3f}"]


def _seconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.0f}"


def _memory(value: float | None) -> str:
    return ABSENT if value is None else format_bytes(value)
