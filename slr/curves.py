"""TensorBoard's files of a run: settings, curves, and their cutting back to where a resumed training begins."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

    for summary in hparams(flat(settings), dict.fromkeys(JUDGED_BY, 0.0)):
        writer.file_writer.add_summary(summary)  # pyright: ignore[reportOptionalMemberAccess]


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, bool | str | float]:
    """Nested settings as `group/key`, with lists and None as text: what TensorBoard can show.

    >>> flat({"lora": {"r": 8, "targets": ["q"]}})
    {'lora/r': 8, 'lora/targets': "['q']"}
    """
    rows: dict[str, bool | str | float] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            rows |= flat(value, f"{prefix}{key}/")
        else:
            rows[prefix + key] = value if isinstance(value, bool | str | int | float) else str(value)
    return rows


def add_results(folder: Path, part: str, metrics: Mapping[str, float], step: int) -> None:
    """Log what a part's ranking gave, where the HParams tab looks for it."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for name, value in metrics.items():
            writer.add_scalar(f"{part}/{name}", value, step)


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
