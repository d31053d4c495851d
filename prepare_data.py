"""Turn clips as they come into verified clips and a manifest: `python prepare_data.py dataset=synthetic`."""

from slr.commands.prepare import main
from slr.core.errors import explained

if __name__ == "__main__":
    explained(main)
