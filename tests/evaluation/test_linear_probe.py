import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from slr.evaluation.linear_probe import ABSENT, STRENGTHS, majority, probe


@pytest.fixture(scope="module")
def made():
    """Three parts of clips of five glosses, whose features tell them apart in part; the fourth gloss never trains."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 30))

    def part(n, kinds):
        glosses = rng.choice(kinds, size=n)
        return (centres[glosses] + 1.5 * rng.normal(size=(n, 30))).astype(np.float32), glosses

    return part(120, [0, 1, 2, 4]), part(40, [0, 1, 2, 4]), part(50, [0, 1, 2, 3, 4])


def test_it_is_scikit_learns_logistic_regression_with_the_penalty_that_val_likes_best(made):
    train, val, test = made
    found = probe(train, val, test[0], 5)
    scaler = StandardScaler().fit(train[0])
    models = [LogisticRegression(C=c, max_iter=300).fit(scaler.transform(train[0]), train[1]) for c in STRENGTHS]
    columns = [0, 1, 2, 4]
    likelihoods = [
        np.mean(
            [
                row[columns.index(g)]
                for row, g in zip(m.predict_log_proba(scaler.transform(val[0])), val[1], strict=True)
            ]
        )
        for m in models
    ]
    best = models[int(np.argmax(likelihoods))]
    np.testing.assert_allclose(found[:, columns], best.predict_log_proba(scaler.transform(test[0])), rtol=1e-4)
    np.testing.assert_allclose(found[:, 3], found[:, columns].min(1) - ABSENT, rtol=1e-5)
    known = test[1] != 3
    assert (found.argmax(1) == test[1])[known].mean() > 0.6, "chance is 0.25"


def test_the_commonest_gloss_comes_first_and_equals_counting():
    rng = np.random.default_rng(1)
    train = rng.choice(6, size=70, p=[0.1, 0.4, 0.2, 0.0, 0.2, 0.1])
    found = majority(train, 3, 6)
    assert found.shape == (3, 6)
    assert (found == found[0]).all()
    assert np.exp(found[0]).sum() == pytest.approx(1)
    counts = [int((train == gloss).sum()) for gloss in range(6)]
    assert np.argsort(-found[0], kind="stable").tolist() == sorted(range(6), key=lambda gloss: (-counts[gloss], gloss))
