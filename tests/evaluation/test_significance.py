import itertools

import numpy as np
import pytest
from scipy import stats

from slr.evaluation.compare.significance import holm, of_two_networks, over_seeds_and_clips

CLIPS = 400


def simulated(rng, seeds, ahead=0.0, spread=0.03, taste=0.5):
    """Hits of two settings, (R, C) each, on the same clips.

    Clips differ in difficulty (from hopeless to sure), either setting has its own taste in clips, a seed shifts all
    of a run's chances by `spread`, and a hit is drawn.
    """
    difficulty = rng.normal(0.5, 2, CLIPS)
    for lead in (ahead, 0.0):
        chance = 1 / (1 + np.exp(-(difficulty + rng.normal(0, taste, CLIPS))))
        shifted = chance + lead + rng.normal(0, spread, (seeds, 1))
        yield (rng.random((seeds, CLIPS)) < shifted).astype(np.float64)


def called_different(seeds, ahead, taste, pairs=200):
    rng = np.random.default_rng([seeds, round(100 * ahead), round(10 * taste)])
    found = [over_seeds_and_clips(*simulated(rng, seeds, ahead, taste=taste)) for _ in range(pairs)]
    return sum(difference.p < 0.05 for difference in found)


@pytest.mark.parametrize("taste", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_equal_settings_are_rarely_called_different(seeds, taste):
    count = called_different(seeds, 0.0, taste)
    print(f"{seeds} seeds, taste {taste}: {count} of 200 equal pairs called different")
    assert count <= 18


@pytest.mark.parametrize("taste", [0.0, 0.5])
def test_ten_points_are_found_with_five_seeds(taste):
    count = called_different(5, 0.10, taste)
    print(f"5 seeds, taste {taste}: {count} of 200 differences of ten points found")
    assert count >= 160


def test_the_interval_holds_the_truth_as_often_as_it_says():
    # Nothing is cut off at 0 or 1 here, so that the lead is exactly 0.1.
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        clips = rng.normal(0.5, 0.3, CLIPS)
        one, other = (
            lead + clips + rng.normal(0, 0.3, CLIPS) + rng.normal(0, 0.03, (4, 1)) + rng.normal(0, 0.3, (4, CLIPS))
            for lead in (0.1, 0.0)
        )
        found = over_seeds_and_clips(one, other)
        held += found.low <= 0.1 <= found.high
    assert 935 <= held <= 975  # 950 +- 2 standard deviations of the count, and what Satterthwaite is careful by


def test_without_taste_and_noise_it_is_welchs_test():
    rng = np.random.default_rng(1)
    clips = rng.random(30)
    one, other = clips + rng.normal(0.3, 0.1, (5, 1)), clips + rng.normal(0.2, 0.2, (3, 1))
    found = over_seeds_and_clips(one, other)
    expected = stats.ttest_ind(one.mean(axis=1), other.mean(axis=1), equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found.value == pytest.approx(one.mean() - other.mean())
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6)


def test_three_seeds_each_by_hand():
    """Nothing but the seeds varies: a pooled t test of 4 degrees of freedom, 97.5 % point 2.776 by the tables."""
    clips, seeds = np.array([0.2, 0.4, 0.9]), np.array([[-0.03], [0.0], [0.03]])
    error, point = 0.03 * np.sqrt(2 / 3), 2.7764451051977987
    found = over_seeds_and_clips(clips + seeds + point * error, clips + seeds)
    assert (found.low, found.high) == pytest.approx((0, 2 * point * error), abs=1e-9)
    assert found.p == pytest.approx(0.05, rel=1e-9)


def test_variance_is_that_of_the_model_by_brute_force():
    """Means over many simulated sets of runs vary as much as the intervals say."""
    rng = np.random.default_rng(2)
    pairs = [tuple(simulated(rng, 5, taste=1.0)) for _ in range(1500)]
    values = [float(one.mean() - other.mean()) for one, other in pairs]
    halves = []
    for one, other in pairs:
        found = over_seeds_and_clips(one, other)
        halves.append((found.high - found.value) / stats.t.ppf(0.975, 8))
    assert np.mean(np.square(halves)) == pytest.approx(np.var(values), rel=0.15)


def test_seeds_that_change_nothing_leave_the_clips_to_judge():
    """Three times the same network: the paired t test over clips, whose degrees of freedom are the clips'."""
    rng = np.random.default_rng(3)
    one, other = (rng.random(60) < 0.7).astype(float), (rng.random(60) < 0.5).astype(float)
    found = over_seeds_and_clips(np.tile(one, (3, 1)), np.tile(other, (3, 1)))
    assert found.p == pytest.approx(stats.ttest_rel(one, other).pvalue, rel=1e-6)


def test_nothing_to_tell_apart():
    same = np.tile([1.0, 0.0, 1.0], (3, 1))
    assert over_seeds_and_clips(same, same) == (0, 0, 0, 1)
    assert over_seeds_and_clips(np.ones((3, 9)), np.zeros((3, 9))) == (1, 1, 1, 0)


def test_exact_mcnemar_is_scipys_binomial_test():
    rng = np.random.default_rng(4)
    for n, chance in itertools.product((1, 7, 160, 2000), (0.3, 0.5, 0.9)):
        one, other = (rng.random(n) < 0.5).astype(float), (rng.random(n) < chance).astype(float)
        ahead, behind = int(((one == 1) & (other == 0)).sum()), int(((one == 0) & (other == 1)).sum())
        found = of_two_networks(one, other)
        assert (found.better, found.worse) == (ahead, behind)
        expected = stats.binomtest(ahead, ahead + behind).pvalue if ahead + behind else 1.0
        assert found.p == pytest.approx(expected, rel=1e-9)


def test_holm_is_closed_testing_with_bonferroni():
    rng = np.random.default_rng(5)
    for n in range(6):
        ps = rng.random(n) ** 3
        subsets = [s for size in range(1, n + 1) for s in itertools.combinations(range(n), size)]
        expected = [max(min(1.0, len(s) * min(ps[list(s)])) for s in subsets if number in s) for number in range(n)]
        assert holm(list(ps)) == pytest.approx(expected)
