"""`python -m slr.audit`: the command is in slr/commands."""

from slr.commands.audit import main
from slr.core.errors import explained

if __name__ == "__main__":
    explained(main)
