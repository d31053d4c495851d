"""From rankings to the content of a run's `evaluation/` folder, and to the table that is printed."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from slr.core.console import ABSENT, aligned
from slr.core.files import write_json, write_whole
from slr.data.coverage import Coverage, among
from slr.data.manifest import Clip
from slr.evaluation.ranks import true_ranks
from slr.models import metrics
from slr.models.metrics import METRICS, Figure, Glosses
from slr.predict import calibration as calibrating
from slr.predict.calibration import Calibration, LogProbability, Predictions

TITLES = {
    **{f"top{k}": f"top-{k}" for k in (1, 5, 10)},
    "mrr": "mean reciprocal rank",
    **{f"top{k}_per_class": f"top-{k} per class" for k in (1, 5, 10)},
    "f1_macro": "macro F1",
}
GROUPED = ("top1", "top5", "mrr", "top1_per_class")  # repeated with conflicting glosses as one


@dataclass(frozen=True)
class Context:
    """What numbers are to be read against."""

    about: Mapping[str, object]  # first entries of the summary (part, checkpoint, data, split)
    coverage: Coverage  # how many of the listed clips are there
    conflicts: Sequence[Sequence[str]]  # groups of glosses that the data set gives to the same video
    calibration: Calibration | None  # fitted on the validation part


def gloss_numbers(clips: Sequence[Clip], vocabulary: Sequence[str]) -> Glosses:
    """The places of the clips' glosses in the vocabulary: int64 (n,)."""
    position = {gloss: number for number, gloss in enumerate(vocabulary)}
    return np.array([position[clip.gloss] for clip in clips])


def evaluation(
    clips: Sequence[Clip], vocabulary: Sequence[str], predictions: Predictions, context: Context
) -> dict[str, Any]:
    """The content of `evaluation_results.json`.

    Args:
        clips: the n ranked clips, whose glosses are in the vocabulary.
        vocabulary: the K ordered glosses.
        predictions: of the recognizer, for the clips.
        context: what the numbers are to be read against.

    Returns:
        `summary` (each metric with `<metric>_interval`, n, chance, coverage, mean mass), `per_gloss`, `per_signer`,
        `calibration` (None without one), `generated` (None; see `slr.evaluation.evaluate.add_generated`), `missing`
        (ids of listed clips that are not there), and `predictions`: whole rankings, best first, and whether the clip is
        answered or called unknown.
    """
    log_probability, glosses = predictions.log_probability, gloss_numbers(clips, vocabulary)
    ranks = metrics.true_ranks(torch.from_numpy(log_probability), torch.from_numpy(glosses)).numpy()
    answered = context.calibration.answers(predictions.state).tolist() if context.calibration else [True] * len(clips)
    return {
        "summary": _summary(clips, vocabulary, log_probability, ranks, context),
        "per_gloss": _per_gloss(vocabulary, log_probability, glosses, ranks),
        "per_signer": _per_signer(clips, ranks),
        "calibration": _calibration(predictions, glosses, context.calibration),
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


def _summary(
    clips: Sequence[Clip], vocabulary: Sequence[str], log_probability: LogProbability, ranks: Glosses, context: Context
) -> dict[str, Any]:
    glosses, first = gloss_numbers(clips, vocabulary), log_probability.argmax(axis=1)
    count, covered = len(vocabulary), context.coverage
    # Top-1 if all missing clips were wrong; with `limit=`, other clips that are there were not ranked either.
    whole = covered.of != "data set" and len(clips) == covered.clips
    f1 = metrics.bootstrap(
        lambda rows: metrics.macro_f1(first[rows], glosses[rows], count), metrics.resamples(len(glosses))
    )
    return {
        **context.about,
        "n": len(clips),
        "glosses": count,
        **with_intervals(metrics.figures(ranks, glosses) | {"f1_macro": f1}),
        "glosses_with_clips": len(set(glosses.tolist())),
        "signers": len({clip.signer for clip in clips if clip.signer is not None}),
        # Guessing names each gloss as often as it is meant, so that precision and recall are both one of K.
        "chance": metrics.chance(count) | {"f1_macro": 1 / count},
        "mass": float(np.exp(log_probability.astype(np.float64)).sum(axis=1).mean()),
        "coverage": {
            **asdict(covered),
            "missing": len(covered.missing),
            "top1_of_listed": int((ranks == 1).sum()) / covered.listed if whole else None,
        },
        "grouped": _grouped(log_probability, glosses, among(context.conflicts, vocabulary), vocabulary),
    }


def with_intervals(named: Mapping[str, Figure]) -> dict[str, Any]:
    """Each figure's value, and `<name>_interval` with its bounds."""
    rows: dict[str, Any] = {}
    for name, figure in named.items():
        rows |= {name: figure.value, f"{name}_interval": [figure.low, figure.high]}
    return rows


def _grouped(
    log_probability: LogProbability, glosses: Glosses, groups: list[list[str]], vocabulary: Sequence[str]
) -> dict[str, Any] | None:
    """Metrics that count any gloss of the true one's group as right; None where there is no group."""
    if not groups:
        return None
    numbers = [[vocabulary.index(gloss) for gloss in group] for group in groups]
    figures = metrics.figures(metrics.best_ranks(metrics.all_ranks(log_probability), glosses, numbers), glosses)
    inside = int(np.isin(glosses, np.concatenate(numbers)).sum())
    return with_intervals({name: figures[name] for name in GROUPED}) | {"n_in_groups": inside, "groups": groups}


def _per_gloss(
    vocabulary: Sequence[str], log_probability: LogProbability, glosses: Glosses, ranks: Glosses
) -> list[dict[str, Any]]:
    """A row for each gloss that has clips or was named, in the vocabulary's order."""
    first = log_probability.argmax(axis=1)
    precision, _, f1 = metrics.scores_by_gloss(first, glosses, len(vocabulary))
    named = np.bincount(first, minlength=len(vocabulary))
    rows = []
    for number in np.union1d(first, glosses).tolist():
        own = ranks[glosses == number]
        top1 = float((own == 1).mean()) if len(own) else None
        wrong = Counter(vocabulary[other] for other in first[glosses == number].tolist() if other != number)
        rows.append(
            {
                "gloss": vocabulary[number],
                "n": len(own),
                "named": int(named[number]),
                "top1": top1,
                "top5": float((own <= 5).mean()) if len(own) else None,
                "mrr": float((1 / own).mean()) if len(own) else None,
                "precision": float(precision[number]) if named[number] else None,
                "recall": top1,
                "f1": float(f1[number]),
                "confused_with": [list(pair) for pair in wrong.most_common()],
            }
        )
    return rows


def _per_signer(clips: Sequence[Clip], ranks: Glosses) -> list[dict[str, Any]]:
    """A row for each signer that the data set names, the worst first."""
    rows = []
    for signer in {clip.signer for clip in clips} - {None}:
        own = ranks[[clip.signer == signer for clip in clips]]
        top1 = with_intervals({"top1": metrics.wilson(float((own == 1).mean()), len(own))})
        rows.append({"signer": signer, "n": len(own), **top1, "top5": float((own <= 5).mean())})
    return sorted(rows, key=lambda row: (row["top1"], -row["n"], row["signer"]))


def _calibration(predictions: Predictions, glosses: Glosses, calibration: Calibration | None) -> dict[str, Any] | None:
    """How well the probabilities fit here, and what answering fewer clips gives, as the run's calibration has it."""
    if calibration is None:
        return None
    log_probability, states = predictions
    right = log_probability.argmax(axis=1) == glosses
    plain = calibrating.reliability(softmax(log_probability.astype(np.float64), axis=1).max(axis=1), right)
    bins = calibrating.reliability(calibration.probabilities(log_probability).max(axis=1), right)
    scores, answered = calibration.familiarity.scores(states), calibration.answers(states)
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
        "bins": [list(row) for row in bins],
        "aurc": calibrating.area_under_risk(scores, right),
        "risk_coverage": np.stack([coverage, risk], axis=1)[last].tolist(),
        "answered_here": float(answered.mean()),
        "risk_answered": float((~right[answered]).mean()) if answered.any() else None,
    }


def ranking(vocabulary: Sequence[str], log_probability: NDArray[np.float32]) -> list[dict[str, Any]]:
    """One clip's glosses, best first, with log_probability and probability; from float32 (K,).

    >>> [row["gloss"] for row in ranking(["no", "yes"], np.log(np.array([0.1, 0.3], dtype=np.float32)))]
    ['yes', 'no']
    """
    order = np.argsort(-log_probability, kind="stable")
    probability = softmax(log_probability.astype(np.float64))
    columns = (order.tolist(), log_probability[order].tolist(), probability[order].tolist())
    return [
        {"gloss": vocabulary[number], "log_probability": log, "probability": share}
        for number, log, share in zip(*columns, strict=True)
    ]


def write_evaluation(folder: Path, results: Mapping[str, Any]) -> None:
    """Write a part's results: JSON for programs, tables for spreadsheets, and the ids of missing clips."""
    write_json(folder / "evaluation_results.json", results, indent=None)
    write_json(folder / "ranks.json", true_ranks(results), indent=None)
    rows = [
        row | {"confused_with": "; ".join(f"{gloss} {count}" for gloss, count in row["confused_with"])}
        for row in results["per_gloss"]
    ]
    write_whole(folder / "per_gloss.csv", _csv(list(rows[0]), [row.values() for row in rows]))
    pairs = Counter((clip["gloss"], clip["ranking"][0]["gloss"]) for clip in results["predictions"])
    confused = [(*pair, count) for pair, count in sorted(pairs.items())]
    write_whole(folder / "confusion.csv", _csv(["gloss", "named", "clips"], confused))
    write_whole(folder / "missing.txt", "".join(f"{name}\n" for name in results["missing"]))


def _csv(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def metric_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every metric: title, value, low and high of its 95 % interval, chance (None where it is not known)."""
    summary = results["summary"]
    parts = [
        (summary, (*METRICS, "f1_macro"), ""),
        (summary["grouped"], GROUPED, ", conflicts as one"),
        (results["generated"], ("top1", "top5"), ", free text"),
    ]
    rows = []
    for values, names, how in parts:
        for name in names if values else ():
            low, high = values[f"{name}_interval"]
            chance = None if how else summary["chance"][name]
            rows.append(
                {"title": f"{TITLES[name]}{how}", "value": values[name], "low": low, "high": high, "chance": chance}
            )
    return rows


def table(results: Mapping[str, Any]) -> str:
    """The results as text: one row a metric, with value, 95 % interval, chance and n; then the notes."""
    summary, n = results["summary"], str(results["summary"]["n"])
    signers = f" of {summary['signers']} signers" if summary["signers"] else ""
    head = f"{summary['part']} part: {n} clips{signers}, {summary['glosses']} glosses to choose from"
    rows = [["", "value", "95 % interval", "chance", "n"]]
    for row in metric_rows(results):
        chance = ABSENT if row["chance"] is None else f"{row['chance']:.3f}"
        rows.append([row["title"], f"{row['value']:.3f}", f"{row['low']:.3f} – {row['high']:.3f}", chance, n])
    return "\n".join([head, aligned(rows), *notes(results)])


def notes(results: Mapping[str, Any]) -> list[str]:
    """What else is to be known of the numbers: lines that begin with their subject, `coverage: …`."""
    summary, calibration, free = results["summary"], results["calibration"], results["generated"]
    lines, grouped, covered = [], summary["grouped"], summary["coverage"]
    if grouped:
        groups = "; ".join("/".join(group) for group in grouped["groups"][:4])
        more = "; …" if len(grouped["groups"]) > 4 else ""
        lines.append(f"conflicts: {grouped['n_in_groups']} clips have a gloss that shares its video: {groups}{more}")
    line = f"coverage: {covered['clips']:,} of {covered['listed']:,} clips listed for the {covered['of']}"
    if covered["missing"] and covered["top1_of_listed"] is not None:
        line += f"; top-1 {covered['top1_of_listed']:.3f} if every missing clip were wrong"
    lines.append(line)
    if "unknown" in summary:
        strange = summary["unknown"]
        lines.append(
            f"unknown signs: {strange['n']} clips of {strange['glosses']} glosses outside the vocabulary, "
            f"{strange['abstained']:.1%} of them called unknown"
        )
    if free:
        lines.append(
            f"free text: {free['beams']} beams per clip, {free['no_gloss']:.1%} of the texts are no gloss, "
            f"{free['doubled']:.1%} repeat one; exact match but for capitals and spaces"
        )
    if calibration:
        lines.append(
            f"calibration: error {calibration['ece']:.3f} with temperature scaling ({calibration['temperature']:.2f}), "
            f"{calibration['ece_uncalibrated']:.3f} without; learned from {calibration['fitted_n']} validation clips"
        )
        wrong = "" if calibration["risk_answered"] is None else f" ({calibration['risk_answered']:.1%} of these wrong)"
        lines.append(f"answered: {calibration['answered_here']:.1%} of the clips{wrong}; the others are called unknown")
    return lines
