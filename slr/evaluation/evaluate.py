"""Evaluate a recognizer on clips: shared by training's end and `evaluate.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slr import factory
from slr.config import schema
from slr.core.errors import UserError
from slr.core.run_folder import RunFolder, digest, hashes_of
from slr.data.coverage import conflicts, coverage, read_lost
from slr.data.manifest import Clip, read_manifest
from slr.data.split import Split
from slr.evaluation.free_text import exact_match
from slr.evaluation.results import Context, evaluation, gloss_numbers
from slr.predict.calibration import Calibration, fit, fit_familiarity
from slr.predict.predictor import ClipPredictor


def calibrate(ranker: ClipPredictor, train: Sequence[Clip], val: Sequence[Clip]) -> Calibration:
    """Fit a run's calibration: familiarity and usual duration on its `train` clips, the rest on its `val` clips."""
    states = ranker.look_clips(train, "calibrating on train").state
    familiarity = fit_familiarity(states, gloss_numbers(train, ranker.vocabulary))
    predictions = ranker.look_clips(val, "calibrating on val")
    seconds = float(np.median([clip.frames / clip.fps for clip in train]))
    return fit(predictions, gloss_numbers(val, ranker.vocabulary), familiarity, seconds)


def context(
    config: schema.Config,
    clips: Sequence[Clip],
    split: Split,
    part: str,
    checkpoint: str | None,
    calibration: Calibration | None,
) -> Context:
    """What the numbers of a part of the run's own data are to be read against.

    Args:
        config, split: of the run.
        clips: all that are prepared.
        part: train, val, test or all.
        checkpoint: whose weights rank, with its calibration; None without an adapter.
    """
    lost = read_lost(factory.prepared(config))
    about = {"part": part, "checkpoint": checkpoint, "data": config.dataset.place, "split": split.rule}
    return Context(about, coverage(clips, lost, split.rule, part), conflicts([*clips, *lost]), calibration)


def score(ranker: ClipPredictor, clips: Sequence[Clip], against: Context) -> dict[str, Any]:
    """Rank clips of the run's own data; the content of `evaluation_results.json`."""
    return evaluation(clips, ranker.vocabulary, ranker.look_clips(clips, f"ranking {against.about['part']}"), against)


def score_elsewhere(
    ranker: ClipPredictor, folder: Path, checkpoint: str | None, calibration: Calibration
) -> tuple[dict[str, Any], list[Clip]]:
    """Rank a prepared data set that the run does not know; results as of `score`, and the clips they are of.

    Clips of glosses outside the vocabulary are only asked whether they are called unknown. The summary has `unknown` of
    them: n, glosses, and the share `abstained` on.

    Raises:
        UserError: no prepared data set, or none of its glosses is in the vocabulary.
    """
    clips, lost = read_manifest(folder / "manifest.jsonl"), read_lost(folder)
    known = [clip for clip in clips if clip.gloss in ranker.vocabulary]
    strange = [clip for clip in clips if clip.gloss not in ranker.vocabulary]
    if not known:
        raise UserError(f"other={folder}: expected clips of glosses that the run knows, found none of {len(clips)}")
    about = {"part": "all", "checkpoint": checkpoint, "data": "/".join(folder.resolve().parts[-2:]), "split": "none"}
    against = Context(about, coverage(clips, lost, "none", "all"), conflicts([*clips, *lost]), calibration)
    results = evaluation(known, ranker.vocabulary, ranker.look_clips(known, "ranking", folder), against)
    if strange:
        states = ranker.look_clips(strange, "ranking unknown signs", folder).state
        results["summary"]["unknown"] = {
            "n": len(strange),
            "glosses": len({clip.gloss for clip in strange}),
            "abstained": float((~calibration.answers(states)).mean()),
        }
    return results, known


def add_generated(
    results: dict[str, Any], ranker: ClipPredictor, clips: Sequence[Clip], beams: int, folder: Path | None
) -> dict[str, Any]:
    """The results with `generated`: free text by a beam search on the same clips; see `exact_match`."""
    texts = ranker.generated(clips, beams, f"writing, {beams} beams", folder)
    generated = exact_match(texts, [clip.gloss for clip in clips], ranker.vocabulary) | {"beams": beams}
    predictions = [row | {"generated": own} for row, own in zip(results["predictions"], texts, strict=True)]
    return results | {"generated": generated, "predictions": predictions}


def check_unchanged(folder: RunFolder, split: Split, vocabulary: Sequence[str]) -> None:
    """Check that split and vocabulary are those that the run was trained with.

    Raises:
        UserError: names what differs, and both hashes.
    """
    known = hashes_of(folder)
    for name, found in (("split", split.hash), ("vocabulary", digest(list(vocabulary)))):
        if known.get(name, found) != found:
            raise UserError(
                f"{getattr(folder, name)}: expected the {name} that the run was trained with, hash {known[name][:12]}, "
                f"found another, hash {found[:12]}; put the run's own file back, or train a new run"
            )
