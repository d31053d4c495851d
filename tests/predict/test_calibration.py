import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import chi2
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from slr.core.errors import UserError
from slr.predict.calibration import (
    Bin,
    Familiarity,
    Predictions,
    area_under_risk,
    calibration_error,
    fit,
    fit_familiarity,
    fit_temperature,
    read,
    reliability,
    risk_coverage,
    write,
)


def overconfident(rng, n, temperature):
    """Log-probabilities whose true distribution is their softmax at a temperature, and glosses drawn from that."""
    scores = rng.normal(scale=3, size=(n, 7))
    glosses = np.array([rng.choice(7, p=row) for row in softmax(scores / temperature, axis=1)])
    return log_softmax(scores, axis=1).astype(np.float32), glosses


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_the_temperature_is_found_again_and_is_the_best(true):
    log_probability, glosses = overconfident(np.random.default_rng(0), 4000, true)
    found = fit_temperature(log_probability, glosses)
    assert found == pytest.approx(true, rel=0.1)
    losses = {
        one: log_loss(glosses, softmax(log_probability.astype(float) / one, axis=1), labels=np.arange(7))
        for one in (found / 1.05, found, found * 1.05)
    }
    assert min(losses, key=losses.get) == found


def test_a_model_that_is_always_right_has_the_lowest_temperature_and_no_error():
    assert fit_temperature(np.log(np.array([[0.7, 0.3]] * 5, np.float32)), np.zeros(5, int)) == pytest.approx(
        0.05, rel=0.01
    )


def test_bins_and_their_error_equal_brute_force():
    rng = np.random.default_rng(1)
    confidences, right = rng.random(103), rng.random(103) < 0.6
    bins = reliability(confidences, right)
    assert [one.n for one in bins] == [7] * 13 + [6] * 2
    rows = sorted(zip(confidences, right, strict=True))
    expected, start = 0.0, 0
    for one in bins:
        part = rows[start : start + one.n]
        assert one.confidence == pytest.approx(sum(c for c, _ in part) / one.n)
        assert one.accuracy == pytest.approx(sum(r for _, r in part) / one.n)
        expected += abs(sum(c for c, _ in part) - sum(r for _, r in part)) / 103
        start += one.n
    assert calibration_error(bins) == pytest.approx(expected)
    assert reliability(confidences[:3], right[:3])[0].n == 1
    assert calibration_error([Bin(1.0, 1.0, 5)]) == 0


def test_risk_and_coverage_equal_every_threshold():
    rng = np.random.default_rng(2)
    scores, right = rng.integers(9, size=80).astype(float), rng.random(80) < 0.7
    coverage, risk = risk_coverage(scores, right)
    for threshold in np.unique(scores):
        answered = scores >= threshold
        at = np.flatnonzero(np.isclose(coverage, answered.mean()))
        assert len(at) == (scores == threshold).sum()
        np.testing.assert_allclose(risk[at], 1 - right[answered].mean())
    assert (
        area_under_risk(right.astype(float), right)
        < area_under_risk(scores, right)
        < area_under_risk(-right.astype(float), right)
    )


def test_familiarity_is_mahalanobis_distance_as_scikit_learn_has_it():
    rng = np.random.default_rng(3)
    shape = rng.normal(size=(5, 5))
    glosses = rng.integers(4, size=300)
    centres = 4 * rng.normal(size=(4, 5))
    states = (centres[glosses] + rng.normal(size=(300, 5)) @ shape).astype(np.float32)
    found = fit_familiarity(states, glosses)
    means = np.stack([states[glosses == own].mean(0) for own in range(4)])
    reference = LedoitWolf(assume_centered=True).fit(states - means[glosses])
    brought = (6 * rng.normal(size=(50, 5))).astype(np.float32)
    expected = np.min([reference.mahalanobis(brought - mean) for mean in means], axis=0)
    np.testing.assert_allclose(found.scores(brought), -np.sqrt(expected), rtol=1e-3)
    fresh = (centres[rng.integers(4, size=4000)] + rng.normal(size=(4000, 5)) @ shape).astype(np.float32)
    within = (found.scores(fresh) >= -np.sqrt(chi2(5).ppf(0.95))).mean()
    assert within == pytest.approx(0.95, abs=0.02), "squared distances from one's own centre are chi-squared"


def test_fewer_clips_than_numbers_of_a_state_still_give_a_distance():
    rng = np.random.default_rng(4)
    states = rng.normal(size=(12, 40)).astype(np.float32)
    found = fit_familiarity(states, np.arange(12) // 3)
    assert np.isfinite(found.scores(states)).all()
    assert found.scores(states).mean() > found.scores(states + 5).mean()


def test_the_threshold_answers_the_share_that_it_promises_and_travels_in_a_file(tmp_path):
    rng = np.random.default_rng(5)
    log_probability, glosses = overconfident(rng, 200, 1.5)
    states = rng.normal(size=(200, 3)).astype(np.float32)
    nowhere = Familiarity(np.zeros((1, 3), np.float32), np.eye(3, dtype=np.float32))
    learned = fit(Predictions(log_probability, states), glosses, nowhere, seconds=1.4)
    answered = int(learned.answers(states).sum())
    assert 190 <= answered <= 191, "95 % at least, and not a clip more than that takes"
    assert learned.answered == answered / 200
    order = np.linalg.norm(states, axis=1).argsort()
    assert learned.answers(states)[order].tolist() == [True] * answered + [False] * (200 - answered)
    np.testing.assert_allclose(learned.probabilities(log_probability).sum(1), 1)

    path = tmp_path / "calibration.safetensors"
    assert read(path) is None
    write(path, learned)
    again = read(path)
    assert (again.temperature, again.threshold, again.n, again.seconds) == (
        learned.temperature,
        learned.threshold,
        200,
        1.4,
    )
    assert np.array_equal(again.answers(states), learned.answers(states))
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match="expected a calibration"):
        read(path)


def test_it_learns_no_more_than_a_linear_model_would_of_two_heaps():
    """Familiarity tells strange states where a classifier, which must choose a known gloss, is certain."""
    rng = np.random.default_rng(6)
    glosses = rng.integers(2, size=400)
    states = (np.array([[-4.0, 0.0], [4.0, 0.0]])[glosses] + rng.normal(size=(400, 2))).astype(np.float32)
    strange = np.array([[9.0, 9.0], [-9.0, -9.0]], np.float32)
    assert LogisticRegression().fit(states, glosses).predict_proba(strange).max(1).min() > 0.99
    scores = fit_familiarity(states, glosses).scores(np.concatenate([states, strange]))
    assert scores[-2:].max() < scores[:-2].min()
