"""From rankings to what a run's `evaluation/` folder holds, and to the table that a person reads."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from slr.core.files import write_json, write_whole
from slr.data.coverage import Coverage, among
from slr.data.manifest import Clip
from slr.models.metrics import (
    METRICS,
    Figure,
    Glosses,
    best_place,
    bootstrap,
    chance,
    figures,
    place_of_truth,
    places,
    resamples,
    tally,
    wilson,
)
from slr.predict import calibration as calibrating
from slr.predict.calibration import Calibration, Predictions

TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "top10": "top-10",
    "mrr": "mean reciprocal rank",
    "top1_per_class": "top-1 per class",
    "top5_per_class": "top-5 per class",
    "top10_per_class": "top-10 per class",
    "f1_macro": "macro F1",
}
GROUPED = ("top1", "top5", "mrr", "top1_per_class")  # told once more with conflicting glosses as one
LogProbability = NDArray[np.float32]  # (n, K)


@dataclass(frozen=True)
class Context:
    """What a number is to be read against.

    Attributes:
        about: what the summary says first (part, checkpoint, data, split).
        coverage: how many of the clips that are listed are there.
        conflicts: groups of glosses that the data set gives to the same video, in the vocabulary or not.
        calibration: learned from the validation part, or None.
    """

    about: Mapping[str, object]
    coverage: Coverage
    conflicts: Sequence[Sequence[str]]
    calibration: Calibration | None


def evaluation(
    clips: Sequence[Clip], vocabulary: Sequence[str], looked: Predictions, context: Context
) -> dict[str, Any]:
    """The content of `evaluation_results.json`.

    Args:
        clips: the n ranked clips, whose glosses are in the vocabulary.
        vocabulary: the K ordered glosses.
        looked: what a recognizer makes of the clips.
        context: what the numbers are to be read against.

    Returns:
        `summary` (each metric with `<metric>_interval`, n, chance, coverage, mean mass), `per_gloss`, `per_signer`,
        `calibration` (None without one), `generated` (None; see `slr.evaluation.evaluate.add_generated`), `missing`
        (ids that are listed and not there), and `predictions`: whole rankings, best first, and whether the clip is
        answered or called unknown.
    """
    log_probability = looked.log_probability
    position = {gloss: number for number, gloss in enumerate(vocabulary)}
    glosses = np.array([position[clip.gloss] for clip in clips])
    ranks = place_of_truth(torch.from_numpy(log_probability), torch.from_numpy(glosses)).numpy()
    summary: dict[str, Any] = dict(context.about) | {"n": len(clips), "glosses": len(vocabulary)}
    summary |= _told(figures(ranks, glosses) | {"f1_macro": _macro_f1(log_probability, glosses)})
    summary["glosses_with_clips"] = len(set(glosses.tolist()))
    summary["signers"] = len({clip.signer for clip in clips if clip.signer is not None})
    # Guessing names each gloss as often as it is meant, so that precision and recall are both one of K.
    summary["chance"] = chance(len(vocabulary)) | {"f1_macro": 1 / len(vocabulary)}
    summary["mass"] = float(np.exp(log_probability.astype(np.float64)).sum(axis=1).mean())
    summary["coverage"] = _coverage(context.coverage, len(clips), int((ranks == 1).sum()))
    conflicts = among(context.conflicts, vocabulary)
    summary["grouped"] = _grouped(log_probability, glosses, [[position[g] for g in c] for c in conflicts])
    if summary["grouped"]:
        summary["grouped"]["groups"] = conflicts
    answered = context.calibration.answers(looked.state).tolist() if context.calibration else [True] * len(clips)
    return {
        "summary": summary,
        "per_gloss": _per_gloss(vocabulary, log_probability, glosses, ranks),
        "per_signer": _per_signer(clips, ranks),
        "calibration": _calibration(looked, glosses, context.calibration),
        "generated": None,
        "missing": context.coverage.missing,
        "predictions": [
            {
                "clip": clip.id,
                "gloss": clip.gloss,
                "signer": clip.signer,
                "answered": is_answered,
                "ranking": ranking(vocabulary, row),
            }
            for clip, is_answered, row in zip(clips, answered, log_probability, strict=True)
        ],
    }


def _told(named: Mapping[str, Figure]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, figure in named.items():
        told |= {name: figure.value, f"{name}_interval": [figure.low, figure.high]}
    return told


def _macro_f1(log_probability: LogProbability, glosses: Glosses) -> Figure:
    first, count = log_probability.argmax(axis=1), log_probability.shape[1]
    return bootstrap(lambda rows: tally(first[rows], glosses[rows], count).macro_f1, resamples(len(glosses)))


def _coverage(coverage: Coverage, ranked: int, right: int) -> dict[str, Any]:
    """How many clips are there; and, of a part that the data set lists, top-1 if all missing clips were wrong.

    That top-1 is None where clips that are there were not ranked: of these nobody knows, and they are not missing.
    """
    told: dict[str, Any] = {"of": coverage.of, "clips": coverage.clips, "listed": coverage.listed}
    told["missing"] = len(coverage.missing)
    whole = coverage.of != "data set" and ranked == coverage.clips
    return told | {"top1_of_listed": right / coverage.listed if whole else None}


def _grouped(
    log_probability: LogProbability, glosses: Glosses, groups: Sequence[Sequence[int]]
) -> dict[str, Any] | None:
    """Metrics that take any gloss of the true one's group for right; None where there is no group."""
    if not groups:
        return None
    found = figures(best_place(places(log_probability), glosses, groups), glosses)
    touched = np.isin(glosses, [number for group in groups for number in group])
    return _told({name: found[name] for name in GROUPED}) | {"n_in_groups": int(touched.sum())}


def _per_gloss(
    vocabulary: Sequence[str], log_probability: LogProbability, glosses: Glosses, ranks: Glosses
) -> list[dict[str, Any]]:
    """A row for each gloss that has clips or was named, in the vocabulary's order."""
    first = log_probability.argmax(axis=1)
    counts = tally(first, glosses, len(vocabulary))
    rows = []
    for number, gloss in enumerate(vocabulary):
        if not counts.true[number] and not counts.named[number]:
            continue
        own = ranks[glosses == number]
        wrong = Counter(vocabulary[other] for other in first[glosses == number].tolist() if other != number)
        rows.append(
            {
                "gloss": gloss,
                "n": len(own),
                "named": int(counts.named[number]),
                "top1": float((own == 1).mean()) if len(own) else None,
                "top5": float((own <= 5).mean()) if len(own) else None,
                "mrr": float((1 / own).mean()) if len(own) else None,
                "precision": float(counts.precision[number]) if counts.named[number] else None,
                "recall": float(counts.recall[number]) if len(own) else None,
                "f1": float(counts.f1[number]),
                "confused_with": [list(pair) for pair in wrong.most_common()],
            }
        )
    return rows


def _per_signer(clips: Sequence[Clip], ranks: Glosses) -> list[dict[str, Any]]:
    """A row for each signer that the data set names, the worst first."""
    own: dict[str, list[int]] = defaultdict(list)
    for clip, rank in zip(clips, ranks.tolist(), strict=True):
        if clip.signer is not None:
            own[clip.signer].append(rank)
    rows = []
    for signer, places_ in own.items():
        found = np.array(places_)
        figure = wilson(float((found == 1).mean()), len(found))
        five = float((found <= 5).mean())
        rows.append({"signer": signer, "n": len(found), **_told({"top1": figure}), "top5": five})
    return sorted(rows, key=lambda row: (row["top1"], -row["n"], row["signer"]))


def _calibration(looked: Predictions, glosses: Glosses, calibration: Calibration | None) -> dict[str, Any] | None:
    """How far the answers can be believed here, by what the run's own clips have taught."""
    if calibration is None:
        return None
    right = looked.log_probability.argmax(axis=1) == glosses
    plain = calibrating.reliability(softmax(looked.log_probability.astype(np.float64), axis=1).max(axis=1), right)
    bins = calibrating.reliability(calibration.probabilities(looked.log_probability).max(axis=1), right)
    scores, answered = calibration.familiarity.scores(looked.state), calibration.answers(looked.state)
    coverage, risk = calibrating.risk_coverage(scores, right)
    last = np.flatnonzero(np.diff(coverage, append=2) > 0)  # one point a score
    return {
        "temperature": calibration.temperature,
        "threshold": calibration.threshold,
        "answered": calibration.answered,
        "fitted_on": "val",
        "fitted_n": calibration.n,
        "ece": calibrating.calibration_error(bins),
        "ece_uncalibrated": calibrating.calibration_error(plain),
        "bins": [list(one) for one in bins],
        "aurc": calibrating.area_under_risk(scores, right),
        "risk_coverage": [[float(coverage[at]), float(risk[at])] for at in last],
        "answered_here": float(answered.mean()),
        "risk_answered": float((~right[answered]).mean()) if answered.any() else None,
    }


def ranking(vocabulary: Sequence[str], log_probability: NDArray[np.float32]) -> list[dict[str, Any]]:
    """One clip's glosses, best first, with log_probability and probability.

    Args:
        vocabulary: K glosses.
        log_probability: float32 (K,).

    >>> [row["gloss"] for row in ranking(["no", "yes"], np.log(np.array([0.1, 0.3], dtype=np.float32)))]
    ['yes', 'no']
    """
    shifted = np.exp(log_probability.astype(np.float64) - log_probability.max())
    probability = shifted / shifted.sum()
    order = np.argsort(-log_probability, kind="stable")
    return [
        {
            "gloss": vocabulary[number],
            "log_probability": float(log_probability[number]),
            "probability": float(probability[number]),
        }
        for number in order.tolist()
    ]


def write_evaluation(folder: Path, results: Mapping[str, Any]) -> None:
    """Write a part's results: JSON for programs, tables for spreadsheets, and the ids of missing clips.

    Args:
        folder: the run's `evaluation/`.
        results: what `evaluation` gives.
    """
    write_json(folder / "evaluation_results.json", results, indent=None)
    rows = [row | {"confused_with": _confusions(row["confused_with"])} for row in results["per_gloss"]]
    write_whole(folder / "per_gloss.csv", _csv(rows))
    write_whole(folder / "confusion.csv", _csv(confusions(results["predictions"])))
    write_whole(folder / "missing.txt", "".join(f"{name}\n" for name in results["missing"]))


def _confusions(pairs: Iterable[Sequence[Any]]) -> str:
    return "; ".join(f"{gloss} {count}" for gloss, count in pairs)


def confusions(predictions: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How often each gloss was named for each, right ones included: the confusion matrix without its empty cells."""
    counts = Counter((one["gloss"], one["ranking"][0]["gloss"]) for one in predictions)
    return [{"gloss": true, "named": named, "clips": count} for (true, named), count in sorted(counts.items())]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def table(results: Mapping[str, Any]) -> str:
    """The results as text: one row a metric, with value, 95 % interval, chance and n; then what else is to be known."""
    summary, n = results["summary"], str(results["summary"]["n"])
    signers = f" of {summary['signers']} signers" if summary["signers"] else ""
    head = f"{summary['part']} part: {summary['n']} clips{signers}, {summary['glosses']} glosses to choose from"
    rows = [("", "value", "95 % interval", "chance", "n")]
    for name in (*METRICS, "f1_macro"):
        rows.append((TITLES[name], *_cells(summary, name), f"{summary['chance'][name]:.3f}", n))
    grouped = summary["grouped"]
    for name in GROUPED if grouped else ():
        rows.append((f"{TITLES[name]}, conflicts as one", *_cells(grouped, name), "", n))
    for name in ("top1", "top5") if results["generated"] else ():
        rows.append((f"{TITLES[name]}, free text", *_cells(results["generated"], name), "", n))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([head, *lines, *notes(results)])


def _cells(values: Mapping[str, Any], name: str) -> tuple[str, str]:
    low, high = values[f"{name}_interval"]
    return f"{values[name]:.3f}", f"{low:.3f} – {high:.3f}"


def notes(results: Mapping[str, Any]) -> list[str]:
    """What else is to be known of the numbers: lines that begin with what they are about, `coverage: …`."""
    summary, told = results["summary"], results["calibration"]
    notes, grouped, covered = [], summary["grouped"], summary["coverage"]
    if grouped:
        groups = "; ".join("/".join(group) for group in grouped["groups"][:4])
        more = ", …" if len(grouped["groups"]) > 4 else ""
        notes.append(f"conflicts: glosses of the same video, in {grouped['n_in_groups']} of the clips: {groups}{more}")
    line = f"coverage: {covered['clips']:,} of {covered['listed']:,} clips listed for the {covered['of']}"
    if covered["missing"] and covered["top1_of_listed"] is not None:
        line += f"; top-1 {covered['top1_of_listed']:.3f} if every missing clip were wrong"
    notes.append(line)
    if "unknown" in summary:
        strange = summary["unknown"]
        notes.append(
            f"unknown signs: {strange['n']} clips of {strange['glosses']} glosses outside the vocabulary, "
            f"{strange['abstained']:.1%} of them called unknown"
        )
    if results["generated"]:
        free = results["generated"]
        notes.append(
            f"free text: of the {free['beams']} beams a clip, {free['no_gloss']:.1%} are no gloss and "
            f"{free['doubled']:.1%} name one again; exact match, capitals and spaces aside"
        )
    if told:
        notes.append(
            f"calibration: error {told['ece']:.3f} at temperature {told['temperature']:.2f}, "
            f"{told['ece_uncalibrated']:.3f} without; learned from {told['fitted_n']} val clips"
        )
        wrong = "" if told["risk_answered"] is None else f", {told['risk_answered']:.1%} of those wrongly"
        notes.append(f"abstention: {told['answered_here']:.1%} of the clips are answered{wrong}")
    return notes
