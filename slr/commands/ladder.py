"""Is the model better than simpler ones? `slr ladder experiment=demo`."""

from dataclasses import dataclass
from typing import Annotated

from slr.config import compose
from slr.core import argv, env
from slr.core.argv import Option
from slr.evaluation.baselines import RUNGS, climb, table

TITLES = {name: rung.title for name, rung in RUNGS.items()}


@dataclass(frozen=True)
class LadderArgs(argv.Arguments):
    """Measure a model against simpler ones on the same test clips; runs that are done already are taken.

    All other words are those of slr train, for example experiment=demo; sweep=NAME names the folder of the runs.
    """

    command = "slr ladder [WORDS OF slr train]"
    rungs: Annotated[tuple[str, ...], Option("what to measure", TITLES, shown="all but full")] = tuple(
        name for name in RUNGS if name != "full"
    )


def main() -> None:
    """Measure the rungs that the command line names and print their table."""
    args, words = argv.take(LadderArgs)
    env.begin()
    compose.register()
    rows, place = climb(words, args.rungs)
    print(f"\n{table(rows)}\nruns: {place}")
