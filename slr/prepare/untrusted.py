"""A video file that nobody has vouched for → upright RGB pictures at a constant rate, or the reason why not.

Decoders are where hostile and broken files do their harm: call this in a guarded child only.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

SMALLEST_SIDE, LARGEST_SIDE = 16, 4096  # pixels, as the header states and before anything is decoded
LONGEST = 600.0  # seconds; a time stamp that leaps ahead would otherwise be filled with copies for hours
# No playlists, pictures or pages, and nothing that a file names is fetched.
OPENING = {"format_whitelist": "mov,matroska,webm,avi,flv,mpegts,mpeg,asf", "protocol_whitelist": "file"}
CONTAINER = re.compile(rb"....(ftyp|moov|mdat|free|wide|skip)|\x1aE\xdf\xa3|RIFF|FLV|\x30\x26\xb2\x75", re.DOTALL)
# An encrypted MP4 sample entry with its scheme, or Matroska's ContentEncodings > ContentEncoding > ContentEncryption.
ENCRYPTED = re.compile(rb"encv.{1,4096}?sinf|\x6d\x80.{1,8}?\x62\x40.{1,64}?\x50\x35", re.DOTALL)

Picture = TypeVar("Picture")


class Unfit(Exception):
    """A file that cannot become a clip: a reason code to count by and a detail to read."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def read_untrusted(path: Path, fps: int, longest_side: int) -> Iterator[np.ndarray]:
    """Decode a whole file once, in one thread, as uint8 (H, W, 3) RGB pictures, `fps` of them for each second.

    Pictures are turned and mirrored as the file asks, their pixels made square, and both sides made even and at most
    `longest_side`. Time counts from the first picture.

    Raises:
        Unfit: missing, not_a_file, too_small, not_video, no_video_stream, dimensions, encrypted, too_short, too_long or
            broken; also in the middle, at the picture that cannot be had.
    """
    _look(path)
    decoded = 0
    try:
        # Some good files carry metadata that is not UTF-8.
        with av.open(str(path.absolute()), metadata_errors="replace", options=OPENING) as container:
            stream = _picture_stream(container)
            width, height = _target_size(stream, longest_side)
            scaler, turn = VideoReformatter(), None
            for frame in resample(_timed(container, stream), fps):
                # Once: to look at a frame's side data ties it into a reference cycle, and memory fills with frames.
                turn = turn or _turn(frame)
                rgb = scaler.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
                decoded += 1
                yield turn(rgb)
        if decoded == 0:
            raise Unfit("too_short", "not one picture could be decoded")
    except (Unfit, MemoryError):
        raise
    except Exception as error:  # whatever a decoder makes of garbage: it is about this file, and says so
        raise _diagnosis(path, decoded, error) from error


def resample(frames: Iterable[tuple[float, float, Picture]], fps: int) -> Iterator[Picture]:
    """Bring (time, duration, picture) in seconds, from time 0 on, to a constant rate without changing their duration.

    Picture n is the one nearest to n/fps, but one that lies more than half a step ahead does not end the picture that
    is being shown, however long that one stays.

    >>> "".join(resample([(0, 0.1, "a"), (0.1, 0.4, "b"), (0.5, 0.1, "c")], fps=10))
    'abbbbc'
    """
    number = 0  # of the picture that is due, at number / fps
    shown: list[tuple[float, float, Picture]] = []
    for start, duration, picture in frames:
        for since, _, current in shown:
            while start - number / fps >= min(abs(number / fps - since), 0.5 / fps):
                yield current
                number += 1
        shown = [(start, duration, picture)]
    for since, duration, current in shown:
        for _ in range(number, max(round((since + duration) * fps), number, 1)):
            yield current


def _look(path: Path) -> None:
    if not path.exists():
        raise Unfit("missing", "there is no such file")
    if not path.is_file():  # opening a pipe would wait for ever
        raise Unfit("not_a_file", "it is a folder, a pipe or a device")
    if path.stat().st_size < 128:
        raise Unfit("too_small", f"it has {path.stat().st_size} bytes")


def _picture_stream(container: InputContainer) -> av.VideoStream:
    moving = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not moving:
        raise Unfit("no_video_stream", f"its streams are: {', '.join(s.type for s in container.streams) or 'none'}")
    best = container.streams.best("video")
    stream = best if isinstance(best, av.VideoStream) and best in moving else moving[0]
    if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in (stream.width, stream.height)):
        allowed = f"{SMALLEST_SIDE} to {LARGEST_SIDE}"
        raise Unfit("dimensions", f"{stream.width}×{stream.height}, allowed are {allowed} a side")
    stream.thread_type = "NONE"  # more threads cost more CPU on small pictures; clips run side by side instead
    stream.codec_context.thread_count = 1
    return stream


def _timed(container: InputContainer, stream: av.VideoStream) -> Iterator[tuple[float, float, av.VideoFrame]]:
    """Time and duration of each frame in seconds, strictly rising from 0 whatever the file states."""
    step = float(1 / (stream.guessed_rate or stream.average_rate or Fraction(25)))
    origin, now = None, -step
    for frame in container.decode(stream):
        if origin is None and frame.time is not None:
            origin = frame.time - (now + step)
        stated = frame.time - origin if frame.time is not None and origin is not None else now
        last, now = now, stated if stated > now else now + step
        if now > LONGEST:
            raise Unfit("too_long", f"it lasts more than {LONGEST:.0f} seconds")
        own = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else now - last
        yield now, own, frame


def _target_size(stream: av.VideoStream, longest_side: int) -> tuple[int, int]:
    """Width and height before turning: square pixels, even, within the limit. Constant over a file: encoders ask so."""
    aspect = float(stream.sample_aspect_ratio or 1)
    # Within 2 % it is a rounding in somebody's resizing, and not worth resampling every picture.
    width = stream.width * aspect if abs(aspect - 1) > 0.02 and 0.25 < aspect < 4 else stream.width
    scale = min(1.0, longest_side / max(width, stream.height))
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(stream.height * scale / 2))


def _turn(frame: av.VideoFrame) -> Callable[[np.ndarray], np.ndarray]:
    """How the file wants its pictures turned and mirrored.

    ISO 14496-12: a pixel at (p, q) is shown at x = a·p + c·q, y = b·p + d·q. `frame.rotation` would be shorter, but it
    knows no mirror, and a mirrored signer has changed hands.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist() if matrix is not None else (1, 0, 0, 0, 1)
    axes = (1, 0, 2) if abs(b) > abs(a) else (0, 1, 2)
    across, down = (c, b) if abs(b) > abs(a) else (a, d)
    return lambda rgb: rgb.transpose(axes)[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _diagnosis(path: Path, decoded: int, error: Exception) -> Unfit:
    content = path.read_bytes()
    said = f"{getattr(error, 'strerror', None) or error} ({type(error).__name__} after {decoded} pictures)"
    if decoded == 0 and ENCRYPTED.search(content):
        return Unfit("encrypted", said)
    if decoded == 0 and not CONTAINER.match(content):
        return Unfit("not_video", said)
    return Unfit("broken", said)
