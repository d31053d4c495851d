"""A long recording through a recognizer: every frame decoded once, each that windows share encoded once."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slr.core.hardware import Machine
from slr.data import video
from slr.data.collate import Batch, Sample, collate_ranking
from slr.models.ranking import RankOutput
from slr.predict import segmentation
from slr.predict.calibration import Predictions
from slr.training.module import SignModule

AT_ONCE = 64  # frames decoded together; each call seeks, which costs up to twelve more


def watch(
    recognizer: SignModule, machine: Machine, path: Path, windows: segmentation.Windows, prompt: str
) -> tuple[Predictions, NDArray[np.float32]]:
    """Rank every window of a prepared recording, and measure how much moves.

    Memory grows with the length by `scan.cells` of each frame (half a kilobyte) and a row of each window: frames and
    features are let go when no window needs them any more.

    Args:
        recognizer: on its device, in evaluation mode.
        machine: whose precision computes, and how many frames at once.
        path: a file that preparation wrote.
        windows: which frames to look at; the last one ends with the recording.
        prompt: the question.

    Returns:
        What it makes of the n windows, and `scan.motion` of the frames (F,).
    """
    seen: list[NDArray[np.float32]] = []
    looks: list[RankOutput] = []
    count, clips = windows.positions.shape[1], max(1, machine.frames_at_once // windows.positions.shape[1])
    words = recognizer.inputs.prompt_ids(prompt, count)
    kept: dict[int, Tensor] = {}
    with machine.autocast():
        for span, pictures in _read(path, int(windows.ends.max())):
            seen.append(segmentation.cells(pictures))
            wanted = np.intersect1d(span, windows.positions)
            kept |= zip(wanted.tolist(), _encode(recognizer, machine, pictures[wanted - span[0]]), strict=True)
            done = sum(len(look.state) for look in looks)
            there = int(np.searchsorted(windows.positions[:, -1], span[-1], side="right"))
            last = there == len(windows.positions)
            while there - done >= clips or (last and done < there):
                batch = windows.positions[done : min(done + clips, there)]
                looks.append(recognizer.look(_batch(recognizer, batch, kept, words)))
                done += len(batch)
            oldest = windows.positions[done, 0] if done < len(windows.positions) else span[-1] + 1
            kept = {position: features for position, features in kept.items() if position >= oldest}
    return _together(looks), segmentation.motion(np.concatenate(seen))


def look_at(
    recognizer: SignModule, machine: Machine, path: Path, positions: NDArray[np.int64], prompt: str
) -> Predictions:
    """What a recognizer makes of some parts of a prepared recording.

    Args:
        recognizer, machine, path, prompt: as for `watch`.
        positions: int (n, T), the frames of each part; at least one part.
    """
    inputs, clips = recognizer.inputs, max(1, machine.frames_at_once // positions.shape[1])
    words = inputs.prompt_ids(prompt, positions.shape[1])
    looks: list[RankOutput] = []
    with machine.autocast():
        for first in range(0, len(positions), clips):
            parts = [inputs.resize(video.read(path, row)) for row in positions[first : first + clips]]
            batch = collate_ranking([Sample("", 0, words, [], frames=part) for part in parts], inputs.pad_id)
            looks.append(recognizer.look(recognizer.transfer_batch_to_device(batch, recognizer.device, 0)))
    return _together(looks)


def _together(looks: Sequence[RankOutput]) -> Predictions:
    return Predictions(*(torch.cat(parts).cpu().numpy() for parts in zip(*looks, strict=True)))


def _read(path: Path, frames: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """A recording's frames, some at once: their numbers and pictures (n, H, W, 3)."""
    for first in range(0, frames, AT_ONCE):
        span = np.arange(first, min(first + AT_ONCE, frames))
        yield span, video.read(path, span)


def _encode(recognizer: SignModule, machine: Machine, pictures: NDArray[np.uint8]) -> Iterator[Tensor]:
    """The features (V of one frame, D) of each picture (n, H, W, 3)."""
    for first in range(0, len(pictures), machine.frames_at_once):
        resized = recognizer.inputs.resize(pictures[first : first + machine.frames_at_once])
        yield from recognizer.encode(resized[:, None])  # clips of one frame


def _batch(
    recognizer: SignModule, positions: NDArray[np.int64], kept: dict[int, Tensor], words: Sequence[int]
) -> Batch:
    """Windows (n, T) as a batch of clips with features."""
    samples = [
        Sample("", 0, list(words), [], features=torch.cat([kept[position] for position in row]))
        for row in positions.tolist()
    ]
    batch = collate_ranking(samples, recognizer.inputs.pad_id)
    return recognizer.transfer_batch_to_device(batch, recognizer.device, 0)
