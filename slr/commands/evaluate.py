"""Evaluate a run from its own folder: `slr evaluate run=outputs/… part=test`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from slr import factory
from slr.config import schema
from slr.core import argv, env
from slr.core.argv import Option
from slr.core.errors import UserError
from slr.core.files import write_whole
from slr.data.coverage import Coverage

DECODING = {"rank": "exact probabilities of all glosses", "generate": "also a beam search for free text"}


@dataclass(frozen=True)
class EvaluateArgs(argv.Arguments):
    """Rank a part of a run's clips, by the run's own configuration, split and vocabulary; writes <run>/evaluation/."""

    command = "slr evaluate"
    run: Annotated[Path, Option("folder of the run", shown="FOLDER")]
    part: Annotated[str, Option("clips to rank", ("train", "val", "test", "all"))] = "test"
    limit: Annotated[int | None, Option("rank only the first so many clips", least=1, shown="all")] = None
    checkpoint: Annotated[str, Option("best, last or a path")] = "best"
    device: Annotated[str | None, Option("where to compute", schema.DEVICES, shown="as trained")] = None
    coverage: Annotated[float, Option("least share of the listed clips that must be there", most=1)] = 0.9
    other: Annotated[Path | None, Option("folder of another prepared data set to rank", shown="none")] = None
    decoding: Annotated[str, Option("how to answer", DECODING)] = "rank"
    beams: Annotated[int, Option("width of the beam search", least=1)] = 5
    report: Annotated[bool, Option("write report.html")] = True


def evaluate(args: EvaluateArgs) -> tuple[dict[str, Any], Path]:
    """Rank a part of the run's clips and write the results; returns them and the folder they are in.

    Raises:
        UserError: no such run; a part without clips, or with too few of those that are listed; clips, split or
            vocabulary other than the run's.
    """
    from slr.config.saved_run import open_run
    from slr.data.split import read_split

    folder, config, vocabulary = open_run(args.run)
    checkpoint = None if config.lora.scope == "none" else args.checkpoint
    if checkpoint:
        folder.checkpoint(checkpoint)  # costs nothing, and the network seconds
    from slr.evaluation import evaluate as scoring
    from slr.evaluation.results import write_evaluation
    from slr.predict import calibration, recognizer

    clips = factory.clips(config)
    split = read_split(folder.split, clips)
    scoring.check_unchanged(folder, split, vocabulary)
    context = scoring.context(config, clips, split, args.part, checkpoint, None)
    chosen = split.select(clips, args.part)[: args.limit]
    if not chosen:
        raise UserError(f"part={args.part}: the run's split put no clip there")
    if not args.other:
        refuse_few(args, folder.evaluation, context.coverage)
    ranker = recognizer.load(args.run, args.checkpoint, args.device)
    fitted = ranker.calibration
    if not fitted:  # of another checkpoint than the best, or of a run from before there was any
        fitted = scoring.calibrate(ranker, split.select(clips, "train"), split.select(clips, "val"))
        if args.checkpoint == "best":
            calibration.write(folder.calibration, fitted)
    place = folder.evaluation
    if args.other:
        place /= f"other-{args.other.resolve().name}"
        results, chosen = scoring.score_elsewhere(ranker, args.other, checkpoint, fitted)
    else:
        results = scoring.score(ranker, chosen, replace(context, calibration=fitted))
    if args.decoding == "generate":
        results = scoring.add_generated(results, ranker, chosen, args.beams, args.other)
    write_evaluation(place, results)
    if args.report:
        from slr.evaluation.report.page import report

        report(ranker, chosen, results, folder, place, args.other)
    return results, place


def refuse_few(args: EvaluateArgs, place: Path, coverage: Coverage) -> None:
    """Write the names of the listed clips that are missing to `missing.txt` and refuse, where they are too many.

    Raises:
        UserError: they are.
    """
    if coverage.share >= args.coverage:
        return
    place.mkdir(exist_ok=True)
    write_whole(place / "missing.txt", "".join(f"{name}\n" for name in coverage.missing))
    raise UserError(
        f"part={args.part}: expected {args.coverage:.0%} of the clips that the data set lists, found "
        f"{coverage.describe()}; the first missing is {coverage.missing[0]}, all are in {place / 'missing.txt'}; fetch "
        f"them, or accept fewer: coverage={int(coverage.share * 100) / 100}"
    )


def main() -> None:
    """Evaluate what the command line names, print the table, and say what was written."""
    args = argv.read(EvaluateArgs)
    env.begin()
    results, place = evaluate(args)

    from slr.evaluation.results import table

    print(table(results))
    print(f"written: {', '.join(sorted(file.name for file in place.iterdir() if file.is_file()))} in {place}")
    page = f"open {place / 'report.html'} in a browser; " if args.report else ""
    print(f"next: {page}{env.command('predict', f'run={args.run} video=FILE')}")
