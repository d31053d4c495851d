"""A linear probe: how well the frozen vision tower alone separates signs (Alain and Bengio, 2016)."""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse of the penalty; features outnumber clips
ABSENT = 5.0  # nats below the least likely gloss that trained

Features = NDArray[np.float32]  # (n, T x D): every frame's mean feature, in the order of time
Glosses = NDArray[np.int64]  # (n,)


def probe(train: tuple[Features, Glosses], val: tuple[Features, Glosses], test: Features, count: int) -> NDArray:
    """Log-probabilities of every gloss for the test clips, by logistic regression on standardised features.

    Args:
        train: what it learns from.
        val: what chooses the strength of the penalty, by likelihood.
        test: what is ranked, (m, T x D).
        count: K; glosses without a training clip come last.

    Returns:
        float32 (m, K).
    """
    models = [_fitted(*train, strength) for strength in STRENGTHS]
    likelihoods = [_ranked(model, val[0], count)[np.arange(len(val[1])), val[1]].mean() for model in models]
    return _ranked(models[int(np.argmax(likelihoods))], test, count)


def _fitted(features: Features, glosses: Glosses, strength: float):  # noqa: ANN202  scikit-learn's pipelines have no types
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # with a weak penalty, which then loses on val
        return model.fit(features, glosses)


def _ranked(model, features: Features, count: int) -> NDArray[np.float32]:  # noqa: ANN001
    known = model.predict_log_proba(features).astype(np.float32)
    ranked = np.repeat(known.min(axis=1, keepdims=True) - ABSENT, count, axis=1)
    ranked[:, model.classes_] = known
    return ranked


def majority(train: Glosses, clips: int, count: int) -> NDArray[np.float32]:
    """The same ranking for all clips, the gloss with the most training clips first: float32 (clips, K).

    >>> np.exp(majority(np.array([1, 1, 0]), 1, 3)).astype(float).round(2).tolist()  # half a clip more of each
    [[0.33, 0.56, 0.11]]
    """
    counted = np.bincount(train, minlength=count) + 0.5
    return np.repeat(np.log(counted / counted.sum())[np.newaxis], clips, axis=0).astype(np.float32)
