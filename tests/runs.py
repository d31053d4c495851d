"""Folders as finished runs leave them, with rankings made up by a seed."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from slr.core.files import write_json
from slr.core.run_folder import RunFolder

VOCABULARY = ["hello", 'quo"te {"gloss": ', "äh, ja", "no", "yes", "why", "tea"]
CONFIG = {
    "seed": 0,
    "outputs": "outputs",
    "data": "data",
    "sweep": "s",
    "frames": 8,
    "dataset": {"name": "synthetic", "seed": 0},
    "split": {"rule": "signer", "seed": 0},
    "model": {"checkpoint": "tiny", "prompt": "Name the sign."},
    "lora": {"r": 16, "targets": ["q", "k"]},
}


def settings(**changes: Any) -> dict[str, Any]:
    """`CONFIG` with changes such as `lora__r=8`."""
    config = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        *groups, name = key.split("__")
        place = config
        for group in groups:
            place = place[group]
        place[name] = value
    return config


def places_of(rng: np.random.Generator, accuracy: float, clips: int) -> np.ndarray:
    """int (clips,): places of the truth, first with the chance `accuracy`."""
    return np.where(rng.random(clips) < accuracy, 1, rng.integers(2, len(VOCABULARY) + 1, size=clips))


def summary(places: np.ndarray) -> dict[str, Any]:
    """Each metric with an interval, as `evaluation` gives it."""
    made: dict[str, Any] = {"part": "test", "checkpoint": "best", "n": len(places)}
    for name, scores in (("top1", places <= 1), ("top5", places <= 5), ("mrr", 1 / places)):
        made[name] = float(scores.mean())
        if name == "mrr":
            made["mrr_interval"] = [made[name] - 0.02, made[name] + 0.02]
        else:
            interval = binomtest(int(scores.sum()), len(places)).proportion_ci(method="wilson")
            made[f"{name}_interval"] = [float(interval.low), float(interval.high)]
    return made


def ranking(truth: int, place: int) -> list[dict[str, Any]]:
    """The vocabulary with the true gloss at its place."""
    others = [gloss for number, gloss in enumerate(VOCABULARY) if number != truth]
    ordered = [*others[: place - 1], VOCABULARY[truth], *others[place - 1 :]]
    return [{"gloss": gloss, "log_probability": -float(at), "probability": 0.5} for at, gloss in enumerate(ordered)]


def make_run(
    folder: Path,
    places: np.ndarray,
    val: float = 0.5,
    val_mrr: float = 0.6,
    seconds: float = 100.0,
    data: str = "d" * 64,
    code: str = "c" * 64,
    torch: str = "2.15.0",
    prefix: str = "clip",
    **changes: Any,
) -> Path:
    """A finished run that ranked the true glosses of its test clips at `places`."""
    run = RunFolder(folder)
    clips = [f"{prefix} {number}" for number in range(len(places))]
    write_json(run.config, settings(**changes))
    write_json(run.vocabulary, VOCABULARY)
    parts = dict.fromkeys(clips, "test") | {f"{prefix} v{number}": "val" for number in range(40)}
    write_json(run.split, {"rule": "signer", "seed": 0, "parts": parts, "hash": "s" * 64})
    predictions = [
        {
            "clip": clip,
            "gloss": VOCABULARY[number % len(VOCABULARY)],
            "signer": None,
            "ranking": ranking(number % len(VOCABULARY), int(place)),
        }
        for number, (clip, place) in enumerate(zip(clips, places, strict=True))
    ]
    results = {"summary": summary(places), "predictions": predictions}
    write_json(run.evaluation / "evaluation_results.json", results, indent=None)
    ranks = dict(zip(clips, places.tolist(), strict=True))
    write_json(run.evaluation / "ranks.json", {"part": "test", "checkpoint": "best", "ranks": ranks}, indent=None)
    result = {
        "status": "done",
        "overrides": [],
        "seconds": seconds,
        "versions": {"python": "3.11.7", "torch": torch},
        "hashes": {"code": code, "config": "f" * 64, "data": data, "split": "s" * 64},
        "memory": {"estimated": 10**9, "measured": 13 * 10**8},
        "val": {"top1": val, "top5": 0.9, "mrr": val_mrr, "top1_low": val - 0.1, "top1_high": val + 0.1, "n": 40.0},
        "test": results["summary"],
    }
    write_json(run.result, result)
    return folder
