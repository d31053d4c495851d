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
from scipy.special import bdtr, stdtr, stdtrit  # distribution functions; scipy.stats would cost a second to import

LEVEL = 0.05
SEEDS = 3  # of each setting, below which the spread over seeds cannot be told

Scores = NDArray[np.float64]  # (R, C): what each of R seeds scores on each of C clips


class Difference(NamedTuple):
    """The mean of one setting less that of another, with its 95 % interval and the two-sided p of equal settings."""

    value: float
    low: float
    high: float
    p: float


def over_seeds_and_clips(one: Scores, other: Scores) -> Difference:
    """Welch's t on the seeds' means, with the interaction of setting and clip as a third component of variance.

    score[setting, seed, clip] = setting + clip + setting x clip + seed + rest. The clips' own difficulty cancels out
    of the difference; what is left is the seeds' spread of either setting, as in Welch (1947), and how much more the
    mean difference varies from clip to clip than the rest alone explains. No component is taken below what the rest
    makes of it by chance. Degrees of freedom by Satterthwaite (1946).

    Args:
        one: float64 (R, C), R >= 2 seeds on C >= 2 clips.
        other: float64 (R', C), on the same clips in the same order.
    """
    clips = one.shape[1]
    by_clip = one.mean(axis=0) - other.mean(axis=0)  # (C,)
    by_chance = sum(_rest(scores) / scores.size for scores in (one, other))
    interaction = max(0.0, float(by_clip.var(ddof=1)) / clips - by_chance)
    components = np.array([_seeds(one), _seeds(other), interaction])
    value, variance = float(by_clip.mean()), float(components.sum())
    if variance == 0:  # every clip shows the same difference with every seed
        return Difference(value, value, value, float(value == 0))
    freedom = variance**2 / float((components**2 / [len(one) - 1, len(other) - 1, clips - 1]).sum())
    error = math.sqrt(variance)
    reach = error * float(stdtrit(freedom, 1 - LEVEL / 2))
    return Difference(value, value - reach, value + reach, 2 * float(stdtr(freedom, -abs(value) / error)))


def _rest(scores: Scores) -> float:
    """Variance of what neither the seed nor the clip explains, per score."""
    left = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    return float((left**2).sum()) / ((len(scores) - 1) * (scores.shape[1] - 1))


def _seeds(scores: Scores) -> float:
    """Variance of a setting's mean over seeds."""
    return max(float(scores.mean(axis=1).var(ddof=1)), _rest(scores) / scores.shape[1]) / len(scores)


class Pair(NamedTuple):
    """Two networks on the same clips: on how many either is better, and the two-sided p of equal chances."""

    better: int
    worse: int
    p: float


def of_two_networks(one: Scores, other: Scores) -> Pair:
    """The exact sign test over the same C clips, float64 (C,) each.

    Of hits and misses it is McNemar's (Psychometrika 12, 1947; exact: binomial).

    >>> of_two_networks(np.array([1.0, 1, 1, 1, 1, 1]), np.array([0.0, 0, 0, 0, 0, 1]))
    Pair(better=5, worse=0, p=0.0625)
    """
    better, worse = int((one > other).sum()), int((one < other).sum())
    return Pair(better, worse, min(1.0, 2 * float(bdtr(min(better, worse), better + worse, 0.5))))


def holm(ps: Sequence[float]) -> list[float]:
    """p of each of several questions asked at once, such that one false yes among them stays rare (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(ps)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.maximum.accumulate(np.minimum(1, np.sort(ps) * np.arange(len(ps), 0, -1)))
    return adjusted.tolist()
