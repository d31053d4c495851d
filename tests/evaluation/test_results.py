import csv
import json

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support, top_k_accuracy_score

from slr.data.coverage import Coverage
from slr.data.manifest import Clip
from slr.evaluation.ranks import read_ranks
from slr.evaluation.results import Context, evaluation, table, write_evaluation
from slr.predict.calibration import Predictions, fit, fit_familiarity

VOCABULARY = [f"gloss {number}" for number in range(9)]
CONFLICTS = [["gloss 1", "gloss 2"], ["gloss 5", "gloss 7", "gloss 8"]]


def drawn(seed):
    """Clips of all glosses but the last, rankings with some skill, and states that lie about a place of their gloss."""
    rng = np.random.default_rng(seed)
    glosses = rng.integers(8, size=90)
    scores = rng.normal(size=(90, 9)) + 1.5 * np.eye(9)[glosses]
    log_probability = (scores - np.log(np.exp(scores).sum(1, keepdims=True) + 1)).astype(np.float32)
    states = (3 * np.eye(9, 6)[glosses] + rng.normal(size=(90, 6))).astype(np.float32)
    return glosses, Predictions(log_probability, states)


@pytest.fixture(scope="module")
def made():
    glosses, looked = drawn(0)
    clips = [
        Clip(str(n), f"clips/{n}.mp4", VOCABULARY[g], 9, 25.0, 8, 8, "", "", "", f"s{n % 7}", None, None)
        for n, g in enumerate(glosses)
    ]
    other_glosses, other = drawn(1)
    learned = fit(other, other_glosses, fit_familiarity(other.state, other_glosses), 1.5)
    context = Context(
        {"part": "test", "checkpoint": "best"}, Coverage("official test part", 90, 120, ["x"] * 30), CONFLICTS, learned
    )
    return glosses, looked.log_probability, evaluation(clips, VOCABULARY, looked, context)


def test_summary_equals_scikit_learn(made):
    glosses, log_probability, results = made
    summary = results["summary"]
    for k in (1, 5):
        assert summary[f"top{k}"] == pytest.approx(
            top_k_accuracy_score(glosses, log_probability, k=k, labels=np.arange(9))
        )
        low, high = summary[f"top{k}_interval"]
        assert low < summary[f"top{k}"] < high
    assert (summary["n"], summary["glosses"], summary["signers"], summary["part"]) == (90, 9, 7, "test")
    assert summary["mass"] == pytest.approx(np.exp(log_probability).sum(1).mean(), rel=1e-5)
    assert summary["f1_macro"] == pytest.approx(
        f1_score(glosses, log_probability.argmax(1), labels=np.unique(glosses), average="macro", zero_division=0)
    )
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
    text = table(made[2])
    assert "chance" in text
    assert "95 % interval" in text
    assert "90 clips of 7 signers, 9 glosses" in text
    top1 = next(line for line in text.splitlines() if line.startswith("top-1 "))
    assert top1.split()[-2:] == ["0.111", "90"]
    assert "coverage: 90 of 120 clips listed for the official test part" in text
    right = (made[1].argmax(1) == made[0]).sum()
    assert f"top-1 {right / 120:.3f} if every missing clip were wrong" in text


def test_of_the_first_clips_alone_no_number_is_told_for_all_that_are_listed(made):
    """With `limit=40` fifty clips are there and not ranked, and thirty are missing: right ones over 120 say nothing."""
    glosses, log_probability, _ = made
    facts = (9, 25.0, 8, 8, "", "", "", None, None, None)
    clips = [Clip(str(n), f"{n}.mp4", VOCABULARY[g], *facts) for n, g in enumerate(glosses)]
    told = {}
    for limit in (40, 90):
        looked = Predictions(log_probability[:limit], np.zeros((limit, 6), dtype=np.float32))
        context = Context({"part": "test"}, Coverage("official test part", 90, 120, ["x"] * 30), [], None)
        results = evaluation(clips[:limit], VOCABULARY, looked, context)
        told[limit] = results["summary"]["coverage"], "if every missing clip were wrong" in table(results)
    right = (log_probability.argmax(1) == glosses).sum()
    counted = {"of": "official test part", "clips": 90, "listed": 120, "missing": 30}
    assert told[40] == (counted | {"top1_of_listed": None}, False)
    assert told[90] == (counted | {"top1_of_listed": pytest.approx(right / 120)}, True)


def test_rows_of_glosses_and_signers_equal_scikit_learn(made):
    glosses, log_probability, results = made
    first = log_probability.argmax(1)
    rows = {row["gloss"]: row for row in results["per_gloss"]}
    precision, recall, f1, support = precision_recall_fscore_support(
        glosses, first, labels=np.arange(9), zero_division=np.nan
    )
    for number, gloss in enumerate(VOCABULARY):
        row = rows[gloss]
        assert row["n"] == support[number]
        assert row["precision"] == (None if np.isnan(precision[number]) else pytest.approx(precision[number]))
        assert row["recall"] == row["top1"] == (None if np.isnan(recall[number]) else pytest.approx(recall[number]))
        assert row["f1"] == pytest.approx(f1[number])
    assert rows["gloss 8"]["n"] == 0, "the last gloss has no clip, and is named"
    matrix = confusion_matrix(glosses, first, labels=np.arange(9))
    for number, gloss in enumerate(VOCABULARY):
        wrong = {VOCABULARY[other]: n for other, n in enumerate(matrix[number].tolist()) if n and other != number}
        assert dict(rows[gloss]["confused_with"]) == wrong
    for row in results["per_signer"]:
        own = [n for n in range(90) if f"s{n % 7}" == row["signer"]]
        hits = int((first[own] == glosses[own]).sum())
        assert (row["n"], row["top1"]) == (len(own), pytest.approx(hits / len(own)))
        interval = binomtest(hits, len(own)).proportion_ci(method="wilson")
        assert row["top1_interval"] == pytest.approx([interval.low, interval.high])
    assert [row["top1"] for row in results["per_signer"]] == sorted(row["top1"] for row in results["per_signer"])


def test_conflicting_glosses_count_as_one(made):
    glosses, log_probability, results = made
    name = {gloss: group[0] for group in CONFLICTS for gloss in group}
    merged = [name.get(gloss, gloss) for gloss in VOCABULARY]
    first = log_probability.argmax(1)
    right = np.mean([merged[one] == merged[true] for one, true in zip(first, glosses, strict=True)])
    grouped = results["summary"]["grouped"]
    assert grouped["top1"] == pytest.approx(right)
    assert grouped["top1"] > results["summary"]["top1"]
    assert grouped["n_in_groups"] == np.isin(glosses, [1, 2, 5, 7]).sum()
    assert "gloss 1/gloss 2" in table(results)


def test_what_is_written_can_be_read_as_tables(made, tmp_path):
    glosses, log_probability, results = made
    write_evaluation(tmp_path, results)
    assert json.loads((tmp_path / "evaluation_results.json").read_text(encoding="utf-8")) == results
    ranks = (log_probability > np.take_along_axis(log_probability, glosses[:, None], axis=1)).sum(axis=1) + 1
    expected = {"part": "test", "checkpoint": "best", "ranks": {str(n): rank for n, rank in enumerate(ranks.tolist())}}
    assert read_ranks(tmp_path) == expected
    (tmp_path / "ranks.json").unlink()
    assert read_ranks(tmp_path) == expected, "as before there was that file"
    assert (tmp_path / "missing.txt").read_text(encoding="utf-8") == 30 * "x\n"
    with (tmp_path / "confusion.csv").open(encoding="utf-8", newline="") as file:
        cells = {(row["gloss"], row["named"]): int(row["clips"]) for row in csv.DictReader(file)}
    matrix = confusion_matrix(glosses, log_probability.argmax(1), labels=np.arange(9))
    for true, named in np.ndindex(9, 9):
        assert cells.get((VOCABULARY[true], VOCABULARY[named]), 0) == matrix[true, named]
    with (tmp_path / "per_gloss.csv").open(encoding="utf-8", newline="") as file:
        assert [row["gloss"] for row in csv.DictReader(file)] == [row["gloss"] for row in results["per_gloss"]]
