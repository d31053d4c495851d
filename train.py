"""Train a vision-language model to name signs: `python train.py experiment=demo`."""

from slr.commands.train import main
from slr.core.errors import explained

if __name__ == "__main__":
    explained(main)
