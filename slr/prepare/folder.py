"""`dataset=folder`: the user's own videos and labels → a prepared data set."""

from pathlib import Path

from slr.prepare.labels import read_labels
from slr.prepare.records import prepare_records
from slr.prepare.verify import Limits


def prepare_folder(
    clips: Path,
    labels: Path,
    out: Path,
    workers: int,
    longest_side: int = 640,
    least_frames: int = 1,
    limits: Limits | None = None,
) -> Path:
    """Turn the videos that a labels file names into verified clips; returns the path of the manifest.

    Args:
        clips: The folder that the labels' relative paths start from.
        labels: See `read_labels`.
        out, workers, longest_side, least_frames, limits: See `prepare_records`.

    Raises:
        UserError: The labels are wrong or name missing videos (then nothing is written), or as `prepare_records`.
    """
    return prepare_records("folder", read_labels(labels, clips), out, workers, longest_side, least_frames, limits)
