"""Metrics of rankings with their uncertainty: top-k, per instance and per class, and mean reciprocal rank."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest, rankdata
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from slr.core import distributed
from slr.core.errors import UserError

# How torchmetrics gathers from all processes; its own way cannot tell a process that died from an error.
SHARED: dict[str, Any] = {
    "dist_sync_fn": distributed.gather_tensors,
    "distributed_available_fn": lambda: distributed.place().world > 1,
}

Ranks = NDArray[np.int64]  # (n,) rank of the true gloss of each clip, 1 is first
Glosses = NDArray[np.int64]  # (n,) the true gloss of each clip


def true_ranks(log_probability: Tensor, gloss: Tensor) -> Tensor:
    """The rank of each clip's true gloss.

    Args:
        log_probability: (B, K), any real numbers.
        gloss: int64 (B,), the true gloss in [0, K).

    Returns:
        int64 (B,) in [1, K]. Equal glosses rank in the vocabulary's order, as a stable sort puts them.

    Raises:
        UserError: a log-probability is not finite: a model that computes NaN would otherwise beat every other.

    >>> true_ranks(torch.tensor([[-1.0, -3.0, -1.0]]).repeat(3, 1), torch.tensor([0, 1, 2])).tolist()
    [1, 3, 2]
    """
    if not log_probability.isfinite().all():
        raise UserError(
            "the model's probabilities are not finite: its weights or its arithmetic have overflowed; "
            "lower optimizer.lr, or use hardware.precision=32-true"
        )
    own = log_probability.gather(1, gloss[:, None])  # (B, 1)
    before = torch.arange(log_probability.shape[1], device=gloss.device) < gloss[:, None]
    ahead = (log_probability > own) | ((log_probability == own) & before)
    return 1 + ahead.sum(dim=1)


def best_ranks(ranks: NDArray[np.int64], glosses: Glosses, groups: Sequence[Sequence[int]]) -> Ranks:
    """The best rank in each clip's ranking of the true gloss and those that count as the same.

    Args:
        ranks: int (n, K), the rank of every gloss, 1 is first.
        glosses: int (n,).
        groups: of glosses that count as one; each gloss is in at most one of them.
    """
    alike = np.eye(ranks.shape[1], dtype=bool)
    for group in groups:
        alike[np.ix_(group, group)] = True
    return np.where(alike[glosses], ranks, ranks.shape[1]).min(axis=1)


def all_ranks(log_probability: NDArray[np.float32]) -> NDArray[np.int64]:
    """The rank of every gloss, int64 (n, K) from 1 on; equal ones in the vocabulary's order.

    >>> all_ranks(np.array([[-2.0, -1.0, -2.0]], dtype=np.float32)).tolist()
    [[2, 1, 3]]
    """
    return rankdata(-log_probability, method="ordinal", axis=1)


def top(ranks: Ranks, glosses: Glosses, k: int) -> float:
    """Share of clips whose true gloss is among the first `k`: per instance."""
    return float((ranks <= k).mean())


def top_per_class(ranks: Ranks, glosses: Glosses, k: int) -> float:
    """Mean over glosses of the share among each gloss's clips: per class. Glosses without clips are left out."""
    count = np.bincount(glosses)
    hits = np.bincount(glosses, weights=ranks <= k)
    return float((hits[count > 0] / count[count > 0]).mean())


def mean_reciprocal_rank(ranks: Ranks, glosses: Glosses) -> float:
    """Mean of one over the true gloss's rank, in (0, 1] (Voorhees, TREC-8, 1999)."""
    return float((1 / ranks).mean())


PER_INSTANCE = {"top1": 1, "top5": 5, "top10": 10}
METRICS: Mapping[str, Callable[[Ranks, Glosses], float]] = {
    **{name: partial(top, k=k) for name, k in PER_INSTANCE.items()},
    "mrr": mean_reciprocal_rank,
    **{f"{name}_per_class": partial(top_per_class, k=k) for name, k in PER_INSTANCE.items()},
}
SAMPLES = 2000  # of the bootstrap


class Figure(NamedTuple):  # torchmetrics unpacks results, and refuses frozen dataclasses
    """A metric over `n` clips with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def figures(ranks: Ranks, glosses: Glosses) -> dict[str, Figure]:
    """Every metric of `METRICS` with its interval, the same digits in any order of the clips.

    Shares per instance get Wilson's score interval; means over classes or of reciprocal ranks the percentile bootstrap
    over clips (Efron 1979; 2,000 samples, seed fixed).
    """
    order = np.lexsort((ranks, glosses))  # several processes gather clips in another order than one process
    ranks, glosses = ranks[order], glosses[order]
    samples = resamples(len(ranks))
    return {
        name: wilson(metric(ranks, glosses), len(ranks))
        if name in PER_INSTANCE
        else bootstrap(lambda rows, metric=metric: metric(ranks[rows], glosses[rows]), samples)
        for name, metric in METRICS.items()
    }


def wilson(share: float, n: int) -> Figure:
    """A share of `n` clips with Wilson's score interval."""
    interval = binomtest(round(share * n), n).proportion_ci(method="wilson")
    return Figure(share, float(interval.low), float(interval.high), n)


def resamples(n: int) -> NDArray[np.int64]:
    """Indices of n clips drawn with replacement, always the same: int64 (SAMPLES, n), in [0, n)."""
    return np.random.default_rng(0).integers(n, size=(SAMPLES, n))


def bootstrap(metric: Callable[[NDArray[np.int64]], float], samples: NDArray[np.int64]) -> Figure:
    """A metric with its percentile interval.

    Args:
        metric: of the clips with these indices, int (n,), some of them more than once.
        samples: from `resamples`.
    """
    n = samples.shape[1]
    low, high = np.quantile([metric(rows) for rows in samples], (0.025, 0.975))
    return Figure(metric(np.arange(n)), float(low), float(high), n)


def scores_by_gloss(first: Glosses, glosses: Glosses, count: int) -> NDArray[np.float64]:
    """Precision, recall and F1 of each gloss: (3, K), 0 where a gloss has no clips or is never named.

    Args:
        first: int (n,), what each clip is named.
        glosses: int (n,), what it is.
        count: K.
    """
    true, named = np.bincount(glosses, minlength=count), np.bincount(first, minlength=count)
    right = np.bincount(glosses[first == glosses], minlength=count)
    return np.stack([right, right, 2 * right]) / np.maximum([named, true, true + named], 1)


def macro_f1(first: Glosses, glosses: Glosses, count: int) -> float:
    """Mean F1 of the glosses that have clips; arguments as of `scores_by_gloss`."""
    return float(scores_by_gloss(first, glosses, count)[2, np.unique(glosses)].mean())


def chance(glosses: int) -> dict[str, float]:
    """Every metric's value for guessing among `glosses`.

    >>> round(chance(4)["mrr"], 4)  # (1 + 1/2 + 1/3 + 1/4) / 4
    0.5208
    """
    shares = {name: min(k, glosses) / glosses for name, k in PER_INSTANCE.items()}
    per_class = {f"{name}_per_class": share for name, share in shares.items()}
    return shares | {"mrr": float((1 / np.arange(1, glosses + 1)).mean())} | per_class


class RankingMetrics(Metric):
    """`METRICS` over all batches of all processes; each process needs at least one batch, which may be empty."""

    full_state_update = False
    ranks: list[Tensor]
    glosses: list[Tensor]

    def __init__(self) -> None:
        super().__init__(**SHARED)
        self.add_state("ranks", default=[], dist_reduce_fx="cat")
        self.add_state("glosses", default=[], dist_reduce_fx="cat")

    def update(self, log_probability: Tensor, gloss: Tensor) -> None:
        """Add one batch: (B, K) and int64 (B,)."""
        self.ranks.append(true_ranks(log_probability, gloss))
        self.glosses.append(gloss)

    def compute(self) -> dict[str, Figure]:
        """Name -> value with its interval and n."""
        return figures(*(dim_zero_cat(state).cpu().numpy() for state in (self.ranks, self.glosses)))
