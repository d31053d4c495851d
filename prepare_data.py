"""Turn clips as they come into verified clips and a manifest: `python prepare_data.py dataset=synthetic`."""

import os
import sys
from pathlib import Path

from slr import commandline, schema
from slr.errors import UserError, explained

USAGE = """python prepare_data.py dataset=synthetic                                         drawn signers
python prepare_data.py dataset=folder dataset.clips=FOLDER dataset.labels=FILE   your own clips
python prepare_data.py dataset=wlasl dataset.index=FILE dataset.clips=FOLDER     WLASL's index and <video_id>.mp4
data=FOLDER puts the prepared clips elsewhere than data/; python train.py --help lists the other keys."""


def prepare(dataset: schema.Dataset, data: Path) -> Path:
    """Prepare a data set unless it is prepared already; returns its manifest.

    Raises:
        UserError: what it is to be made from is not there or makes no data set.
    """
    out, workers = data / dataset.place, os.cpu_count() or 1
    match dataset:
        case schema.Synthetic():
            from slr.prepare.synthetic import prepare_synthetic

            return prepare_synthetic(
                out, dataset.signs, dataset.signers, dataset.takes, dataset.seed, dataset.size, workers
            )
        case schema.Folder():
            from slr.prepare.folder import prepare_folder

            return prepare_folder(Path(dataset.clips), Path(dataset.labels), out, workers)
        case schema.Wlasl():
            from slr.prepare.wlasl import prepare_wlasl

            if dataset.index is None or dataset.clips is None:
                raise UserError("dataset=wlasl needs dataset.index=WLASL_v0.3.json and dataset.clips=FOLDER_OF_MP4")
            return prepare_wlasl(Path(dataset.index), Path(dataset.clips), out, workers)


def main() -> None:
    """Prepare what the command line names, and say where it lies."""
    commandline.register()
    arguments = commandline.quote_paths(sys.argv[1:])
    if commandline.asks_only(arguments):
        print(USAGE)
        return
    for config in commandline.configurations(arguments):
        print(f"prepared: {prepare(config.dataset, Path(config.data))}")


if __name__ == "__main__":
    explained(main)
