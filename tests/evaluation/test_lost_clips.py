"""Evaluations of what is left of WLASL where its clips vanish at random, against plain Python over the whole index."""

import math
from collections import defaultdict
from operator import itemgetter
from types import SimpleNamespace

import networkx
import numpy as np
import pytest

from slr.core.errors import UserError
from slr.data.coverage import vocabulary
from slr.data.manifest import Clip, Rejected, write_manifest, write_rejected
from slr.data.split import make_split
from slr.evaluation import evaluate
from slr.evaluation import results as evaluating
from slr.predict.calibration import Predictions
from slr.prepare.wlasl.index import read_index, select

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
SUBSETS = ("100", "300", "1000", "2000", "core")
LOSSES = (0.3, 0.5, 0.7)
RULES = ("stratified", "signer", "official")
WHOLE = [(subset, loss, rule) for subset in SUBSETS for loss in LOSSES for rule in RULES]
SAMPLE = [("100", 0.7, "stratified"), ("300", 0.5, "signer"), ("1000", 0.7, "stratified"), ("core", 0.5, "official")]


@pytest.fixture(scope="module")
def listed(shared):
    return read_index(shared / "wlasl" / "index" / "WLASL_v0.3.json")


def left_of(instances, loss):
    """The clips that are there and the rest, drawn at random."""
    gone = np.random.default_rng(0).random(len(instances)) < loss
    clips, lost = [], []
    for one, is_gone in zip(instances, gone, strict=True):
        if is_gone:
            lost.append(Rejected(one.id, "", one.gloss, "missing", "", one.part, one.segment))
        else:
            facts = (9, 25.0, 8, 8, f"made {one.id}", "", one.id, one.signer, one.part, None, one.segment)
            clips.append(Clip(one.id, f"clips/{one.id}.mp4", one.gloss, *facts))
    return clips, lost


def as_one(instances, known):
    """Gloss -> what counts as right for it among the `known`: connected components of glosses and segments."""
    graph = networkx.Graph((("gloss", one.gloss), ("segment", one.segment)) for one in instances)
    groups = {}
    for component in networkx.connected_components(graph):
        group = {name for kind, name in component if kind == "gloss" and name in known}
        groups |= dict.fromkeys(group, group)
    return groups


def brute_force(chosen, rankings, right):
    """Top-1, top-5, MRR and top-1 per class where whatever `right` names for a clip's gloss is right."""
    best = [
        next(place for place, gloss in enumerate(ranking, 1) if gloss in right[clip.gloss])
        for clip, ranking in zip(chosen, rankings, strict=True)
    ]
    own = defaultdict(list)
    for clip, place in zip(chosen, best, strict=True):
        own[clip.gloss].append(place == 1)
    classes = [sum(hits) / len(hits) for hits in own.values()]
    return {
        "top1": sum(place == 1 for place in best) / len(best),
        "top5": sum(place <= 5 for place in best) / len(best),
        "mrr": math.fsum(1 / place for place in best) / len(best),
        "top1_per_class": sum(classes) / len(classes),
    }


def check(folder, listed, subset, loss, rule):
    instances = select(listed, subset)
    clips, lost = left_of(instances, loss)
    (folder / "wlasl").mkdir()
    write_rejected(folder / "wlasl" / "rejected.jsonl", lost)
    split = make_split(clips, rule, 0, SHARES, coverage=0.25)
    glosses, chosen = vocabulary(clips, lost, rule), split.select(clips, "test")
    rng = np.random.default_rng(1)
    scores = rng.normal(-8, 1, (len(chosen), len(glosses)))
    for row, clip in zip(scores, chosen, strict=True):
        row[glosses.index(clip.gloss)] += 3  # some skill
    scores = scores.round(1).astype(np.float32)  # and ties
    ranker = SimpleNamespace(vocabulary=glosses, look_clips=lambda *_: Predictions(scores, np.zeros((len(chosen), 1))))
    config = SimpleNamespace(data=folder, dataset=SimpleNamespace(place="wlasl"))
    summary = evaluate.score(ranker, chosen, evaluate.context(config, clips, split, "test", "best", None))["summary"]

    # Python's sort is stable, also where it is reversed: what is equal stays in the vocabulary's order.
    rankings = [
        [gloss for _, gloss in sorted(zip(row, glosses, strict=True), key=itemgetter(0), reverse=True)]
        for row in scores.tolist()
    ]
    strict = brute_force(chosen, rankings, {gloss: {gloss} for gloss in glosses})
    assert {name: summary[name] for name in strict} == pytest.approx(strict)
    groups = as_one(instances, set(glosses))
    grouped = brute_force(chosen, rankings, groups)
    assert {name: summary["grouped"][name] for name in grouped} == pytest.approx(grouped)
    alike = {tuple(sorted(group)) for group in groups.values() if len(group) > 1}
    assert {tuple(group) for group in summary["grouped"]["groups"]} == alike
    assert summary["grouped"]["n_in_groups"] == sum(len(groups[clip.gloss]) > 1 for clip in chosen)
    counted = [one for one in instances if rule != "official" or one.part == "test"]
    there = {clip.id for clip in clips}
    told = summary["coverage"]
    assert (told["clips"], told["listed"]) == (sum(one.id in there for one in counted), len(counted))
    assert told["missing"] == told["listed"] - told["clips"]
    if rule == "official":
        assert told["top1_of_listed"] == pytest.approx(strict["top1"] * len(chosen) / len(counted))
    else:
        assert told["top1_of_listed"] is None


@pytest.fixture
def brief(monkeypatch):
    """Without what is not looked at here and costs most: intervals, and every clip's whole ranking in words."""
    monkeypatch.setattr("slr.models.metrics.SAMPLES", 2)
    monkeypatch.setattr(evaluating, "ranking", lambda *_: [])


@pytest.mark.parametrize(("subset", "loss", "rule"), SAMPLE)
def test_what_is_left_is_evaluated_as_by_plain_python(tmp_path, listed, brief, subset, loss, rule):
    check(tmp_path, listed, subset, loss, rule)


@pytest.mark.slow
@pytest.mark.parametrize(("subset", "loss", "rule"), [one for one in WHOLE if one not in SAMPLE])
def test_what_is_left_of_any_subset_is_evaluated_as_by_plain_python(tmp_path, listed, brief, subset, loss, rule):
    check(tmp_path, listed, subset, loss, rule)


def test_another_data_sets_groups_count_as_far_as_the_vocabulary_reaches(tmp_path):
    """Of eat, food and meal, given to one stretch, the run does not know food; of now and today it knows one."""
    rows = [("a", "eat", "1"), ("b", "food", "1"), ("c", "meal", "1"), ("d", "now", "2"), ("e", "today", "2")]
    facts = (9, 25.0, 8, 8, "", "", "", None, None, None)
    clips = [Clip(name, f"clips/{name}.mp4", gloss, *facts, segment) for name, gloss, segment in rows]
    write_manifest(tmp_path / "manifest.jsonl", clips)
    glosses = ["eat", "meal", "now", "other"]
    named = {"a": "meal", "c": "meal", "d": "other"}

    def look_clips(chosen, *_):
        rows = [[-1.0 if gloss == named.get(clip.id) else -2.0 for gloss in glosses] for clip in chosen]
        return Predictions(np.array(rows, dtype=np.float32), np.zeros((len(chosen), 1), dtype=np.float32))

    answering = SimpleNamespace(answers=lambda state: np.ones(len(state), dtype=bool))
    ranker = SimpleNamespace(vocabulary=glosses, look_clips=look_clips)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluating, "_calibration", lambda *_: None)
        results, known = evaluate.score_elsewhere(ranker, tmp_path, "best", answering)
    assert [clip.id for clip in known] == ["a", "c", "d"]
    summary = results["summary"]
    assert summary["grouped"]["groups"] == [["eat", "meal"]]
    assert (summary["top1"], summary["grouped"]["top1"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert summary["grouped"]["n_in_groups"] == 2
    ranker.vocabulary = ["no", "such"]
    with pytest.raises(UserError, match="found none of 5"):
        evaluate.score_elsewhere(ranker, tmp_path, "best", answering)
