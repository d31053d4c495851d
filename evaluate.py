"""Evaluate a run from its own folder: `python evaluate.py run=outputs/… part=test`."""

from slr.commands.evaluate import main
from slr.core.errors import explained

if __name__ == "__main__":
    explained(main)
