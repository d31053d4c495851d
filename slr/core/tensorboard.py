"""TensorBoard's files of a run: settings, curves, pictures, and truncating them where a resumed training begins."""

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
    """Add a run's nested settings to TensorBoard's HParams, with metrics that it is going to log."""
    from torch.utils.tensorboard.summary import hparams

    values = {
        key: value if isinstance(value, bool | str | int | float) else str(value)
        for key, value in flat(settings, "/").items()
    }
    for summary in hparams(values, dict.fromkeys(JUDGED_BY, 0.0)):
        writer.file_writer.add_summary(summary)  # pyright: ignore[reportOptionalMemberAccess]


def add_results(folder: Path, part: str, metrics: Mapping[str, float], step: int) -> None:
    """Log the metrics of a part under the names that the HParams tab shows."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for name, value in metrics.items():
            writer.add_scalar(f"{part}/{name}", value, step)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What a run has logged: tag -> (step, value) by step; none where there are no events."""
    curves: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob(PATTERN)):
        for event in _events(file):
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    curves.setdefault(value.tag, {})[event.step] = value.simple_value
    return {tag: sorted(points.items()) for tag, points in curves.items()}


def add_images(folder: Path, title: str, images: Mapping[str, "NDArray[np.uint8]"], step: int) -> None:
    """Log pictures, name -> uint8 (H, W, 3), as `<title>/<name>`, and remove earlier ones of this title."""
    from torch.utils.tensorboard import SummaryWriter

    suffix = "." + title.replace("/", "-")
    old = [file for file in folder.glob(PATTERN) if file.name.endswith(suffix)]
    with SummaryWriter(str(folder), filename_suffix=suffix) as writer:
        for name, image in images.items():
            writer.add_image(f"{title}/{name}", image, step, dataformats="HWC")
    for file in old:
        file.unlink()


def cut_back(folder: Path, step: int, validated: bool) -> None:
    """Remove from a run's curves what a training that continues at `step` is going to log again.

    Args:
        folder: of the run.
        step: optimiser steps before the checkpoint; 0 leaves nothing.
        validated: whether the checkpoint comes after the validation that follows its last step.
    """
    from tensorboard.summary.writer.record_writer import RecordWriter

    files = sorted(folder.glob(PATTERN))
    events = [event for file in files for event in _events(file) if step > 0 and _stays(event, step, validated)]
    events.sort(key=lambda event: event.step)
    if events:
        # A process that was killed here has left its file beside the old ones: keep each event once.
        key = lambda event: (event.step, event.summary.SerializeToString())  # noqa: E731
        part = folder / ".curves.part"  # TensorBoard reads every file with tfevents in its name
        with part.open("wb") as file:
            writer = RecordWriter(file)
            for event in {key(event): event for event in events}.values():
                writer.write(event.SerializeToString())
        os.replace(part, files[0])
    for file in files[bool(events) :]:
        file.unlink()


def _stays(event: "Event", step: int, validated: bool) -> bool:
    if not event.HasField("summary"):
        return event.HasField("file_version")
    ranked = any(value.tag.startswith(("val/", "test/")) for value in event.summary.value)
    return event.step < step - (ranked and not validated)


def _events(file: Path) -> Iterator["Event"]:
    """The whole events of a file: a killed process may have left half a record at its end."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    for record in RawEventFileLoader(str(file)).Load():
        yield Event.FromString(record)
