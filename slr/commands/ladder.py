"""`python -m slr.ladder`: is it better than simpler things?"""

import sys

from slr.config import compose
from slr.core import env
from slr.core.errors import UserError
from slr.evaluation.baselines import RUNGS, climb, table

USAGE = (
    "python -m slr.ladder [rungs=NAME,NAME…] [sweep=NAME] [any word of train.py]\n"
    "for example: python -m slr.ladder experiment=demo"
)


def main() -> None:
    """Read the words, climb, print the table."""
    if any(word in ("-h", "--help") for word in sys.argv[1:]):
        print(f"usage: {USAGE}\nrungs: {', '.join(f'{name} ({rung.title})' for name, rung in RUNGS.items())}")
        return
    env.begin()
    compose.register()
    chosen = [word.partition("=")[2] for word in sys.argv[1:] if word.startswith("rungs=")]
    rungs = chosen[-1].split(",") if chosen else [name for name in RUNGS if name != "full"]
    if unknown := [name for name in rungs if name not in RUNGS]:
        raise UserError(f"rungs={unknown[0]}: expected some of {', '.join(RUNGS)}")
    rows, place = climb([word for word in sys.argv[1:] if not word.startswith("rungs=")], rungs)
    print(f"\n{table(rows)}\nruns: {place}")
