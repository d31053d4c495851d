"""Choose frames of a prepared clip, and read them."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np

from slr.core.errors import UserError

PADDED = "size must exactly match"  # decord2 3.4 cannot copy pictures of widths that it pads, such as 32, 96 and 144


def sample_positions(frames: int, count: int, sampling: str, rng: np.random.Generator | None = None) -> np.ndarray:
    """Choose `count` of a clip's frames, one from each of `count` equal segments of it.

    `uniform` takes the middle of every segment, `segment` a random moment of every segment (Wang et al. 2016, temporal
    segment networks). A clip with fewer frames than that gives some of them more than once.

    Args:
        frames: number of the clip's frames, as decoded.
        count: T.
        sampling: uniform or segment.
        rng: for `segment`.

    Returns:
        int64 (T,), rising, each in [0, frames).

    >>> sample_positions(40, 4, "uniform").tolist()
    [5, 15, 25, 35]
    >>> sample_positions(3, 6, "uniform").tolist()
    [0, 0, 1, 1, 2, 2]
    """
    segments = np.arange(count, dtype=np.int64)
    if sampling == "uniform":
        return (2 * segments + 1) * frames // (2 * count)
    if sampling == "segment" and rng is not None:
        moments = np.floor((segments + rng.random(count)) * frames / count).astype(np.int64)
        return np.minimum(moments, frames - 1)  # rounding may lift the last moment to the end itself
    raise ValueError(f"expected sampling uniform, or segment with an rng, found {sampling!r} with {rng}")


def read(path: Path, positions: np.ndarray, reader: str = "decord") -> np.ndarray:
    """Decode the frames at `positions` of a prepared clip, in one thread, opening the file anew.

    Only for files that preparation wrote: others may have fewer frames than their headers tell decord.

    Args:
        path: the prepared file.
        positions: int (T,), each in [0, frames), in any order, also repeated.
        reader: decord seeks to each frame; pyav decodes from the start, and reads what decord cannot copy.

    Returns:
        uint8 (T, H, W, 3) RGB.

    Raises:
        UserError: the file cannot be read or has no such frame.
    """
    positions = np.asarray(positions)
    if positions.ndim != 1 or not positions.size or positions.dtype.kind not in "iu" or positions.min() < 0:
        raise ValueError(f"expected one or more positions from 0 on, found {positions!r}")
    if not path.is_file():
        raise UserError(f"expected the prepared clip {path}, found no such file; prepare the data again")
    return _read_pyav(path, positions) if reader == "pyav" else _read_decord(path, positions)


def _read_decord(path: Path, positions: np.ndarray) -> np.ndarray:
    decord = load_decord()
    decord.logging.set_level(decord.logging.QUIET)
    try:
        video = decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=1)
        _require_frame(path, int(positions.max()), len(video))
        return video.get_batch(positions.tolist()).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        if PADDED in str(error):
            return _read_pyav(path, positions)
        raise _unreadable(path, str(error).strip().rpartition("\n")[2]) from error


def load_decord() -> ModuleType:
    """The module decord, without CUDA libraries, which decoding on the CPU does not need.

    decord2 3.4 opens every library of the nvidia packages that it finds: 4 s and 0.7 GB in each process, and more
    address space than a guarded process may take. It finds none while the name is blocked.
    """
    if "decord" not in sys.modules:
        hidden = {"nvidia": sys.modules.pop("nvidia")} if "nvidia" in sys.modules else {}
        sys.modules["nvidia"] = cast(Any, None)
        try:
            # Not at the top: it loads an FFmpeg of its own, which sampling positions does not need.
            importlib.import_module("decord")
        finally:
            del sys.modules["nvidia"]
            sys.modules.update(hidden)
    return sys.modules["decord"]


def _read_pyav(path: Path, positions: np.ndarray) -> np.ndarray:
    import av.error

    last, wanted = int(positions.max()), set(positions.tolist())
    try:
        with av.open(str(path.absolute())) as container:
            container.streams.video[0].thread_type = "NONE"
            decoded = zip(range(last + 1), container.decode(video=0), strict=False)
            pictures = [frame.to_ndarray(format="rgb24") if number in wanted else None for number, frame in decoded]
    except (av.error.FFmpegError, IndexError) as error:
        raise _unreadable(path, str(error)) from error
    _require_frame(path, last, len(pictures))
    return np.stack([cast(np.ndarray, pictures[position]) for position in positions.tolist()])


def _require_frame(path: Path, last: int, frames: int) -> None:
    if last >= frames:
        raise UserError(f"expected a frame {last} in {path}, found {frames} frames; prepare the data again")


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(f"expected a prepared clip at {path}, found a file that cannot be read ({why}); prepare it again")
