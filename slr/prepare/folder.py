"""`dataset=folder`: videos on disk and what lists them → a prepared data set."""

from pathlib import Path

from slr.data.manifest import Rejected
from slr.prepare.labels import ClipRecord, read_labels
from slr.prepare.layouts import asl_citizen, autsl, include, lsa64, ms_asl
from slr.prepare.layouts.listed import divide
from slr.prepare.records import LEAST_FRAMES, prepare_records

# Of published data sets, by `dataset.layout`; `labels` is the user's own list.
READERS = {
    "asl_citizen": asl_citizen.read,
    "autsl": autsl.read,
    "lsa64": lsa64.read,
    "include": include.read,
    "ms_asl": ms_asl.read,
}


def prepare_folder(clips: Path, labels: Path | None, out: Path, workers: int, layout: str = "labels") -> Path:
    """Turn the videos of a folder into verified clips; returns the path of the manifest.

    Arguments are those of `read_layout`, which refuses before anything is written, and of `prepare_records`. Of a
    published data set, clips of less than `LEAST_FRAMES` are rejected.
    """
    records, lost = read_layout(layout, clips, labels)
    return prepare_records("folder", records, out, workers, 1 if layout == "labels" else LEAST_FRAMES, lost)


def read_layout(layout: str, clips: Path, labels: Path | None) -> tuple[list[ClipRecord], list[Rejected]]:
    """The records of videos that are there and the rejections of those that are not, without opening any video.

    Args:
        layout: `labels`, the user's own list (see `read_labels`), or the layout of a published data set.
        clips: The folder that the list's relative paths start from, or that of the data set.
        labels: The list; of a published data set the folder of its lists, None where it has them itself.

    Raises:
        UserError: The lists are not there or not of this layout, no video is there, or, of the user's own, one is not.
    """
    if layout == "labels":
        assert labels is not None  # the configuration refuses this
        return read_labels(labels, clips), []
    return divide(READERS[layout](clips, labels), clips)
