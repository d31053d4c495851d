"""Where the signs of a long recording are, from sliding windows and from where something moves. No model, no files.

A model that was trained on clips of one sign names a sign in every window, as confidently where a person rests. So rest
is found in the pictures: where nothing moves for a while, there is no sign. In a stretch that moves, the windows that
fit it best, averaged with their neighbours, give the place of a sign. That place is cut out with some rest around it,
as in the training clips, and ranked again.

Axes: F frames of the recording, n windows, T frames that a model sees of each, K glosses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

CELLS = 12  # rows and columns in which pictures are compared
MOVING = 8.0  # grey levels by which a cell changes from one frame to the next where a hand moves over it
HELD = 0.36  # seconds; a shorter stillness is a hold within a sign
BRIEF = 0.4  # seconds; what moves for less is a cut or a flicker
NEIGHBOURS = 0.15  # of a window: windows whose middles are no further apart are averaged
FITTING = 0.5  # smallest share of a window, or of a shorter stretch, that moves and that no other sign has
AROUND = 0.24  # seconds of rest at either end of a cut, where its neighbours leave so much

Span = tuple[int, int]  # first frame, and the one behind the last


@dataclass(frozen=True)
class Windows:
    """The windows of a recording that a model ranks."""

    positions: NDArray[np.int64]  # (n, T), the frames of each, rising; neighbours share some where the stride allows it
    starts: NDArray[np.int64]  # (n,), first frame of each
    ends: NDArray[np.int64]  # (n,), the frame behind its last


@dataclass(frozen=True)
class Segment:
    """One sign in a recording."""

    start: float  # seconds
    end: float  # seconds
    gloss: str
    probability: float


def lay(frames: int, fps: float, count: int, window: float, stride: float) -> Windows:
    """Windows over a whole recording, the last one at its end; a shorter recording is one window.

    The window is rounded to a multiple of `count` frames, so that the frames seen of it are equally far apart, and the
    stride so that windows share frames, if it is not shorter than that distance.

    Args:
        frames: of the recording.
        fps: its frames a second.
        count: T, frames that a model sees.
        window, stride: seconds, above 0.

    >>> lay(frames=100, fps=25.0, count=4, window=1.6, stride=0.8).positions.tolist()
    [[5, 15, 25, 35], [25, 35, 45, 55], [45, 55, 65, 75], [65, 75, 85, 95]]
    """
    step = max(1, round(window * fps / count))
    length = step * count
    if frames <= length:
        middles = (2 * np.arange(count) + 1) * frames // (2 * count)
        return Windows(middles[np.newaxis], np.array([0]), np.array([frames]))
    jump = max(1, round(stride * fps))
    jump = max(step, round(jump / step) * step) if jump >= step else jump
    starts = np.arange(0, frames - length + 1, jump)
    if starts[-1] + length < frames:
        starts = np.append(starts, frames - length)
    return Windows(starts[:, np.newaxis] + step // 2 + step * np.arange(count), starts, starts + length)


def cells(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pictures uint8 (n, H, W, 3) -> the mean of their green in `CELLS` x `CELLS` cells, float32 (n, C, C)."""
    height, width = (side // CELLS for side in frames.shape[1:3])
    green = frames[:, : height * CELLS, : width * CELLS, 1]
    return green.reshape(len(frames), CELLS, height, CELLS, width).mean(axis=(2, 4), dtype=np.float32)


def motion(seen: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much each frame differs from the one before, in grey levels: its most changed cell; 0 for the first.

    What all cells share is subtracted: a flickering light is no movement.

    Args:
        seen: (F, C, C) from `cells`.

    Returns:
        (F,)
    """
    change = np.diff(seen.reshape(len(seen), -1), axis=0)
    change -= np.median(change, axis=1, keepdims=True)
    return np.concatenate([np.zeros(1, np.float32), np.abs(change).max(axis=1)])


def stretches(moved: NDArray[np.float32], fps: float) -> list[Span]:
    """Where something moves, in the order of time.

    Args:
        moved: (F,) from `motion`.
        fps: frames a second.

    >>> hold, rest = [0.0] * 5, [0.0] * 25
    >>> stretches(np.array(rest + [20.0] * 10 + hold + [20.0] * 10 + rest + [30.0] + rest), fps=25.0)
    [(24, 50)]
    """
    moving = np.flatnonzero(moved > MOVING)
    if not len(moving):
        return []
    breaks = np.flatnonzero(np.diff(moving) > HELD * fps)
    firsts, lasts = moving[np.append(0, breaks + 1)], moving[np.append(breaks, len(moving) - 1)]
    # A change belongs to the two frames that it lies between.
    spans = [(max(0, int(first) - 1), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]
    return [(start, end) for start, end in spans if end - start >= BRIEF * fps]


def propose(windows: Windows, probabilities: NDArray[np.float64], moving: Sequence[Span]) -> list[Span]:
    """Where signs are, in the order of time; no two overlap.

    A window's score is the largest probability, averaged over neighbouring windows, times its overlap with the moving
    stretch at its middle (intersection over union), so that a sign between two rests is found by the windows around its
    middle, and signs without a rest between them by the most confident ones. The best window is taken, with what moves
    in it; then the best of those of which enough is left.

    Args:
        windows: the n windows.
        probabilities: (n, K), rows adding up to 1.
        moving: from `stretches`.
    """
    owner = np.zeros(int(windows.ends.max()), np.int64)  # of each frame: its stretch, from 1 on, until a sign takes it
    for number, (start, end) in enumerate(moving, 1):
        owner[start:end] = number
    under = owner[(windows.starts + windows.ends) // 2]  # the stretch at each window's middle
    fits = [
        _fit((int(start), int(end)), moving[own - 1]) if own else 0.0
        for start, end, own in zip(windows.starts, windows.ends, under.tolist(), strict=True)
    ]
    score = _averaged(windows, probabilities).max(axis=1) * np.array(fits)
    spans = []
    for best in np.argsort(-score, kind="stable")[: np.count_nonzero(score)].tolist():
        start, end = int(windows.starts[best]), int(windows.ends[best])
        begin, stop = moving[int(under[best]) - 1]
        inside = start + np.flatnonzero(owner[start:end] == under[best])
        if len(inside) < FITTING * min(end - start, stop - begin):
            continue
        first, last = int(inside[0]), int(inside[-1]) + 1
        owner[first:last] = 0
        spans.append((first, last))
    return sorted(spans)


def cuts(spans: Sequence[Span], frames: int, fps: float) -> list[Span]:
    """Spans with some of what is around them, up to the middle between two neighbours.

    >>> cuts([(10, 40), (44, 80)], frames=82, fps=25.0)
    [(4, 42), (42, 82)]
    """
    around = round(AROUND * fps)
    ends = [0, *((before[1] + after[0]) // 2 for before, after in pairwise(spans)), frames]
    return [
        (max(start - around, low), min(end + around, high))
        for (start, end), (low, high) in zip(spans, pairwise(ends), strict=True)
    ]


def _fit(one: Span, other: Span) -> float:
    """Intersection over union of two spans."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return max(0, shared) / (max(one[1], other[1]) - min(one[0], other[0]))


def _averaged(windows: Windows, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities averaged over the windows whose middles are near."""
    middles = windows.starts + windows.ends
    reach = 2 * NEIGHBOURS * (windows.ends - windows.starts)[:, np.newaxis]
    near = np.abs(middles[:, np.newaxis] - middles) <= reach
    return near @ probabilities / near.sum(axis=1, keepdims=True)
