"""Untrusted video files → clips that are decoded in full before they are used."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import Any

import av
import numpy as np

from slr.core.errors import UserError
from slr.core.files import sha256
from slr.data import video
from slr.prepare.decode.crop import Crop
from slr.prepare.decode.image import is_picture, read_pictures
from slr.prepare.decode.sandbox import Guard, Limits, Unfit
from slr.prepare.decode.video import LONGEST, WHOLE, Cut, read_untrusted
from slr.prepare.encode import FPS, write_clip

KILLED = ("timeout", "memory", "crashed")  # reasons for which a child was killed in the middle
LONGEST_SIDE = 640  # pixels; larger pictures are made smaller
BLOCK = 6  # frames read in a row between two jumps: half of what lies between key frames
MOST_BLOCKS = 32  # of a clip
MOST_DIFFERENCE = 1.0  # grey levels, mean over a picture


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a prepared file from a full decode."""

    frames: int
    fps: float
    width: int  # pixels
    height: int  # pixels
    sha256: str


@dataclass(frozen=True, slots=True)
class ClipJob:
    """One untrusted file and the clip that is to be made of it."""

    source: Path
    target: Path
    least_frames: int = 1  # at 25 a second; a shorter clip is rejected as too_short
    cut: Cut = WHOLE
    pictures: bool = False  # whether a still picture, or an animation, may be a clip too
    longest: float = LONGEST  # seconds; a longer recording is rejected as too_long


@dataclass(frozen=True, slots=True)
class Prepared:
    """A clip that was written and verified."""

    facts: Facts
    source_sha256: str
    lacking: int = 0  # pictures of the range that was asked for that lie past the recording's end


def write_checked(path: Path, frames: Iterable[np.ndarray], crf: int = 20) -> Facts:
    """Encode frames as `write_clip` does and decode the file again."""
    written, facts = write_clip(path, frames, crf=crf), checked(path)
    if facts.frames != written:
        raise RuntimeError(f"expected {written} frames in {path}, found {facts.frames} on reading it back")
    return facts


def checked(path: Path) -> Facts:
    """Decode every frame of a file that `write_clip` wrote; raises av.FFmpegError if it does not decode."""
    with av.open(str(path.absolute())) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        frames = sum(1 for _ in container.decode(stream))
        fps = float(stream.average_rate or 0)
        return Facts(frames, fps, stream.width, stream.height, sha256(path))


def prepare_clips(
    jobs: Sequence[ClipJob], workers: int, limits: Limits | None = None
) -> Iterator[tuple[int, Prepared | Unfit]]:
    """Make clips of untrusted files in guarded children; yields (position of the job, its clip or Unfit) when done.

    The children decode, re-encode and verify; a file that hangs, crashes or swells ends its child, and the run goes on.

    Raises:
        UserError: A clip could not be written, for instance on a full disk.
    """
    calls = [
        (str(job.source), str(job.target), job.least_frames, asdict(job.cut), job.pictures, job.longest) for job in jobs
    ]
    with Guard(prepare_clip, workers, limits) as guard:
        for number, outcome in guard.run(calls):
            if isinstance(outcome, Unfit):
                if outcome.reason in KILLED:
                    target = jobs[number].target
                    for part in target.parent.glob(f".{escape(target.name)}.*.part"):
                        part.unlink(missing_ok=True)
                yield number, outcome
            else:
                yield number, Prepared(**(outcome | {"facts": Facts(**outcome["facts"])}))


def prepare_clip(
    source: str, target: str, least_frames: int, cut: dict[str, Any], pictures: bool, longest: float
) -> dict[str, object]:
    """Prepare one file, unguarded, and return the facts of the clip that was written; raises Unfit."""
    path = Path(target)
    part = Cut(cut["first"], cut["last"], cut["crop"] and Crop(**cut["crop"]))
    if pictures and is_picture(Path(source)):
        frames = read_pictures(Path(source), FPS, LONGEST_SIDE)
    else:
        frames = read_untrusted(Path(source), FPS, LONGEST_SIDE, part, longest)
    facts = write_checked(path, frames)
    if facts.frames < least_frames:
        path.unlink()
        raise Unfit(
            "too_short", f"it has {facts.frames} pictures at {FPS} a second, at least {least_frames} are wanted"
        )
    return {"facts": asdict(facts), "source_sha256": sha256(Path(source)), "lacking": part.lacking(facts.frames)}


def verify_clips(clips: Sequence[tuple[Path, Mapping[str, Any]]], workers: int) -> Iterator[tuple[int, Unfit | None]]:
    """Read written clips back in guarded children; yields (position of the clip, None or Unfit) when done.

    Each clip comes with its `Facts` as a mapping.
    """
    with Guard(verify_clip, workers) as guard:
        yield from guard.run([(str(path), {**facts}) for path, facts in clips])


def verify_clip(path: str, facts: dict[str, Any]) -> None:
    """Compare decord, the training's reader, at random access with PyAV's decode from the start; raises Unfit.

    At most 192 frames are read, in blocks of six in random order: every block begins with a jump, mostly to a frame
    that is no key frame.
    """
    video.load_decord()  # a library that does not load says nothing about the clip
    try:
        if sha256(Path(path)) != facts["sha256"]:
            raise Unfit("unverified", "it is not the file that was written")
        starts = np.random.default_rng(0).permutation(np.arange(0, facts["frames"], BLOCK))[:MOST_BLOCKS]
        positions = np.concatenate([np.arange(start, min(start + BLOCK, facts["frames"])) for start in starts])
        expected, read = (video.read(Path(path), positions, reader) for reader in ("pyav", "decord"))
    except (OSError, UserError) as error:
        raise Unfit("unverified", f"it does not read back: {' '.join(str(error).split())}") from None
    if expected.shape != read.shape:
        raise Unfit("unverified", "decord reads pictures of another size than PyAV")
    apart = [float(np.abs(a.astype(np.int16) - b).mean()) for a, b in zip(expected, read, strict=True)]
    worst = int(np.argmax(apart))
    if apart[worst] > MOST_DIFFERENCE:
        what = f"decord reads frame {positions[worst]} {apart[worst]:.1f} grey levels away from PyAV"
        raise Unfit("unverified", what)
