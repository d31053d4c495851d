"""Frames → an H.264 file, the one format that training reads."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from slr.core.files import replacing

FPS = 25  # WLASL counts its frames at this rate


def write_clip(
    path: Path, frames: Iterable[np.ndarray], fps: int = FPS, crf: int = 20, preset: str = "veryfast"
) -> int:
    """Encode frames as H.264 in an MP4 file and return how many frames were written.

    The same frames give the same bytes: one thread, no date. The rate is constant from time 0 on, without B-frames and
    so without an edit list, on which readers differ by two frames. A key frame every 12 frames keeps seeks short.

    Args:
        path: Where the file goes; it is written beside and renamed, so it is whole or absent.
        frames: uint8 (H, W, 3) RGB, all of one size. An odd side grows by one row or column that repeats its edge.
        fps: Frames per second.
        crf: x264's constant rate factor, 0 to 51; lower is truer and larger.
        preset: x264's name for how much time it spends.

    Raises:
        ValueError: No frame, or frames that differ in size or are not uint8 (H, W, 3).
    """
    with replacing(path) as part:
        return _encode(part, iter(frames), fps, {"crf": str(crf), "preset": preset})


def _encode(path: Path, frames: Iterator[np.ndarray], fps: int, quality: dict[str, str]) -> int:
    first = next(frames, None)
    if first is None:
        raise ValueError("expected at least one frame, found none")
    muxing = {"movflags": "+faststart", "fflags": "+bitexact", "use_editlist": "0"}
    # Absolute, since FFmpeg reads "name:" at the start of a relative path as a protocol.
    with av.open(str(path.absolute()), "w", format="mp4", options=muxing) as container:
        stream = container.add_stream("libx264", rate=fps)
        height, width = first.shape[:2]
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        # x264's macroblock tree gives other bytes now and then for the same frames where the CPU has AVX-512.
        stream.options = {**quality, "g": "12", "bf": "0", "threads": "1", "mbtree": "0"}
        # What the conversion below makes of RGB; players guess where it is not stated.
        stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.SMPTE170M, ColorRange.MPEG
        stream.codec_context.time_base = Fraction(1, fps)
        converter = VideoReformatter()
        count = 0
        for count, pixels in enumerate(chain([first], frames), start=1):
            frame = converter.reformat(_frame(pixels, first.shape, count - 1), format="yuv420p", threads=1)
            frame.pts, frame.time_base = count - 1, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return count


def _frame(pixels: np.ndarray, shape: tuple[int, ...], number: int) -> av.VideoFrame:
    if pixels.shape != shape or pixels.ndim != 3 or shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"expected frames uint8 {shape}, found frame {number} {pixels.dtype} {pixels.shape}")
    height, width = shape[:2]
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
