"""Which runs can be held against each other, which setting is best, and whether the others really differ from it."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slr.core.console import ABSENT
from slr.evaluation.compare.runs import ComparisonKey, Run
from slr.evaluation.compare.significance import (
    LEVEL,
    SEEDS,
    Difference,
    Pair,
    holm,
    of_two_networks,
    over_seeds_and_clips,
)


class Spread(NamedTuple):
    """A metric over the seeds of a setting; `deviation` (n - 1) is None of a single seed."""

    mean: float
    deviation: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but the keys over which they repeat each other.

    Attributes:
        label: what sets it apart from the others it is compared with.
        seeds: value of those keys -> its runs, which are several where one was run again.
    """

    label: str
    seeds: dict[str, list[Run]]

    @property
    def runs(self) -> list[Run]:
        """All of its runs."""
        return [run for runs in self.seeds.values() for run in runs]

    def spread(self, part: str, metric: str) -> Spread:
        """A metric (top1, top5, mrr) of a part (val, test) over the seeds; runs of one seed count as their mean."""
        values = [mean(getattr(run, part)[metric].value for run in runs) for runs in self.seeds.values()]
        deviation = stdev(values) if len(values) > 1 else None
        return Spread(mean(values), deviation, min(values), max(values))

    def scores(self, metric: str) -> NDArray[np.float64]:
        """What each seed scores on each test clip: (R, C), clips sorted, of the R seeds whose rankings were read."""
        read = [[run for run in runs if run.places] for runs in self.seeds.values()]
        return np.array([np.mean([_scored(run, metric) for run in runs], axis=0) for runs in read if runs])


def _scored(run: Run, metric: str) -> NDArray[np.float64]:
    places = np.array([run.places[clip] for clip in sorted(run.places)])
    match metric:
        case "top1":
            return (places <= 1).astype(np.float64)
        case "top5":
            return (places <= 5).astype(np.float64)
        case "mrr":
            return 1 / places
    raise ValueError(f"expected top1, top5 or mrr, found {metric}")


@dataclass(frozen=True)
class Group:
    """Finished runs whose numbers stand on the same ground, and so may be ranked.

    Attributes:
        ground: what they share.
        settings: best first.
    """

    ground: ComparisonKey
    settings: list[Setting]

    @property
    def runs(self) -> list[Run]:
        """All of them, those of the best setting first."""
        return [run for setting in self.settings for run in setting.runs]


def comparable(runs: Sequence[Run], by: Sequence[str], metric: str) -> list[Group]:
    """The finished ones among the runs, apart by what their numbers stand on; most runs first.

    Args:
        runs: done or not.
        by: keys over which runs repeat each other.
        metric: top1, top5 or mrr.
    """
    groups: dict[ComparisonKey, list[Run]] = defaultdict(list)
    for run in runs:
        if run.ground is not None:
            groups[run.ground].append(run)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [Group(ground, ranked_settings(members, by, metric)) for ground, members in ordered]


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings that are not the same in all of the runs, in the configuration's order."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len({shown(run, key) for run in runs}) > 1]


def shown(run: Run, key: str) -> str:
    """A setting's value as it is typed; `ABSENT` where the run has no such setting."""
    if key not in run.settings:
        return ABSENT
    value = run.settings[key]
    if isinstance(value, str) and value and value.isprintable():
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def ranked_settings(runs: Sequence[Run], by: Sequence[str], metric: str) -> list[Setting]:
    """The runs gathered into settings, best first by the validation part; its mean reciprocal rank breaks ties.

    Args:
        runs: finished and comparable.
        by: keys over which runs repeat each other.
        metric: top1, top5 or mrr.
    """
    keys = [key for key in differing(runs) if key not in by]
    gathered: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        label = " ".join(f"{key}={shown(run, key)}" for key in keys)
        gathered[label][",".join(shown(run, key) for key in by)].append(run)
    settings = [
        Setting(label or "the one setting", dict(sorted(seeds.items(), key=lambda item: (len(item[0]), item[0]))))
        for label, seeds in gathered.items()
    ]

    def merit(setting: Setting) -> tuple[float, float]:
        # Six digits: a checkpoint keeps its metrics in float32.
        return round(setting.spread("val", metric).mean, 6), round(setting.spread("val", "mrr").mean, 6)

    return sorted(settings, key=merit, reverse=True)


class Answer(NamedTuple):
    """Whether a setting differs from the best one, as far as its runs can tell.

    Attributes:
        best: the setting that the validation part chose.
        other: the setting that is held against it.
        found: over seeds and clips; of two networks where either has a single run; or why neither can be said.
        p: the two-sided p that is judged, after Holm's correction for all questions of the kind; 1 where there is none.
    """

    best: Setting
    other: Setting
    found: Difference | Pair | str
    p: float

    @property
    def differs(self) -> bool:
        """Whether the difference is taken for real."""
        return self.p < LEVEL


def answers(settings: Sequence[Setting], metric: str, repeats: str) -> list[Answer]:
    """Each setting against the best one, the first."""
    best, *others = settings
    found = [_held_against(best, other, metric, repeats) for other in others]
    corrected: dict[int, float] = {}
    for kind in (Difference, Pair):
        ps = {number: what.p for number, what in enumerate(found) if isinstance(what, kind)}
        corrected |= zip(ps, holm(list(ps.values())), strict=True)
    return [
        Answer(best, other, what, corrected.get(number, 1.0))
        for number, (other, what) in enumerate(zip(others, found, strict=True))
    ]


def _held_against(best: Setting, other: Setting, metric: str, repeats: str) -> Difference | Pair | str:
    one, two = best.scores(metric), other.scores(metric)
    if len(best.runs) == len(other.runs) == len(one) == len(two) == 1:
        return of_two_networks(one[0], two[0])
    if min(len(one), len(two)) < SEEDS:
        unread = any(run.unread for run in [*best.runs, *other.runs])
        return f"not tested: expected {SEEDS} {repeats} or more of each, found {len(one)} and {len(two)}" + (
            " with rankings that can be read" if unread else ""
        )
    if one.shape[1] < 2:
        return "not tested: expected two test clips or more, found one"
    return over_seeds_and_clips(one, two)
