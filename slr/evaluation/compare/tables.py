"""Text of a comparison: lines and tables for a person, CSV for programs."""

import csv
import io
import itertools
import os
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from slr.core.console import ABSENT, aligned
from slr.core.units import format_bytes
from slr.evaluation.compare.runs import METRICS, Run, Score
from slr.evaluation.compare.settings import Answer, Group, Setting, answers, differing, shown
from slr.evaluation.compare.significance import LEVEL, SEEDS, Difference, Pair

PARTS = {"val": "validation", "test": "test"}
TITLES = {"top1": "top-1", "top5": "top-5", "mrr": "mrr"}
WIDTH = 100  # of a terminal


def group_paragraphs(group: Group, by: Sequence[str], metric: str) -> list[str]:
    """Comparable runs: their table, their settings' table, which settings differ, and notes."""
    repeats = "seeds" if list(by) == ["seed"] else f"values of {','.join(by)}"
    best = group.settings[0].label
    paragraphs = [
        run_table(group.runs, by, metric),
        f"settings, best validation {TITLES[metric]} first:\n{setting_table(group.settings, metric, repeats)}",
    ]
    found = answers(group.settings, metric, repeats)
    if found:
        head = f"the validation part chose {best}; on the test part:"
        paragraphs.append("\n".join([head, *sentences(best, found, metric, repeats)]))
    notes = [*tied(group.settings, metric), *repeated(group.settings, by), *made_with(group.runs), *unread(group.runs)]
    return [*paragraphs, "\n".join(notes)] if notes else paragraphs


def run_table(runs: Sequence[Run], by: Sequence[str], metric: str) -> str:
    """One row a run: settings that differ, scores with their 95 % intervals, cost."""
    keys, root = _columns(runs, by), common_root(runs)
    scores = [("val", name) for name in dict.fromkeys(("top1", metric))] + [("test", name) for name in METRICS]
    titles = [f"{part} {TITLES[name]} [95 %]" for part, name in scores]
    rows = [["", *keys, *titles, "seconds", "memory", "run"]]
    for number, run in enumerate(runs, 1):
        values = [shown(run, key) for key in keys] + [_interval(getattr(run, part)[name]) for part, name in scores]
        place = os.path.relpath(run.folder, root)
        rows.append([str(number), *values, _seconds(run.seconds), _memory(run.memory), place])
    return aligned(rows, WIDTH)


def status_table(runs: Sequence[Run], by: Sequence[str]) -> str:
    """One row a run that is not done, and a line for each error."""
    keys, root = _columns(runs, by), common_root(runs)
    places = [os.path.relpath(run.folder, root) for run in runs]
    rows = [[run.status, place, *(shown(run, key) for key in keys)] for run, place in zip(runs, places, strict=True)]
    errors = [f"{place}: {run.error}" for run, place in zip(runs, places, strict=True) if run.error]
    return "\n".join([aligned([["status", "run", *keys], *rows], WIDTH), *errors])


def setting_table(settings: Sequence[Setting], metric: str, repeats: str) -> str:
    """One row a setting, in the order given: mean, deviation and range over its seeds; mean seconds, highest peak."""
    title = TITLES[metric]
    head = ["", "setting", repeats, f"val {title}", "sd", "min – max", "val mrr", f"test {title}", "sd", "min – max"]
    rows = [[*head, "seconds", "memory"]]
    for number, setting in enumerate(settings, 1):
        seconds = [run.seconds for run in setting.runs if run.seconds is not None]
        memory = [run.memory for run in setting.runs if run.memory is not None]
        rows.append(
            [
                *(str(number), setting.label, str(len(setting.seeds))),
                *_spread(setting, "val", metric),
                f"{setting.spread('val', 'mrr').mean:.3f}",
                *_spread(setting, "test", metric),
                _seconds(sum(seconds) / len(seconds) if seconds else None),
                _memory(max(memory, default=None)),
            ]
        )
    return aligned(rows, WIDTH)


def sentences(best: str, answers: Sequence[Answer], metric: str, repeats: str) -> list[str]:
    """Whether the best setting and each other one differ: a line with the verdict, and one with its figures."""
    lines = []
    for other, found, p, questions in answers:
        if isinstance(found, str):
            lines.append(f"{best} against {other.label}: {found}")
        else:
            verdict, figures = _judged(best, other.label, found, p, metric)
            corrected = f", Holm's for {questions} questions {p:.2g}" if questions > 1 else ""
            lines.append(f"{best} against {other.label}: {verdict}")
            lines.append(f"    {figures}, p = {found.p:.2g}{corrected}")
    if any(isinstance(answer.found, Pair) for answer in answers):
        lines.append(
            f"This is about two networks: one run each says nothing of the settings; "
            f"train {SEEDS} {repeats} or more of each."
        )
    return lines


def _judged(best: str, other: str, found: Difference | Pair, p: float, metric: str) -> tuple[str, str]:
    """A verdict and its figures."""
    if isinstance(found, Pair):
        verdict = "these two networks differ" if p < LEVEL else "no difference of these two networks shown"
        test = "sign test of reciprocal ranks" if metric == "mrr" else f"McNemar test of {TITLES[metric]}"
        return verdict, f"better on {found.better}, worse on {found.worse} of the test clips, exact {test}"
    figures = f"test {TITLES[metric]} {found.value:+.3f}, 95 % interval {found.low:+.3f} to {found.high:+.3f}"
    if p >= LEVEL:
        return "no real difference shown", figures
    if found.value > 0:
        return f"{best} won, the difference is real", figures
    return f"{other} won, the difference is real, though the validation part ranks it lower", figures


def tied(settings: Sequence[Setting], metric: str) -> list[str]:
    """A line for the settings of equal validation metric, whose order another metric decided."""
    lines = []
    for value, group in itertools.groupby(enumerate(settings, 1), key=lambda pair: pair[1].merit(metric)[0]):
        numbers, tie = zip(*group, strict=True)
        if len({setting.merit(metric) for setting in tie}) > 1:
            same = f"settings {', '.join(map(str, numbers))} have the same validation {TITLES[metric]}, {value:.3f}"
            lines.append(f"note: {same}; their mean reciprocal rank (mrr) decided")
    return lines


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
    """Which runs are comparable with each other, and in what each two groups differ."""
    root = common_root([run for group in groups for run in group.runs])
    lines = []
    for number, group in enumerate(groups, 1):
        names = ", ".join(os.path.relpath(run.folder, root) for run in group.runs)
        line = f"group {number}, comparable with each other: {names}"
        lines += textwrap.wrap(line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    for (one, first), (other, second) in itertools.combinations(enumerate(groups, 1), 2):
        lines.append(f"groups {one} and {other} are not comparable: {first.ground.against(second.ground)}")
    return lines


def csv_text(groups: Sequence[Group], runs: Sequence[Run], by: Sequence[str]) -> str:
    """One row a run, done or not, with every setting that differs and, in `group`, which ones are comparable.

    Columns: group, status, settings, `<part>_<metric>` with `_low` and `_high` of the 95 % interval, seconds, memory in
    bytes, folder.
    """
    numbers = {group.ground: number for number, group in enumerate(groups, 1)}
    keys = _columns(runs, by)
    scores = [(part, name) for part in PARTS for name in METRICS]
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


def _spread(setting: Setting, part: str, metric: str) -> list[str]:
    mean, deviation, low, high = setting.spread(part, metric)
    return [f"{mean:.3f}", ABSENT if deviation is None else f"{deviation:.3f}", f"{low:.3f} – {high:.3f}"]


def _seconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.0f}"


def _memory(value: float | None) -> str:
    return ABSENT if value is None else format_bytes(value)
