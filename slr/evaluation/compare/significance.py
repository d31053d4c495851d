"""Whether two settings differ, judged over their seeds and over the clips; knows numbers alone.

A run's mean over its clips varies for two reasons: another seed trains another network, and other clips would be easier
for one setting than for the other. Seeds are nested in their setting, clips are crossed with both: what radiology calls
readers nested in a test, crossed with cases (Obuchowski & Rockette 1995; Hillis, Statistics in Medicine 33, 2014).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slr.evaluation.compare.student import quantile, two_sided

LEVEL = 0.05
SEEDS = 3  # of each setting, below which the spread over seeds cannot be told

Scores = NDArray[np.float64]  # (R, C): what each of R seeds scores on each of C clips


class Difference(NamedTuple):
    """The mean of one setting less that of another, with its 95 % interval and the two-sided p of equal settings."""

    value: float
    low: float
    high: float
    p: float


class Component(NamedTuple):
    """A part of a difference's variance, known with so many degrees of freedom."""

    variance: float
    freedom: int


def over_seeds_and_clips(one: Scores, other: Scores) -> Difference:
    """Welch's t on the seeds' means, with the interaction of setting and clip as a third component of variance.

    score[setting, seed, clip] = setting + clip + setting x clip + seed + rest. The clips' own difficulty cancels out
    of the difference; what is left is the seeds' spread of either setting, as in Welch (1947), and how much more the
    mean difference varies from clip to clip than the rest alone explains. No component is taken below what the rest
    makes of it by chance. Degrees of freedom by Satterthwaite (1946).

    Args:
        one: float64 (R, C), R >= 2 seeds on C >= 2 clips.
        other: float64 (R', C), on the same clips in the same order.

    Raises:
        ValueError: too few seeds or clips, or not the same number of clips.
    """
    if min(len(one), len(other)) < 2 or one.shape[1] != other.shape[1] or one.shape[1] < 2:
        raise ValueError(f"expected two seeds or more on the same two clips or more, found {one.shape}, {other.shape}")
    clips = one.shape[1]
    by_clip = one.mean(axis=0) - other.mean(axis=0)  # (C,)
    by_chance = sum(_rest(scores) / scores.size for scores in (one, other))
    components = [_seeds(one), _seeds(other)]
    components.append(Component(max(0.0, float(by_clip.var(ddof=1)) / clips - by_chance), clips - 1))
    return _judged(float(by_clip.mean()), components)


def _rest(scores: Scores) -> float:
    """Variance of what neither the seed nor the clip explains, per score."""
    left = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    return float((left**2).sum()) / ((len(scores) - 1) * (scores.shape[1] - 1))


def _seeds(scores: Scores) -> Component:
    """Variance of a setting's mean over seeds."""
    spread = max(float(scores.mean(axis=1).var(ddof=1)), _rest(scores) / scores.shape[1])
    return Component(spread / len(scores), len(scores) - 1)


def _judged(value: float, components: Sequence[Component]) -> Difference:
    variance = sum(component.variance for component in components)
    if variance == 0:  # every clip shows the same difference with every seed
        return Difference(value, value, value, float(value == 0))
    freedom = variance**2 / sum(component.variance**2 / component.freedom for component in components)
    error = math.sqrt(variance)
    reach = error * quantile(1 - LEVEL / 2, freedom)
    return Difference(value, value - reach, value + reach, two_sided(value / error, freedom))


class Pair(NamedTuple):
    """Two networks on the same clips: on how many either is ahead, and the two-sided p of equal chances."""

    ahead: int
    behind: int
    p: float


def of_two_networks(one: Scores, other: Scores) -> Pair:
    """The exact sign test over clips; of hits and misses it is McNemar's (Psychometrika 12, 1947; exact: binomial).

    Args:
        one: float64 (C,).
        other: float64 (C,), on the same clips in the same order.

    >>> of_two_networks(np.array([1.0, 1, 1, 1, 1, 1]), np.array([0.0, 0, 0, 0, 0, 1]))
    Pair(ahead=5, behind=0, p=0.0625)
    """
    ahead, behind = int((one > other).sum()), int((one < other).sum())
    n, fewer = ahead + behind, min(ahead, behind)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return Pair(ahead, behind, min(1.0, 2 * tail / 2**n))


def holm(ps: Sequence[float]) -> list[float]:
    """p of each of several questions asked at once, such that one false yes among them stays rare (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, largest = [0.0] * len(ps), 0.0
    for left, number in zip(range(len(ps), 0, -1), sorted(range(len(ps)), key=lambda number: ps[number]), strict=True):
        largest = max(largest, min(1.0, left * ps[number]))
        adjusted[number] = largest
    return adjusted
