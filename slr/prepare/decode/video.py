"""An untrusted video file → upright RGB pictures at a constant rate, or the reason why not.

Hostile and broken files attack decoders: call this in a guarded child only.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.stream import Disposition

from slr.prepare.decode.crop import Crop, View
from slr.prepare.decode.sandbox import Unfit

SMALLEST_SIDE, LARGEST_SIDE = 16, 4096  # pixels, as the header states and before anything is decoded
LONGEST = 600.0  # seconds; a time stamp that leaps ahead would otherwise be filled with copies for hours
# No playlists, pictures or pages, and nothing that a file names is fetched.
OPENING = {"format_whitelist": "mov,matroska,webm,avi,flv,swf,mpegts,mpeg,asf", "protocol_whitelist": "file"}
STATES_TIME = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}  # formats that store when each picture is shown
SEEK = 4.0  # seconds; what begins later is sought rather than decoded from the start
MOST_LACKING = 0.25  # share of a range that may lie past the recording's end
CONTAINER = re.compile(
    rb"....(ftyp|moov|mdat|free|wide|skip)|\x1aE\xdf\xa3|RIFF|FLV|[FCZ]WS|\x30\x26\xb2\x75", re.DOTALL
)
# What is saved under a video's name when there is none: reason code, and how such files begin.
NO_VIDEO = {
    "page": re.compile(rb"\s*<(!doctype|html|head|body|\?xml|!--|script|meta|title|p>|h1)", re.IGNORECASE),
    "playlist": re.compile(rb"\s*(#EXTM3U|ffconcat|\[playlist\])", re.IGNORECASE),
    "picture": re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8|BM.{4}\0\0\0\0|RIFF.{4}WEBP|II\*\0|MM\0\*", re.DOTALL),
}
# An encrypted MP4 sample entry with its scheme, or Matroska's ContentEncodings > ContentEncoding > ContentEncryption.
ENCRYPTED = re.compile(rb"encv.{1,4096}?sinf|\x6d\x80.{1,8}?\x62\x40.{1,64}?\x50\x35", re.DOTALL)

MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")

Picture = TypeVar("Picture")


@dataclass(frozen=True, slots=True)
class Cut:
    """Which part of a recording is the clip."""

    first: int  # the first picture, from 1 on, counted at the rate that is asked for
    last: int  # the last one, or -1 for the recording's end
    crop: Crop | None = None

    def lacking(self, count: int) -> int:
        """How many pictures of the range a recording lacks that gave so many.

        >>> Cut(10, 19).lacking(8), Cut(10, -1).lacking(8)
        (2, 0)
        """
        return 0 if self.last == -1 else self.last - self.first + 1 - count


WHOLE = Cut(1, -1)


def read_untrusted(
    path: Path, fps: int, longest_side: int, cut: Cut = WHOLE, longest: float = LONGEST
) -> Iterator[np.ndarray]:
    """Decode a file once, in one thread, as uint8 (H, W, 3) RGB pictures, `fps` of them for each second.

    Pictures are turned and mirrored as the file asks, their pixels made square, and both sides made even and at most
    `longest_side`. Time counts from the first picture.

    Raises:
        Unfit: missing, not_a_file, too_small, page, playlist, picture, not_video, no_video_stream, dimensions,
            encrypted, too_short, too_long, range_past_end, truncated or broken; also in the middle, at the picture
            that cannot be had.
    """
    _check_beginning(path)
    count, wanted = 0, None if cut.last == -1 else cut.last - cut.first + 1
    try:
        # Some good files carry metadata that is not UTF-8.
        with av.open(str(path.absolute()), metadata_errors="replace", options=OPENING) as container:
            stream = _picture_stream(container)
            view, timed = None, _timed(container, stream, (cut.first - 1) / fps, longest)
            for frame in islice(resample(timed, fps, cut.first - 1), wanted):
                # Once: reading a frame's side data ties it into a reference cycle, and memory fills with frames.
                view = view or View(frame, stream, longest_side, cut.crop)
                count += 1
                yield view(frame)
    except (Unfit, MemoryError):
        raise
    except Exception as error:  # whatever a decoder raises on garbage is about this file
        raise _diagnosis(path, count, error) from error
    if (cut.first > 1 and count == 0) or cut.lacking(count) > MOST_LACKING * (wanted or 0):
        raise Unfit("range_past_end", f"pictures {cut.first} to {cut.last} were asked for, {count} of them are there")
    if count == 0:
        raise Unfit("too_short", "not one picture could be decoded")


def resample(frames: Iterable[tuple[float, float, Picture]], fps: int, first: int = 0) -> Iterator[Picture]:
    """Bring (time, duration, picture) in seconds, from time 0 on, to a constant rate without changing their duration.

    Picture n is the one nearest to n/fps, but one that lies more than half a step ahead does not end the picture that
    is being shown, however long that one stays. Pictures before number `first` are left out; frames may then begin at
    any moment up to first/fps.

    >>> "".join(resample([(0, 0.1, "a"), (0.1, 0.4, "b"), (0.5, 0.1, "c")], fps=10))
    'abbbbc'
    """
    number = first  # of the picture that is due, at number / fps
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


def beginning(path: Path) -> bytes:
    """The first bytes of a file, by which its format is known."""
    with path.open("rb") as file:
        return file.read(512)


def _check_beginning(path: Path) -> None:
    if not path.exists():
        raise Unfit("missing", "there is no such file")
    if not path.is_file():  # opening a pipe would wait for ever
        raise Unfit("not_a_file", "it is a folder, a pipe or a device")
    start = beginning(path)
    for reason, pattern in NO_VIDEO.items():
        if pattern.match(start):
            raise Unfit(reason, f"it is a {reason} of {path.stat().st_size} bytes, not a video")
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


def _timed(
    container: InputContainer, stream: av.VideoStream, since: float, longest: float
) -> Iterator[tuple[float, float, av.VideoFrame]]:
    """Time and duration of each frame in seconds, strictly rising from 0 whatever the file states.

    Frames that are over by `since` may be left out.
    """
    step = float(1 / (stream.guessed_rate or stream.average_rate or Fraction(25)))
    frames, origin = _sought(container, stream, since)
    now = -step
    for frame in frames:
        if origin is None and frame.time is not None:
            origin = frame.time - (now + step)
        stated = frame.time - origin if frame.time is not None and origin is not None else now
        last, now = now, stated if stated > now else now + step
        if now > since + longest:
            raise Unfit("too_long", f"it lasts more than {longest:.0f} seconds")
        own = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else now - last
        yield now, own, frame


def _sought(
    container: InputContainer, stream: av.VideoStream, since: float
) -> tuple[Iterator[av.VideoFrame], float | None]:
    """Frames from a key frame a second before `since` and the file's time of 0, or all frames and None."""
    if since >= SEEK and container.format.name in STATES_TIME:
        first = next(container.decode(stream), None)
        if first is not None and first.pts is not None and first.time is not None and stream.time_base is not None:
            container.seek(first.pts + int((since - 1) / stream.time_base), stream=stream)
            frames = container.decode(stream)
            landed = next(frames, None)
            if landed is not None and landed.time is not None and landed.time - first.time <= since:
                return chain([landed], frames), first.time
            container.seek(first.pts, stream=stream)  # nowhere useful: as if nothing had been sought
        else:
            container.seek(0)
    return container.decode(stream), None


def _diagnosis(path: Path, decoded: int, error: Exception) -> Unfit:
    content = path.read_bytes()
    detail = f"{getattr(error, 'strerror', None) or error} ({type(error).__name__} after {decoded} pictures)"
    if decoded == 0 and ENCRYPTED.search(content):
        return Unfit("encrypted", detail)
    if decoded == 0 and not CONTAINER.match(content):
        return Unfit("not_video", f"this is not a video file: {detail}")
    if _states_more(content):
        return Unfit("truncated", f"it ends before it says it does; {detail}")
    return Unfit("broken", detail)


def _states_more(content: bytes) -> bool:
    """Whether an MP4 or RIFF file says that it is longer than it is."""
    if content.startswith(b"RIFF"):
        return int.from_bytes(content[4:8], "little") + 8 > len(content)
    place = 0
    while content[place + 4 : place + 8] in MP4_BOXES:
        size = int.from_bytes(content[place : place + 4])
        size = int.from_bytes(content[place + 8 : place + 16]) if size == 1 else size
        if size < 8:  # 0: to the end of the file; less makes no sense
            return False
        place += size
    return place > len(content)
