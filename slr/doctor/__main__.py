"""`python -m slr.doctor`: the command is in slr/commands."""

import sys

from slr.commands.doctor import main
from slr.core.errors import explained

if __name__ == "__main__":
    sys.exit(explained(lambda: main(sys.argv[1:])))
