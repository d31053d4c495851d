"""Which runs are comparable, which setting is best, and whether the others really differ from it."""

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
from slr.evaluation.compare.significance import SEEDS, Difference, Pair, of_two_networks, over_seeds_and_clips


class Spread(NamedTuple):
    """A metric over the seeds of a setting; `deviation` (n - 1) is None of a single seed."""

    mean: float
    deviation: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but the keys over which they repeat each other."""

    label: str  # its values of the settings that differ among those it is compared with
    seeds: dict[str, list[Run]]  # value of the repeated keys -> its runs, several where one was run again

    @property
    def runs(self) -> list[Run]:
        """All of its runs."""
        return [run for runs in self.seeds.values() for run in runs]

    def spread(self, part: str, metric: str) -> Spread:
        """A metric (top1, top5, mrr) of a part (val, test) over the seeds; runs of one seed count as their mean."""
        values = [mean(getattr(run, part)[metric].value for run in runs) for runs in self.seeds.values()]
        deviation = stdev(values) if len(values) > 1 else None
        return Spread(mean(values), deviation, min(values), max(values))

    def merit(self, metric: str) -> tuple[float, float]:
        """What settings are ordered by: the validation metric, then its mean reciprocal rank."""
        # Six digits: a checkpoint keeps its metrics in float32.
        return round(self.spread("val", metric).mean, 6), round(self.spread("val", "mrr").mean, 6)

    def scores(self, metric: str) -> NDArray[np.float64]:
        """What each seed scores on each test clip: (R, C), clips sorted, of the R seeds whose rankings were read."""
        read = [[run for run in runs if run.ranks] for runs in self.seeds.values()]
        return np.array([np.mean([run.scores(metric) for run in runs], axis=0) for runs in read if runs])


@dataclass(frozen=True)
class Group:
    """Finished runs that are comparable, and so may be ranked."""

    ground: ComparisonKey  # what they share
    settings: list[Setting]  # best first

    @property
    def runs(self) -> list[Run]:
        """All of them, those of the best setting first."""
        return [run for setting in self.settings for run in setting.runs]


def comparable(runs: Sequence[Run], by: Sequence[str], metric: str) -> list[Group]:
    """The finished ones among the runs in comparable groups, the largest first; runs of a setting differ in `by`."""
    groups: dict[ComparisonKey, list[Run]] = defaultdict(list)
    for run in runs:
        if run.ground is not None:
            groups[run.ground].append(run)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [Group(ground, _ranked(members, by, metric)) for ground, members in ordered]


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


def _ranked(runs: Sequence[Run], by: Sequence[str], metric: str) -> list[Setting]:
    """Comparable runs gathered into settings, best first."""
    keys = [key for key in differing(runs) if key not in by]
    gathered: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        label = " ".join(f"{key}={shown(run, key)}" for key in keys)
        gathered[label or "the one setting"][",".join(shown(run, key) for key in by)].append(run)
    settings = [
        Setting(label, dict(sorted(seeds.items(), key=lambda item: (len(item[0]), item[0]))))
        for label, seeds in gathered.items()
    ]
    return sorted(settings, key=lambda setting: setting.merit(metric), reverse=True)


def tested(best: Setting, other: Setting, metric: str, repeats: str) -> Difference | Pair | str:
    """How two settings differ over seeds and clips, or two networks with one run each; or why it is not tested.

    `repeats` is what seeds are called.
    """
    one, two = best.scores(metric), other.scores(metric)
    if len(best.runs) == len(other.runs) == len(one) == len(two) == 1:
        return of_two_networks(one[0], two[0])
    if min(len(one), len(two)) < SEEDS:
        found = f"found {len(one)} and {len(two)} with readable rankings"
        return f"not tested: expected {SEEDS} {repeats} or more of each, {found}"
    if one.shape[1] < 2:
        return "not tested: expected two test clips or more, found one"
    return over_seeds_and_clips(one, two)
