"""Evaluate a run from its own folder: `python evaluate.py run=outputs/… part=test`."""

import sys
from pathlib import Path

from slr import arguments
from slr.errors import UserError, explained

USAGE = (
    "python evaluate.py run=FOLDER [part=train|val|test|all] [limit=N] [checkpoint=best|last|PATH] [device=cpu|cuda]"
)
DEFAULTS = {"run": None, "part": "test", "limit": "all", "checkpoint": "best", "device": "as trained"}


def evaluate(run: Path, part: str, limit: int | None, checkpoint: str, device: str | None) -> dict:
    """Rank a part of the run's clips, write `<run>/evaluation/evaluation_results.json`, return its summary.

    Args:
        run: the run's folder; configuration, split and vocabulary are its own.
        part: train, val, test or all.
        limit: rank the first `limit` clips of the part only.
        checkpoint: best, last, or a path.
        device: None is the one that the run was trained on.

    Raises:
        UserError: no such run, part without clips, or clips other than those that the run divided.
    """
    from slr.data.split import read_split
    from slr.run import open_run, write_json

    folder, config, vocabulary = open_run(run)
    if config.lora.scope != "none":
        folder.checkpoint(checkpoint)  # costs nothing, and the network seconds
    from slr import assemble, predict
    from slr.report.evaluation import evaluation

    clips = assemble.clips(config)
    chosen = read_split(folder.split, clips).select(clips, part)[:limit]
    if not chosen:
        raise UserError(f"part={part}: the run's split put no clip there")
    recognizer = predict.load(run, checkpoint, device)
    about = {"part": part, "checkpoint": None if config.lora.scope == "none" else checkpoint}
    results = evaluation(chosen, vocabulary, recognizer.rank_clips(chosen, f"ranking {part}"), about)
    write_json(folder.evaluation / "evaluation_results.json", results, indent=None)
    return results["summary"]


def main() -> None:
    """Read the words, evaluate, print the table."""
    if any(word in ("-h", "--help") for word in sys.argv[1:]):
        print(f"usage: {USAGE}")
        return
    words = arguments.parse(sys.argv[1:], DEFAULTS, USAGE)
    if words["part"] not in ("train", "val", "test", "all"):
        raise UserError(f"part={words['part']}: expected train, val, test or all")
    limit = None if words["limit"] == "all" else arguments.whole_number("limit", words["limit"], 1)
    device = None if words["device"] == "as trained" else words["device"]
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"device={device}: expected cpu or cuda")
    summary = evaluate(Path(words["run"]), words["part"], limit, words["checkpoint"], device)

    from slr.report.evaluation import table

    print(table(summary))
    print(f"written: {Path(words['run']) / 'evaluation' / 'evaluation_results.json'}")


if __name__ == "__main__":
    explained(main)
