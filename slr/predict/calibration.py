"""Temperature, calibration error, and which clips are too unlike the training clips to answer. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from slr.core.errors import UserError
from slr.core.files import replacing

LogProbability = NDArray[np.float32]  # (n, K), natural logs, not renormalised
States = NDArray[np.float32]  # (n, D), of slr.models.ranking.RankOutput
FILE = "calibration.safetensors"
BINS = 15
ANSWERED = 0.95  # share of validation clips that are answered
RANGE = (0.05, 20.0)  # of temperatures
# Numbers in a file's header.
NUMBERS = {"temperature": float, "threshold": float, "answered": float, "n": int, "seconds": float}


class Predictions(NamedTuple):
    """Rankings of n clips, and the state that each came from."""

    log_probability: LogProbability
    state: States


@dataclass(frozen=True, eq=False)
class Familiarity:
    """How near a clip is to the training clips: minus Mahalanobis's distance from the nearest gloss (Lee et al.,
    NeurIPS 2018).

    A model's probabilities do not show that a sign is unknown: softmax over the vocabulary adds up to 1, and
    log-probabilities too are high where an unknown sign shares a movement with a known one.
    """

    means: NDArray[np.float32]  # (G, D), the mean state of each gloss in the training part
    precision: NDArray[np.float32]  # (D, D), inverse of the covariance around them, which all glosses share

    def scores(self, states: States) -> NDArray[np.float64]:
        """Minus the distance in standard deviations, (n,), 0 at most."""
        nearest = np.full(len(states), np.inf)
        for mean in self.means.astype(np.float64):  # one at a time: (n, G, D) of a large vocabulary is gigabytes
            apart = states - mean
            nearest = np.minimum(nearest, ((apart @ self.precision) * apart).sum(axis=1))
        return -np.sqrt(np.maximum(nearest, 0))


def fit_familiarity(states: States, glosses: NDArray[np.int64]) -> Familiarity:
    """Fit to a training part.

    The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf, 2004), since clips may be fewer than
    the state's numbers.

    Args:
        states: (n, D) of its clips.
        glosses: (n,) the true ones.
    """
    from sklearn.covariance import ledoit_wolf  # a second to import

    kinds, which = np.unique(glosses, return_inverse=True)
    means = np.stack([states[which == number].mean(axis=0, dtype=np.float64) for number in range(len(kinds))])
    covariance, _ = ledoit_wolf(states - means[which], assume_centered=True)
    return Familiarity(means.astype(np.float32), np.linalg.pinv(covariance, hermitian=True).astype(np.float32))


@dataclass(frozen=True, eq=False)
class Calibration:
    """What is fitted to a run's own clips."""

    temperature: float  # probabilities are the softmax of log-probabilities divided by it
    threshold: float  # least familiarity at which a clip is answered
    answered: float  # share of the validation clips that were answered at it
    n: int  # validation clips that the numbers above were fitted to
    familiarity: Familiarity  # fitted to the training clips
    seconds: float  # median duration of a training clip

    def probabilities(self, log_probability: LogProbability) -> NDArray[np.float64]:
        """Calibrated probabilities (n, K), rows adding up to 1, in the order of the log-probabilities."""
        return softmax(log_probability.astype(np.float64) / self.temperature, axis=1)

    def answers(self, states: States, leniency: float = 1.0) -> NDArray[np.bool_]:
        """Whether each clip (n,) is answered, or called unknown; `leniency` multiplies the allowed distance."""
        return self.familiarity.scores(states) >= leniency * self.threshold


def fit(predictions: Predictions, glosses: NDArray[np.int64], familiarity: Familiarity, seconds: float) -> Calibration:
    """Fit to a validation part.

    Args:
        predictions: of its n clips.
        glosses: (n,) the true ones, in [0, K).
        familiarity: of the training part.
        seconds: median duration of that part's clips.
    """
    scores = familiarity.scores(predictions.state)
    threshold = float(np.quantile(scores, 1 - ANSWERED, method="lower"))
    return Calibration(
        temperature=fit_temperature(predictions.log_probability, glosses),
        threshold=threshold,
        answered=float((scores >= threshold).mean()),
        n=len(glosses),
        familiarity=familiarity,
        seconds=seconds,
    )


def fit_temperature(log_probability: LogProbability, glosses: NDArray[np.int64]) -> float:
    """The temperature in `RANGE` under which the true glosses are likeliest (Guo et al., ICML 2017).

    >>> sure = np.log(np.array([[0.9, 0.1]] * 4, dtype=np.float32))  # right three times of four
    >>> round(fit_temperature(sure, np.array([0, 0, 0, 1])), 2)  # where 0.9 becomes 0.75
    2.0
    """
    scores = log_probability.astype(np.float64)

    def loss(logarithm: float) -> float:
        scaled = scores / np.exp(logarithm)
        own = np.take_along_axis(scaled, glosses[:, np.newaxis], axis=1)[:, 0]
        return float((logsumexp(scaled, axis=1) - own).mean())

    best = minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(best.x))


class Bin(NamedTuple):
    """Clips of similar confidence."""

    confidence: float  # mean
    accuracy: float
    n: int


def reliability(confidences: NDArray[np.float64], right: NDArray[np.bool_]) -> list[Bin]:
    """Clips in at most `BINS` bins of nearly equal counts, the least confident first.

    Args:
        confidences: (n,) probability of the first gloss, in [0, 1].
        right: (n,) whether it is the true one.
    """
    order = np.argsort(confidences, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return [Bin(float(confidences[part].mean()), float(right[part].mean()), len(part)) for part in parts]


def calibration_error(bins: list[Bin]) -> float:
    """Mean distance of confidence from accuracy, weighted by clips (ECE with equal-mass bins, Nixon et al. 2019).

    >>> round(calibration_error([Bin(0.9, 0.8, 10), Bin(0.5, 0.5, 30)]), 3)
    0.025
    """
    return sum(abs(b.confidence - b.accuracy) * b.n for b in bins) / sum(b.n for b in bins)


def risk_coverage(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[NDArray, NDArray]:
    """Share of clips answered, and of wrong ones among those, (n,) each, as the threshold falls (Geifman 2017).

    Clips with equal scores are answered together, so that their order does not matter.

    >>> coverage, risk = risk_coverage(np.array([3.0, 1.0, 2.0]), np.array([True, False, True]))
    >>> coverage.round(2).tolist(), risk.round(2).tolist()
    ([0.33, 0.67, 1.0], [0.0, 0.0, 0.33])
    """
    order = np.argsort(-scores, kind="stable")
    answered = np.arange(1, len(scores) + 1)
    wrong = np.cumsum(~right[order])
    last = np.searchsorted(-scores[order], -scores[order], side="right") - 1  # with the same score
    return answered[last] / len(scores), wrong[last] / answered[last]


def area_under_risk(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean risk over all coverages, 0 where every wrong clip comes last and none is wrong (AURC, Geifman 2017)."""
    return float(risk_coverage(scores, right)[1].mean())


def write(path: Path, calibration: Calibration) -> None:
    """Write `calibration.safetensors`, whole or not at all."""
    numbers = {name: repr(getattr(calibration, name)) for name in NUMBERS}
    familiarity = calibration.familiarity
    with replacing(path) as part:
        save_file({"means": familiarity.means, "precision": familiarity.precision}, part, numbers)


def read(path: Path) -> Calibration | None:
    """What `write` wrote, or None where there is none.

    Raises:
        UserError: the file holds something else.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            header = file.metadata()
            familiarity = Familiarity(file.get_tensor("means"), file.get_tensor("precision"))
        numbers = {name: kind(header[name]) for name, kind in NUMBERS.items()}
        return Calibration(**numbers, familiarity=familiarity)  # pyright: ignore[reportArgumentType]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected a calibration, found something else ({error!r}); delete it and evaluate the run again"
        ) from error
