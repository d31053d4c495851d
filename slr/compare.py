"""`python -m slr.compare`: the command is in slr/commands."""

from slr.commands.compare import main
from slr.core.errors import explained

if __name__ == "__main__":
    explained(main)
