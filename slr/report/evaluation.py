"""From rankings to `evaluation_results.json` and to the table that a person reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slr.data.manifest import Clip
from slr.metrics import METRICS, Figure, chance, figures, place_of_truth

TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "mrr": "mean reciprocal rank",
    "top1_per_class": "top-1 per class",
    "top5_per_class": "top-5 per class",
}


def evaluation(
    clips: Sequence[Clip], vocabulary: Sequence[str], log_probability: NDArray[np.float32], about: Mapping[str, object]
) -> dict[str, Any]:
    """The content of `evaluation_results.json`.

    Args:
        clips: the n ranked clips.
        vocabulary: the K ordered glosses.
        log_probability: float32 (n, K), natural log, not renormalised.
        about: what the summary says besides (part, checkpoint).

    Returns:
        `summary`: each metric, `<metric>_interval`, n, chance, mean mass. `predictions`: whole rankings, best first.
    """
    position = {gloss: number for number, gloss in enumerate(vocabulary)}
    glosses = [position[clip.gloss] for clip in clips]
    ranks = place_of_truth(torch.from_numpy(log_probability), torch.tensor(glosses))
    summary: dict[str, Any] = dict(about) | {"n": len(clips), "glosses": len(vocabulary)}
    for name, figure in figures(ranks.numpy(), np.array(glosses)).items():
        summary[name] = figure.value
        summary[f"{name}_interval"] = [figure.low, figure.high]
    summary["glosses_with_clips"] = len(set(glosses))
    summary["signers"] = len({clip.signer for clip in clips if clip.signer is not None})
    summary["chance"] = chance(len(vocabulary))
    summary["mass"] = float(np.exp(log_probability.astype(np.float64)).sum(axis=1).mean())
    predictions = [
        {"clip": clip.id, "gloss": clip.gloss, "signer": clip.signer, "ranking": ranking(vocabulary, row)}
        for clip, row in zip(clips, log_probability, strict=True)
    ]
    return {"summary": summary, "predictions": predictions}


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


def table(summary: Mapping[str, Any]) -> str:
    """The summary as text: one row a metric, with value, 95 % interval, chance and n."""
    signers = f" of {summary['signers']} signers" if summary["signers"] else ""
    head = f"{summary['part']} part: {summary['n']} clips{signers}, {summary['glosses']} glosses to choose from"
    rows = [("", "value", "95 % interval", "chance", "n")]
    for name in METRICS:
        low, high = summary[f"{name}_interval"]
        figure = Figure(summary[name], low, high, summary["n"])
        rows.append(
            (
                TITLES[name],
                f"{figure.value:.3f}",
                f"{figure.low:.3f} – {figure.high:.3f}",
                f"{summary['chance'][name]:.3f}",
                str(figure.n),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([head, *lines])
