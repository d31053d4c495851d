"""A long recording through a model: every frame is decoded once, and encoded once for all windows that share it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slr.core.hardware import Machine
from slr.data import video
from slr.data.collate import Sample, collate_ranking
from slr.models.ranking import RankOutput
from slr.models.sign_model import SignModel
from slr.predict import segmentation
from slr.predict.calibration import Predictions

AT_ONCE = 64  # frames decoded together; each call seeks, which costs up to twelve more


def watch(
    model: SignModel, machine: Machine, path: Path, windows: segmentation.Windows, prompt: str
) -> tuple[Predictions, NDArray[np.float32]]:
    """Rank every window of a prepared recording, and measure how much moves.

    Memory grows with the length by `segmentation.cells` of each frame (half a kilobyte) and a row of each window:
    frames and features are freed when no window needs them any more.

    Args:
        model: on its device, in evaluation mode.
        machine: its precision, and how many frames at once.
        path: a file that preparation wrote.
        windows: which frames to look at; the last one ends with the recording.
        prompt: the question.

    Returns:
        The predictions of the n windows, and `segmentation.motion` of the frames (F,).
    """
    cells, outputs, features = [], [], {}
    waiting = windows.positions  # of the windows that are not ranked yet
    clips = max(1, machine.frames_at_once // waiting.shape[1])
    ids = model.inputs.prompt_ids(prompt, waiting.shape[1])
    with machine.autocast():
        frames = np.arange(windows.ends.max())
        for span in (frames[first : first + AT_ONCE] for first in range(0, len(frames), AT_ONCE)):
            pictures = video.read(path, span)
            cells.append(segmentation.cells(pictures))
            wanted = np.intersect1d(span, windows.positions)
            features |= zip(wanted.tolist(), _encode(model, machine, pictures[wanted - span[0]]), strict=True)
            while (ready := int((waiting[:, -1] <= span[-1]).sum())) >= clips or 0 < ready == len(waiting):
                rows = [torch.cat([features[frame] for frame in row]) for row in waiting[:clips].tolist()]
                outputs.append(_look(model, [Sample("", 0, ids, [], features=row) for row in rows]))
                waiting = waiting[clips:]
            features = {frame: row for frame, row in features.items() if len(waiting) and frame >= waiting[0, 0]}
    return _together(outputs), segmentation.motion(np.concatenate(cells))


def look_at(model: SignModel, machine: Machine, path: Path, positions: NDArray[np.int64], prompt: str) -> Predictions:
    """Rank some parts of a prepared recording.

    Args:
        model, machine, path, prompt: as for `watch`.
        positions: int (n, T), the frames of each part; at least one part.
    """
    clips = max(1, machine.frames_at_once // positions.shape[1])
    ids = model.inputs.prompt_ids(prompt, positions.shape[1])
    outputs = []
    with machine.autocast():
        for first in range(0, len(positions), clips):
            parts = [model.inputs.resize(video.read(path, row)) for row in positions[first : first + clips]]
            outputs.append(_look(model, [Sample("", 0, ids, [], frames=part) for part in parts]))
    return _together(outputs)


def _look(model: SignModel, samples: Sequence[Sample]) -> RankOutput:
    return model.look(model.to_device(collate_ranking(samples, model.inputs.pad_id)))


def _together(outputs: Sequence[RankOutput]) -> Predictions:
    return Predictions(*(torch.cat(parts).cpu().numpy() for parts in zip(*outputs, strict=True)))


def _encode(model: SignModel, machine: Machine, pictures: NDArray[np.uint8]) -> Iterator[Tensor]:
    """The features (V of one frame, D) of each picture (n, H, W, 3)."""
    for first in range(0, len(pictures), machine.frames_at_once):
        resized = model.inputs.resize(pictures[first : first + machine.frames_at_once])
        yield from model.encode(resized[:, None])  # clips of one frame
