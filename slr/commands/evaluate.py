"""Evaluate a run from its own folder: `python evaluate.py run=outputs/… part=test`."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slr import factory
from slr.config import schema
from slr.core import argv, env
from slr.core.errors import UserError
from slr.core.files import write_whole

if TYPE_CHECKING:
    from slr.data.coverage import Coverage

USAGE = (
    "python evaluate.py run=FOLDER [part=train|val|test|all] [limit=N] [checkpoint=best|last|PATH] "
    "[device=cpu|cuda|directml|mps] [coverage=SHARE] [other=FOLDER of a prepared data set] "
    "[decoding=rank|generate] [beams=N] [report=yes|no]"
)
DEFAULTS = {
    "run": None,
    "part": "test",
    "limit": "all",
    "checkpoint": "best",
    "device": "as trained",
    "coverage": "0.9",
    "other": "none",
    "decoding": "rank",
    "beams": "5",
    "report": "yes",
}
ALLOWED = {
    "part": ("train", "val", "test", "all"),
    "device": schema.DEVICES,
    "decoding": ("rank", "generate"),
    "report": ("yes", "no"),
}


@dataclass(frozen=True)
class EvaluateArgs:
    """What is to be evaluated.

    Attributes:
        run: the run's folder; configuration, split and vocabulary are its own.
        part: train, val, test or all.
        limit: rank the first `limit` clips of the part only.
        checkpoint: best, last, or a path.
        device: None is the one that the run was trained on.
        coverage: least share of the listed clips that must be there.
        other: a prepared data set to rank instead of the run's own.
        beams: width of a search for free text beside the ranking; None makes none.
        report: whether to write report.html.
    """

    run: Path
    part: str
    limit: int | None
    checkpoint: str
    device: str | None
    coverage: float
    other: Path | None
    beams: int | None
    report: bool


def evaluate(wish: EvaluateArgs) -> tuple[dict[str, Any], Path]:
    """Rank a part of the run's clips and write what that gave; returns the results and the folder they lie in.

    Raises:
        UserError: no such run; a part without clips, or with too few of those that are listed; clips, split or
            vocabulary other than the run's.
    """
    from slr.config.saved_run import open_run
    from slr.data.split import read_split

    folder, config, vocabulary = open_run(wish.run)
    if config.lora.scope != "none":
        folder.checkpoint(wish.checkpoint)  # costs nothing, and the network seconds
    from slr.evaluation import evaluate as scoring
    from slr.evaluation.results import write_evaluation
    from slr.predict import calibration, recognizer

    clips = factory.clips(config)
    split = read_split(folder.split, clips)
    scoring.refuse_strangers(folder, split, vocabulary)
    checkpoint = None if config.lora.scope == "none" else wish.checkpoint
    found = scoring.context(config, clips, split, wish.part, checkpoint, None)
    chosen = split.select(clips, wish.part)[: wish.limit]
    if not chosen:
        raise UserError(f"part={wish.part}: the run's split put no clip there")
    if not wish.other:
        refuse_few(wish, folder.evaluation, found.coverage)
    ranker = recognizer.load(wish.run, wish.checkpoint, wish.device)
    learned = ranker.calibration
    if not learned:  # of another checkpoint than the best, or of a run from before there was any
        learned = scoring.calibrate(ranker, split.select(clips, "train"), split.select(clips, "val"))
        if wish.checkpoint == "best":
            calibration.write(folder.calibration, learned)
    place = folder.evaluation
    if wish.other:
        place /= f"other-{wish.other.resolve().name}"
        results, chosen = scoring.score_elsewhere(ranker, wish.other, checkpoint, learned)
    else:
        results = scoring.score(ranker, chosen, replace(found, calibration=learned))
    if wish.beams:
        results = scoring.add_generated(results, ranker, chosen, wish.beams, wish.other)
    write_evaluation(place, results)
    if wish.report:
        from slr.evaluation.report.page import report

        report(ranker, chosen, results, folder, place, wish.other)
    return results, place


def refuse_few(wish: EvaluateArgs, place: Path, coverage: "Coverage") -> None:
    """See that the part has enough of the clips that its data set lists for a number that bears its name.

    Raises:
        UserError: it has not; `missing.txt` then says which are missing.
    """
    if coverage.share >= wish.coverage:
        return
    place.mkdir(exist_ok=True)
    write_whole(place / "missing.txt", "".join(f"{name}\n" for name in coverage.missing))
    raise UserError(
        f"part={wish.part}: expected {wish.coverage:.0%} of the clips that the data set lists, found "
        f"{coverage.describe()}, {coverage.missing[0]} is the first that is missing ({place / 'missing.txt'}); fetch "
        f"them, or say that fewer will do: coverage={int(coverage.share * 100) / 100}"
    )


def wish(words: dict[str, str]) -> EvaluateArgs:
    """What the words of the command line ask for.

    Raises:
        UserError: a value that cannot be.
    """
    for key, allowed in ALLOWED.items():
        if words[key] not in (DEFAULTS[key], *allowed):
            raise UserError(f"{key}={words[key]}: expected {', '.join(allowed[:-1])} or {allowed[-1]}")
    return EvaluateArgs(
        run=Path(words["run"]),
        part=words["part"],
        limit=None if words["limit"] == "all" else argv.whole_number("limit", words["limit"], 1),
        checkpoint=words["checkpoint"],
        device=None if words["device"] == "as trained" else words["device"],
        coverage=argv.share("coverage", words["coverage"]),
        other=None if words["other"] == "none" else Path(words["other"]),
        beams=argv.whole_number("beams", words["beams"], 1) if words["decoding"] == "generate" else None,
        report=words["report"] == "yes",
    )


def main() -> None:
    """Read the words, evaluate, print the table."""
    if any(word in ("-h", "--help") for word in sys.argv[1:]):
        print(f"usage: {USAGE}")
        return
    env.begin()
    results, place = evaluate(wish(argv.parse(sys.argv[1:], DEFAULTS, USAGE)))

    from slr.evaluation.results import table

    print(table(results))
    print(f"written: {', '.join(sorted(file.name for file in place.iterdir() if file.is_file()))} in {place}")
