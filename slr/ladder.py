"""`python -m slr.ladder`: the command is in slr/commands."""

from slr.commands.ladder import main
from slr.core.errors import explained

if __name__ == "__main__":
    explained(main)
