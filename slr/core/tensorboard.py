"""TensorBoard's files of a run: settings, curves, and their cutting back to where a resumed training begins."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slr.core.run_folder import flat

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from torch.utils.tensorboard import SummaryWriter

PATTERN = "events.out.tfevents.*"
JUDGED_BY = ("val/top1", "val/top5", "val/loss", "val/mrr", "test/top1", "test/top5", "test/mrr")


def show_settings(writer: "SummaryWriter", settings: Mapping[str, Any]) -> None:
    """Put a run among TensorBoard's HParams, judged by metrics that it is going to log.

    Args:
        writer: of the run.
        settings: nested; lists and None are shown as text.
    """
    from torch.utils.tensorboard.summary import hparams

    values = {
        key: value if isinstance(value, bool | str | int | float) else str(value)
        for key, value in flat(settings, "/").items()
    }
    for summary in hparams(values, dict.fromkeys(JUDGED_BY, 0.0)):
        writer.file_writer.add_summary(summary)  # pyright: ignore[reportOptionalMemberAccess]


def add_results(folder: Path, part: str, metrics: Mapping[str, float], step: int) -> None:
    """Log what a part's ranking gave, where the HParams tab looks for it."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for name, value in metrics.items():
            writer.add_scalar(f"{part}/{name}", value, step)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What a run has logged: tag -> (step, value) by step; none where there are no events."""
    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob(PATTERN)):
        for event in _events(file):
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return {tag: sorted(points.items()) for tag, points in found.items()}


def add_images(folder: Path, title: str, images: Mapping[str, "NDArray[np.uint8]"], step: int) -> None:
    """Log pictures, in the place of those that were logged under this title before.

    Args:
        folder: of the run.
        title: their tags are `<title>/<name>`.
        images: name -> uint8 (H, W, 3).
        step: optimiser steps that lie behind what they show.
    """
    from torch.utils.tensorboard import SummaryWriter

    suffix = "." + title.replace("/", "-")
    before = [file for file in folder.glob(PATTERN) if file.name.endswith(suffix)]
    with SummaryWriter(str(folder), filename_suffix=suffix) as writer:
        for name, image in images.items():
            writer.add_image(f"{title}/{name}", image, step, dataformats="HWC")
    for file in before:
        file.unlink()


def cut_back(folder: Path, step: int, validated: bool) -> None:
    """Take out of a run's curves what a training that goes on at `step` is going to log again.

    Whatever was logged behind the checkpoint would else be there twice, and a file that a killed process left half
    written would hide what follows.

    Args:
        folder: of the run.
        step: optimiser steps that the checkpoint has behind it; 0 leaves nothing.
        validated: whether it has the validation behind it that follows its last step.
    """
    files = sorted(folder.glob(PATTERN))
    if not files:
        return
    kept = [event for file in files for event in _events(file) if step > 0 and _stays(event, step, validated)]
    kept.sort(key=lambda event: event.step)
    beside = folder / ".curves.part"  # TensorBoard reads whatever is called tfevents
    _write(beside, kept)
    os.replace(beside, files[0])
    for file in files[1:]:
        file.unlink()
    if not kept:
        files[0].unlink()


def _stays(event: "Event", step: int, validated: bool) -> bool:
    if not event.HasField("summary"):
        return event.HasField("file_version")
    if event.step >= step:
        return False
    ranked = any(value.tag.startswith(("val/", "test/")) for value in event.summary.value)
    return validated or not (ranked and event.step == step - 1)


def _events(file: Path) -> Iterator["Event"]:
    """What is whole in a file: a killed process may have left half a record at its end."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    for record in RawEventFileLoader(str(file)).Load():
        yield Event.FromString(record)


def _write(path: Path, events: list["Event"]) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    seen: set[bytes] = set()
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            what = event.summary.SerializeToString() if event.HasField("summary") else b"version"
            key = str(event.step).encode() + what
            if key not in seen:  # a cut that was killed half way leaves its file beside those it replaces
                seen.add(key)
                writer.write(event.SerializeToString())
