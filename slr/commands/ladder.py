"""Is the model better than simpler ones? `slr ladder experiment=demo`."""

import sys
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
    own = [word for word in sys.argv[1:] if word.startswith("rungs=") or word in ("-h", "--help")]
    args = argv.read(LadderArgs, own)
    env.begin()
    compose.register()
    rows, place = climb([word for word in sys.argv[1:] if word not in own], args.rungs)
    print(f"\n{table(rows)}\nruns: {place}")
