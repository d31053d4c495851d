"""Which part of a decoded picture is kept, how large and which way up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import VideoReformatter


@dataclass(frozen=True, slots=True)
class Crop:
    """The signer's place in the recording as its boxes were measured, which may since have been resized."""

    box: tuple[int, int, int, int]  # left, top, right, bottom, in pixels of that time
    heights: tuple[int, ...]  # of the pictures that boxes of this collection were measured in, lowest first
    margin: float  # added on each side, as a share of the box's width and height


def original_size(crop: Crop, width: int, height: int) -> tuple[float, float]:
    """Width and height of the picture that a box was measured in, for a copy of width × height.

    Nothing states it. A copy as high as pictures of its collection are known to be was not resized; any other was, from
    the lowest known height that has room for the box. A box that no known height has room for decides by itself.

    >>> box = Crop((57, 5, 246, 240), (240, 480), 0)
    >>> original_size(box, 320, 240), original_size(box, 160, 120)
    ((320.0, 240.0), (320.0, 240.0))
    """
    _, _, right, bottom = crop.box
    for candidate in (height, *crop.heights) if height in crop.heights else crop.heights:
        if bottom <= candidate + 1 and right <= width * candidate / height + 2:
            return width * candidate / height, float(candidate)
    grown = max(1.0, right / width, bottom / height)
    return width * grown, height * grown


def window(crop: Crop, width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what is kept of a copy of width × height, as shares of its sides."""
    wide, high = original_size(crop, width, height)
    left, top, right, bottom = crop.box
    across, down = (right - left) * crop.margin, (bottom - top) * crop.margin
    low_x, low_y = max(0.0, (left - across) / wide), max(0.0, (top - down) / high)
    high_x, high_y = min(1.0, (right + across) / wide), min(1.0, (bottom + down) / high)
    whole = high_x - low_x < 0.02 or high_y - low_y < 0.02  # an empty box
    return (0.0, 0.0, 1.0, 1.0) if whole else (low_x, low_y, high_x, high_y)


class View:
    """Turns one file's frames into uint8 (H, W, 3) RGB pictures: upright, square pixels, even sides, one size for all.

    Args:
        first: The file's first frame; it says how the file wants its pictures turned.
        stream: Its header has width, height and aspect before turning; encoders ask for one size in a whole file.
        longest_side: Pixels; larger pictures are made smaller.
        crop: What to keep of the upright picture; None keeps all.
    """

    def __init__(self, first: av.VideoFrame, stream: av.VideoStream, longest_side: int, crop: Crop | None) -> None:
        self._turn, turned = _turn(first)
        width, height, aspect = stream.width, stream.height, float(stream.sample_aspect_ratio or 1)
        # Within 2 % it is a rounding error of an earlier resize, and not worth resampling every picture.
        wide = width * aspect if abs(aspect - 1) > 0.02 and 0.25 < aspect < 4 else float(width)
        upright = (height, wide) if turned else (wide, height)
        kept = window(crop, round(upright[0]), round(upright[1])) if crop else (0.0, 0.0, 1.0, 1.0)
        sides = upright[0] * (kept[2] - kept[0]), upright[1] * (kept[3] - kept[1])
        scale = min(1.0, longest_side / max(sides))
        self._size = even(wide * scale), even(height * scale)
        across, down = self._size[::-1] if turned else self._size
        self._columns, self._rows = _slice(kept[0], kept[2], across), _slice(kept[1], kept[3], down)
        self._scaler = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """The picture that a frame shows."""
        width, height = self._size
        rgb = self._scaler.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
        return self._turn(rgb)[self._rows, self._columns]


def even(length: float) -> int:
    """The even number of pixels nearest to a length, at least two."""
    return max(2, 2 * round(length / 2))


def _slice(low: float, high: float, length: int) -> slice:
    """An even number of pixels that covers low to high as closely as possible."""
    wanted = min(length, max(16, even((high - low) * length)))
    start = min(round(low * length), length - wanted)
    return slice(max(0, start), max(0, start) + wanted)


def _turn(frame: av.VideoFrame) -> tuple[Callable[[np.ndarray], np.ndarray], bool]:
    """How the file wants its pictures turned and mirrored, and whether that swaps width and height.

    ISO 14496-12: a pixel at (p, q) is shown at x = a·p + c·q, y = b·p + d·q. `frame.rotation` would be shorter, but it
    knows no mirror, and a mirrored signer has changed hands.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist() if matrix is not None else (1, 0, 0, 0, 1)
    swaps = abs(b) > abs(a)
    axes: Sequence[int] = (1, 0, 2) if swaps else (0, 1, 2)
    across, down = (c, b) if swaps else (a, d)
    return lambda rgb: rgb.transpose(axes)[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1], swaps
