import math

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    f1_score,
    label_ranking_average_precision_score,
    precision_recall_fscore_support,
    recall_score,
    top_k_accuracy_score,
)

from slr.core.errors import UserError
from slr.models.metrics import (
    METRICS,
    RankingMetrics,
    all_ranks,
    best_ranks,
    chance,
    figures,
    macro_f1,
    scores_by_gloss,
    true_ranks,
)


@pytest.fixture(scope="module", params=range(3))
def ranked(request):
    """Random scores of 200 clips over 12 glosses, of which the last has no clip."""
    rng = np.random.default_rng(request.param)
    glosses = rng.integers(11, size=200)
    scores = rng.normal(size=(200, 12))
    scores[np.arange(200), glosses] += 1
    return torch.from_numpy(scores).float(), torch.from_numpy(glosses)


def test_metrics_equal_scikit_learn(ranked):
    scores, glosses = ranked
    got = METRICS_OF(scores, glosses)
    labels = np.arange(12)
    assert got["top1"] == pytest.approx(top_k_accuracy_score(glosses, scores, k=1, labels=labels))
    assert got["top5"] == pytest.approx(top_k_accuracy_score(glosses, scores, k=5, labels=labels))
    assert got["top10"] == pytest.approx(top_k_accuracy_score(glosses, scores, k=10, labels=labels))
    truth = np.eye(12)[glosses]
    assert got["mrr"] == pytest.approx(label_ranking_average_precision_score(truth, scores))
    seen = np.unique(glosses)
    recall = recall_score(glosses, scores.argmax(1), labels=seen, average="macro", zero_division=0)
    assert got["top1_per_class"] == pytest.approx(recall)
    in_five = np.where((scores.argsort(1, descending=True)[:, :5] == glosses[:, None]).any(1), glosses, -1)
    recall5 = recall_score(glosses, in_five, labels=seen, average="macro", zero_division=0)
    assert got["top5_per_class"] == pytest.approx(recall5)


def METRICS_OF(scores, glosses):
    ranks = true_ranks(scores, glosses).numpy()
    return {name: metric(ranks, glosses.numpy()) for name, metric in METRICS.items()}


def test_the_torchmetric_over_batches_equals_all_at_once(ranked):
    scores, glosses = ranked
    metric = RankingMetrics()
    for rows in torch.arange(200).split(33):
        metric.update(scores[rows], glosses[rows])
    whole = METRICS_OF(scores, glosses)
    assert {name: figure.value for name, figure in metric.compute().items()} == pytest.approx(whole)
    assert {figure.n for figure in metric.compute().values()} == {200}
    metric.reset()
    metric.update(scores[:3], glosses[:3])
    assert metric.compute()["top1"].value == pytest.approx(METRICS_OF(scores[:3], glosses[:3])["top1"])


def test_equal_scores_rank_as_a_stable_sort_does():
    scores = torch.from_numpy(np.random.default_rng(0).integers(3, size=(50, 7))).float()
    glosses = torch.from_numpy(np.random.default_rng(1).integers(7, size=50))
    order = np.argsort(-scores.numpy(), axis=1, kind="stable")
    by_sort = 1 + (order == glosses.numpy()[:, None]).argmax(1)
    assert true_ranks(scores, glosses).tolist() == by_sort.tolist()


def test_wilson_interval_by_its_formula():
    ranks = np.array([1] * 37 + [3] * 13)
    figure = figures(ranks, np.arange(50) % 5)["top1"]
    z, p, n = 1.959963984540054, 37 / 50, 50
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (figure.low, figure.high) == pytest.approx(
        ((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))
    )
    assert figure.n == 50


def test_bootstrap_interval_covers_the_value_and_shrinks_with_clips():
    rng = np.random.default_rng(0)
    widths = []
    for n in (50, 800):
        figure = figures(rng.integers(1, 6, n), rng.integers(5, size=n))["mrr"]
        assert figure.low < figure.value < figure.high
        widths.append(figure.high - figure.low)
    assert 2.5 < widths[0] / widths[1] < 6.5  # about the square root of 16


def test_chance_is_what_guessing_gives():
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.normal(size=(40_000, 8)))
    glosses = torch.from_numpy(rng.integers(8, size=40_000))
    assert METRICS_OF(scores, glosses) == pytest.approx(chance(8), abs=0.01)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_model_that_computes_nonsense_does_not_win(bad):
    scores = torch.zeros(2, 3)
    scores[1, 2] = bad
    with pytest.raises(UserError, match="not finite"):
        true_ranks(scores, torch.tensor([0, 2]))


def test_f1_precision_and_recall_equal_scikit_learn(ranked):
    scores, glosses = (part.numpy() for part in ranked)
    first = scores.argmax(1)
    *expected, _ = precision_recall_fscore_support(glosses, first, labels=np.arange(12), zero_division=0)
    np.testing.assert_allclose(scores_by_gloss(first, glosses, 12), expected)
    seen = np.unique(glosses)  # the twelfth gloss has no clip: it is named in error, and has no share in the mean
    theirs = f1_score(glosses, first, labels=seen, average="macro", zero_division=0)
    assert macro_f1(first, glosses, 12) == pytest.approx(theirs)


@pytest.mark.parametrize("glosses", [[0, 1, 2, 3], [2, 2, 2], [5]], ids=["one clip each", "one class", "one clip"])
def test_small_parts_have_every_metric(glosses):
    scores = np.random.default_rng(1).integers(3, size=(len(glosses), 6)).astype(np.float32)  # with many ties
    ranks = true_ranks(torch.from_numpy(scores), torch.tensor(glosses)).numpy()
    by_sort = np.argsort(-scores, axis=1, kind="stable")
    assert ranks.tolist() == [1 + row.tolist().index(gloss) for row, gloss in zip(by_sort, glosses, strict=True)]
    found = figures(ranks, np.array(glosses))
    assert found["top1_per_class"].value == pytest.approx(
        np.mean([np.mean([r == 1 for r, g in zip(ranks, glosses, strict=True) if g == own]) for own in set(glosses)])
    )
    assert all(figure.low <= figure.value <= figure.high for figure in found.values())


def test_places_and_groups_equal_brute_force():
    rng = np.random.default_rng(2)
    scores = rng.integers(4, size=(60, 8)).astype(np.float32)
    glosses = rng.integers(8, size=60)
    groups = [[1, 4, 6], [2, 3]]
    found = best_ranks(all_ranks(scores), glosses, groups)
    for row, gloss, place in zip(scores, glosses, found, strict=True):
        order = sorted(range(8), key=lambda number, row=row: (-row[number], number))
        alike = next((group for group in groups if gloss in group), [gloss])
        assert place == min(1 + order.index(one) for one in alike)
    assert np.array_equal(
        best_ranks(all_ranks(scores), glosses, []), true_ranks(*map(torch.from_numpy, (scores, glosses)))
    )
