import json

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from slr.data.manifest import Clip
from slr.report.evaluation import evaluation, table

VOCABULARY = [f"gloss {number}" for number in range(9)]


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(0)
    glosses = rng.integers(9, size=40)
    log_probability = np.log(rng.dirichlet(np.ones(10), size=40)[:, :9]).astype(np.float32)
    clips = [
        Clip(str(n), f"clips/{n}.mp4", VOCABULARY[g], 9, 25.0, 8, 8, "", "", "", f"s{n % 7}", None, None)
        for n, g in enumerate(glosses)
    ]
    return glosses, log_probability, evaluation(clips, VOCABULARY, log_probability, {"part": "test"})


def test_summary_equals_scikit_learn(made):
    glosses, log_probability, results = made
    summary = results["summary"]
    for k in (1, 5):
        assert summary[f"top{k}"] == pytest.approx(
            top_k_accuracy_score(glosses, log_probability, k=k, labels=np.arange(9))
        )
        low, high = summary[f"top{k}_interval"]
        assert low < summary[f"top{k}"] < high
    assert (summary["n"], summary["glosses"], summary["signers"], summary["part"]) == (40, 9, 7, "test")
    assert summary["mass"] == pytest.approx(np.exp(log_probability).sum(1).mean(), rel=1e-5)
    assert json.loads(json.dumps(results)) == results


def test_rankings_hold_the_whole_vocabulary_best_first(made):
    _, log_probability, results = made
    for row, prediction in zip(log_probability, results["predictions"], strict=True):
        ranking = prediction["ranking"]
        assert sorted(entry["gloss"] for entry in ranking) == VOCABULARY
        logs = [entry["log_probability"] for entry in ranking]
        assert logs == sorted(logs, reverse=True)
        assert sum(entry["probability"] for entry in ranking) == pytest.approx(1)
        best = ranking[0]
        assert best["log_probability"] == pytest.approx(row.max())
        assert best["probability"] == pytest.approx(np.exp(row.max()) / np.exp(row).sum(), rel=1e-5)


def test_the_table_names_chance_n_and_the_interval(made):
    text = table(made[2]["summary"])
    assert "chance" in text
    assert "95 % interval" in text
    assert "40 clips of 7 signers, 9 glosses" in text
    top1 = next(line for line in text.splitlines() if line.startswith("top-1 "))
    assert top1.split()[-2:] == ["0.111", "40"]
