"""`dataset=folder`: videos on disk and what lists them → a prepared data set."""

from pathlib import Path

from slr.data.manifest import Rejected
from slr.prepare.labels import ClipRecord, read_labels
from slr.prepare.layouts import asl_citizen, autsl, include, lsa64, ms_asl
from slr.prepare.layouts.listed import divide
from slr.prepare.records import LEAST_FRAMES, prepare_records
from slr.prepare.verify import Limits

# Of published data sets, by `dataset.layout`; `labels` is the user's own list.
READERS = {
    "asl_citizen": asl_citizen.read,
    "autsl": autsl.read,
    "lsa64": lsa64.read,
    "include": include.read,
    "ms_asl": ms_asl.read,
}


def prepare_folder(
    clips: Path,
    labels: Path | None,
    out: Path,
    workers: int,
    longest_side: int = 640,
    least_frames: int = 1,
    limits: Limits | None = None,
    layout: str = "labels",
) -> Path:
    """Turn the videos of a folder into verified clips; returns the path of the manifest.

    Args:
        clips: The folder of the videos.
        labels: What lists them; see `read_layout`.
        out, workers, longest_side, least_frames, limits: See `prepare_records`. Of a published data set, clips of less
            than `LEAST_FRAMES` are rejected too.
        layout: See `read_layout`.

    Raises:
        UserError: As `read_layout` (then nothing is written), or as `prepare_records`.
    """
    records, lost = read_layout(layout, clips, labels)
    if layout != "labels":
        least_frames = max(least_frames, LEAST_FRAMES)
    return prepare_records("folder", records, out, workers, longest_side, least_frames, limits, lost)


def read_layout(layout: str, clips: Path, labels: Path | None) -> tuple[list[ClipRecord], list[Rejected]]:
    """What is listed and there, and what is listed and not there, without opening any video.

    Args:
        layout: `labels`, the user's own list (see `read_labels`), or the layout of a published data set.
        clips: The folder that the list's relative paths start from, or that of the data set.
        labels: The list; of a published data set the place of its lists, None where it has them itself.

    Raises:
        UserError: The lists are not there or not of this layout, no video is there, or, of the user's own, one is not.
    """
    if layout == "labels":
        if labels is None:
            raise ValueError("expected labels, found None")
        return read_labels(labels, clips), []
    return divide(READERS[layout](clips, labels), clips)
