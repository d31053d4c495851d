"""Text of a comparison: lines and tables for a person, CSV for programs."""

import csv
import io
import itertools
import os
import textwrap
from collections import Counter
from collections.abc import Sequence
from statistics import mean

from slr.core.console import ABSENT, aligned
from slr.core.units import counted, format_bytes
from slr.evaluation.compare.runs import METRICS, Run, Score
from slr.evaluation.compare.settings import Group, Setting, differing, shown, tested
from slr.evaluation.compare.significance import LEVEL, SEEDS, Difference, Pair, holm

PARTS = {"val": "validation", "test": "test"}
TITLES = {"top1": "top-1", "top5": "top-5", "mrr": "mrr"}
WIDTH = 100  # of a terminal


def group_paragraphs(group: Group, by: Sequence[str], metric: str) -> list[str]:
    """Comparable runs: their table, their settings' table, which settings differ, and notes."""
    repeats = "seeds" if list(by) == ["seed"] else f"values of {','.join(by)}"
    paragraphs = [
        run_table(group.runs, by, metric),
        f"settings, best validation {TITLES[metric]} first:\n{setting_table(group.settings, metric, repeats)}",
    ]
    if len(group.settings) > 1:
        paragraphs.append("\n".join(sentences(group.settings, metric, repeats)))
    notes = [*tied(group.settings, metric), *repeated(group.settings, by), *made_with(group.runs)]
    notes += [f"note: not tested over clips: {run.unread}" for run in group.runs if run.unread]
    return [*paragraphs, "\n".join(notes)] if notes else paragraphs


def run_table(runs: Sequence[Run], by: Sequence[str], metric: str) -> str:
    """One row a run: settings that differ, scores with their 95 % intervals, cost."""
    keys = _columns(runs, by)
    scores = [("val", name) for name in dict.fromkeys(("top1", metric))] + [("test", name) for name in METRICS]
    titles = [f"{part} {TITLES[name]} [95 %]" for part, name in scores]
    rows = [["", *keys, *titles, "seconds", "memory", "run"]]
    for number, (run, place) in enumerate(zip(runs, _places(runs), strict=True), 1):
        values = [shown(run, key) for key in keys] + [_interval(getattr(run, part)[name]) for part, name in scores]
        rows.append([str(number), *values, f"{run.seconds:.0f}", _memory(run.memory), place])
    return aligned(rows, WIDTH)


def status_table(runs: Sequence[Run], by: Sequence[str]) -> str:
    """One row a run that is not done, and a line for each error."""
    keys, places = _columns(runs, by), _places(runs)
    rows = [[run.status, place, *(shown(run, key) for key in keys)] for run, place in zip(runs, places, strict=True)]
    errors = [f"{place}: {run.error}" for run, place in zip(runs, places, strict=True) if run.error]
    return "\n".join([aligned([["status", "run", *keys], *rows], WIDTH), *errors])


def setting_table(settings: Sequence[Setting], metric: str, repeats: str) -> str:
    """One row a setting, in the order given: mean, deviation and range over its seeds; mean seconds, highest peak."""
    title = TITLES[metric]
    head = ["", "setting", repeats, f"val {title}", "sd", "min – max", "val mrr", f"test {title}", "sd", "min – max"]
    rows = [[*head, "seconds", "memory"]]
    for number, setting in enumerate(settings, 1):
        memory = max((run.memory for run in setting.runs if run.memory is not None), default=None)
        rows.append(
            [
                *(str(number), setting.label, str(len(setting.seeds))),
                *_spread(setting, "val", metric),
                f"{setting.spread('val', 'mrr').mean:.3f}",
                *_spread(setting, "test", metric),
                f"{mean(run.seconds for run in setting.runs):.0f}",
                _memory(memory),
            ]
        )
    return aligned(rows, WIDTH)


def sentences(settings: Sequence[Setting], metric: str, repeats: str) -> list[str]:
    """Whether each setting differs from the best one, the first: a line with the verdict, and one with its figures."""
    best, *others = settings
    results = [tested(best, other, metric, repeats) for other in others]
    ps = [result.p for result in results if not isinstance(result, str)]  # all of one kind: seeds or networks
    corrected = iter(holm(ps))
    lines = [f"the validation part chose {best.label}; on the test part:"]
    for other, result in zip(others, results, strict=True):
        if isinstance(result, str):
            lines.append(f"{best.label} against {other.label}: {result}")
            continue
        p = next(corrected)
        verdict, figures = _judged(best.label, other.label, result, p, metric)
        also = f", corrected for {len(ps)} (Holm): {p:.2g}" if len(ps) > 1 else ""
        lines += [f"{best.label} against {other.label}: {verdict}", f"    {figures}, p = {result.p:.2g}{also}"]
    if any(isinstance(result, Pair) for result in results):
        advice = f"train {SEEDS} {repeats} or more of each"
        lines.append(f"This is about two networks: one run each says nothing of the settings; {advice}.")
    return lines


def _judged(best: str, other: str, result: Difference | Pair, p: float, metric: str) -> tuple[str, str]:
    """A verdict and its figures."""
    if isinstance(result, Pair):
        verdict = "these two networks differ" if p < LEVEL else "no difference of these two networks shown"
        test = "sign test of reciprocal ranks" if metric == "mrr" else f"McNemar test of {TITLES[metric]}"
        return verdict, f"better on {result.better}, worse on {result.worse} of the test clips, exact {test}"
    figures = f"test {TITLES[metric]} {result.value:+.3f}, 95 % interval {result.low:+.3f} to {result.high:+.3f}"
    if p >= LEVEL:
        return "no real difference shown", figures
    if result.value > 0:
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
            counts = ", ".join(f"{version} ({counted(count, 'run')})" for version, count in versions.most_common())
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


def why_apart(groups: Sequence[Group]) -> list[str]:
    """Which runs are comparable with each other, and in what each two groups differ."""
    places, lines = iter(_places([run for group in groups for run in group.runs])), []
    for number, group in enumerate(groups, 1):
        names = ", ".join(itertools.islice(places, len(group.runs)))
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


def _places(runs: Sequence[Run]) -> list[str]:
    """The runs' folders, relative to the deepest folder that holds them all."""
    root = os.path.commonpath([run.folder.parent for run in runs])
    return [os.path.relpath(run.folder, root) for run in runs]


def _columns(runs: Sequence[Run], by: Sequence[str]) -> list[str]:
    """The settings that differ, and those over which runs repeat each other in any case, these last."""
    return [key for key in differing(runs) if key not in by] + list(by)


def _interval(score: Score) -> str:
    return f"{score.value:.3f}" + ("" if score.low is None else f" [{score.low:.3f}, {score.high:.3f}]")


def _spread(setting: Setting, part: str, metric: str) -> list[str]:
    centre, deviation, low, high = setting.spread(part, metric)
    return [f"{centre:.3f}", ABSENT if deviation is None else f"{deviation:.3f}", f"{low:.3f} – {high:.3f}"]


def _memory(value: int | None) -> str:
    return ABSENT if value is None else format_bytes(value)
