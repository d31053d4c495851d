"""A recognizer put to the test: what training's end and `evaluate.py` do alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from slr import assemble, schema
from slr.calibration import Calibration, confidence, fit
from slr.data.listing import conflicts, coverage, read_lost
from slr.data.manifest import Clip, read_manifest
from slr.data.split import Split
from slr.errors import UserError
from slr.predict import SignRecognizer
from slr.report.evaluation import Context, evaluation
from slr.run import RunFolder, digest, read_json


def calibrate(ranker: SignRecognizer, clips: Sequence[Clip]) -> Calibration:
    """What the run's validation clips teach about its probabilities."""
    ranked = ranker.rank_clips(clips, "calibrating on val")
    position = {gloss: number for number, gloss in enumerate(ranker.vocabulary)}
    return fit(ranked, np.array([position[clip.gloss] for clip in clips]))


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
        config: of the run.
        clips: all that are prepared.
        split: of the run.
        part: train, val, test or all.
        checkpoint: whose weights rank; None without an adapter.
        calibration: of that checkpoint.
    """
    lost = read_lost(assemble.prepared(config))
    about = {"part": part, "checkpoint": checkpoint, "data": config.dataset.place, "split": split.rule}
    return Context(about, coverage(clips, lost, split, part), conflicts([*clips, *lost]), calibration)


def score(ranker: SignRecognizer, clips: Sequence[Clip], found: Context) -> dict[str, Any]:
    """Rank clips of the run's own data; the content of `evaluation_results.json`."""
    ranked = ranker.rank_clips(clips, f"ranking {found.about['part']}")
    return evaluation(clips, ranker.vocabulary, ranked, found)


def score_elsewhere(
    ranker: SignRecognizer, folder: Path, checkpoint: str | None, calibration: Calibration
) -> tuple[dict[str, Any], list[Clip]]:
    """Rank a prepared data set that the run does not know; its content as of `score`, and the clips that it counts.

    Clips of glosses outside the vocabulary count for one thing alone: whether they are called unknown. The summary has
    `unknown` of them: n, glosses, the share `abstained` on, and `auroc`, the chance that a known clip is the more
    confident of two (0.5: no better than a coin).

    Raises:
        UserError: no prepared data set, or none of its glosses is in the vocabulary.
    """
    clips, lost = read_manifest(folder / "manifest.jsonl"), read_lost(folder)
    known = [clip for clip in clips if clip.gloss in ranker.vocabulary]
    strange = [clip for clip in clips if clip.gloss not in ranker.vocabulary]
    if not known:
        raise UserError(f"other={folder}: expected clips of glosses that the run knows, found none of {len(clips)}")
    about = {"part": "all", "checkpoint": checkpoint, "data": str(folder), "split": "none"}
    listed = coverage(clips, lost, Split("none", 0, {}, ""), "all")
    found = Context(about, listed, conflicts([*clips, *lost]), calibration)
    ranked = ranker.rank_clips([*known, *strange], "ranking", folder)
    groups = [group for group in found.conflicts if set(group) <= set(ranker.vocabulary)]
    found = Context(about, listed, groups, calibration)
    results = evaluation(known, ranker.vocabulary, ranked[: len(known)], found)
    if strange:
        scores = confidence(ranked)
        places = rankdata(scores)[: len(known)]
        pairs = len(known) * len(strange)
        results["summary"]["unknown"] = {
            "n": len(strange),
            "glosses": len({clip.gloss for clip in strange}),
            "abstained": float((~calibration.answers(ranked[len(known) :])).mean()),
            "auroc": float((places.sum() - len(known) * (len(known) + 1) / 2) / pairs),
        }
    return results, known


def refuse_strangers(folder: RunFolder, split: Split, vocabulary: Sequence[str]) -> None:
    """See that split and vocabulary are those that the run was trained with; clips are held against the split's hash.

    Raises:
        UserError: names what differs, and both hashes.
    """
    known = read_json(folder.result).get("hashes", {}) if folder.result.is_file() else {}
    for name, found in (("split", split.hash), ("vocabulary", digest(list(vocabulary)))):
        if known.get(name, found) != found:
            raise UserError(
                f"{getattr(folder, name)}: expected the {name} that the run was trained with, hash {known[name][:12]}, "
                f"found another, hash {found[:12]}; put the run's own file back, or train a new run"
            )
