"""Choose frames of a prepared clip, and read them."""

import importlib
import sys
from collections.abc import Callable
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
        frames: How many the clip has, as decoded.
        count: How many are wanted (T).
        sampling: uniform or segment.
        rng: Where the randomness of `segment` comes from; `uniform` needs none.

    Returns:
        int64 (T,), rising, each in [0, frames).

    Raises:
        ValueError: frames or count below 1, an unknown sampling, or `segment` without rng.

    >>> sample_positions(40, 4, "uniform").tolist()
    [5, 15, 25, 35]
    >>> sample_positions(3, 6, "uniform").tolist()
    [0, 0, 1, 1, 2, 2]
    """
    if frames < 1 or count < 1:
        raise ValueError(f"expected at least one frame to choose and one to choose from, found {count} of {frames}")
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
        path: The prepared file.
        positions: int (T,), each in [0, frames), in any order, also repeated.
        reader: decord seeks to each frame; pyav decodes from the start, and reads what decord cannot copy.

    Returns:
        uint8 (T, H, W, 3) RGB.

    Raises:
        UserError: The file cannot be read or has no such frame.
        ValueError: No positions, or negative ones.
    """
    readers: dict[str, Callable[[Path, np.ndarray], np.ndarray]] = {"decord": _read_decord, "pyav": _read_pyav}
    positions = np.asarray(positions)
    if positions.ndim != 1 or not positions.size or positions.dtype.kind not in "iu" or positions.min() < 0:
        raise ValueError(f"expected one or more positions from 0 on, found {positions!r}")
    if not path.is_file():
        raise UserError(f"expected the prepared clip {path}, found no such file; prepare the data again")
    return readers[reader](path, positions)


def _read_decord(path: Path, positions: np.ndarray) -> np.ndarray:
    decord = load_decord()
    decord.logging.set_level(decord.logging.QUIET)
    try:
        video = decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=1)
        _demand(path, int(positions.max()), len(video))
        return video.get_batch(positions.tolist()).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        if PADDED in str(error):
            return _read_pyav(path, positions)
        raise _unreadable(path, str(error).strip().splitlines()[-1:]) from error


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

    wanted = set(positions.tolist())
    pictures: dict[int, np.ndarray] = {}
    number = -1
    try:
        with av.open(str(path.absolute())) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    pictures[number] = frame.to_ndarray(format="rgb24")
                if len(pictures) == len(wanted):
                    break
    except (av.error.FFmpegError, IndexError) as error:
        raise _unreadable(path, [str(error)]) from error
    _demand(path, int(positions.max()), number + 1)
    return np.stack([pictures[position] for position in positions.tolist()])


def _demand(path: Path, last: int, frames: int) -> None:
    if last >= frames:
        raise UserError(f"expected a frame {last} in {path}, found {frames} frames; prepare the data again")


def _unreadable(path: Path, said: list[str]) -> UserError:
    return UserError(
        f"expected a prepared clip at {path}, found a file that cannot be read ({' '.join(said)}); prepare it again"
    )
