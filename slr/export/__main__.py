"""`python -m slr.export`: the command is in slr/commands."""

from slr.commands.export import main
from slr.core.errors import explained

if __name__ == "__main__":
    explained(main)
