"""A perceptual hash of a clip: what stands where, and what moves when. Copies of one recording have nearly equal ones.

After Coskun, Sankur and Memon (2006), "Spatio-temporal transform based video hashing": the signs of the low frequencies
of a three-dimensional cosine transform. They survive another size, another encoder, another brightness. Those that are
constant in time are kept apart: before one wall, two signs of one signer differ in what moves alone.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from tqdm import tqdm

from slr.data.manifest import Clip
from slr.data.video import read, sample_positions
from slr.errors import UserError
from slr.files import write_whole

METHOD = "dct-1"  # a new name computes every fingerprint anew
FRAMES = 16  # uniform over the clip
SIDE = 32  # pixels; the picture is squeezed into a square, so that another size of it gives the same
LOW = 8  # frequencies per axis
STILL_BITS = LOW * LOW - 1  # without the constant, which is the brightness
MOTION_BITS = LOW * LOW * LOW
STILL_WITHIN = 0.25  # shares of the bits that may differ in a copy; docs/audit.md has the measurements
MOTION_WITHIN = 0.17
NO_MOTION = 0.1  # levels of 255, root mean square: below it the signs would be those of the encoder's noise
FEW = 32  # clips that are not worth starting processes for
SAVED_EVERY = 500  # clips


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The hash of one clip, as booleans: `still` (63,), `motion` (512,)."""

    still: NDArray[np.bool_]
    motion: NDArray[np.bool_]


def fingerprint(frames: NDArray[np.uint8]) -> Fingerprint:
    """The hash of a clip's frames: uint8 (T, H, W, 3) with T = 16, uniform over the clip."""
    small = [Image.fromarray(frame).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX) for frame in frames]
    grey = np.stack([np.asarray(picture, dtype=np.float32) for picture in small])
    waves = np.asarray(dctn(grey, norm="ortho"))[: LOW + 1, :LOW, :LOW]  # (time, height, width), slow and coarse first
    moving = bool(np.sqrt(np.square(waves[1:]).sum() / grey.size) >= NO_MOTION)
    return Fingerprint(waves[0].ravel()[1:] > 0, (waves[1:].ravel() > 0) & moving)


def fingerprints(folder: Path, clips: Sequence[Clip], workers: int) -> dict[str, Fingerprint]:
    """Fingerprints of prepared clips, by the clip's sha256; kept in `fingerprints.jsonl` beside the manifest.

    What is kept there is not computed again; a killed run loses the last few hundred at most.

    Args:
        folder: of the manifest.
        clips: from it.
        workers: processes that decode side by side.

    Raises:
        UserError: a clip cannot be read, or the folder cannot be written.
    """
    path = folder / "fingerprints.jsonl"
    known = _load(path)
    files = {clip.sha256: clip for clip in clips if clip.sha256 not in known}
    if files:
        fresh = _compute(folder, list(files.values()), workers)
        progress = tqdm(fresh, total=len(files), desc="Looking for copies", unit="clip", disable=len(files) <= FEW)
        try:
            for number, (sha256, found) in enumerate(progress, start=1):
                known[sha256] = found
                if number % SAVED_EVERY == 0:
                    _save(path, known, clips)
        finally:  # an interrupted run keeps what it has computed
            _save(path, known, clips)
    return {clip.sha256: known[clip.sha256] for clip in clips}


def look_for_copies(folder: Path, clips: Sequence[Clip], workers: int) -> list[tuple[str, str]]:
    """Pairs of near-duplicates among prepared clips; see `fingerprints` and `near_duplicates`."""
    return near_duplicates(clips, fingerprints(folder, clips, workers))


def near_duplicates(clips: Sequence[Clip], prints: dict[str, Fingerprint]) -> list[tuple[str, str]]:
    """Pairs of clips (ids) whose fingerprints differ in few bits, clips of the very same bytes left out.

    Args:
        clips: any.
        prints: fingerprints by sha256.
    """
    first_with: dict[str, str] = {}  # one clip for each content
    for clip in clips:
        first_with.setdefault(clip.sha256, clip.id)
    names = list(first_with.values())
    still = _signs([prints[sha256].still for sha256 in first_with])
    motion = _signs([prints[sha256].motion for sha256 in first_with])
    pairs = []
    for start in range(0, len(names), 1024):
        rows = slice(start, start + 1024)
        # Of two rows of ±1 the product is the bits that agree less those that differ.
        near = motion[rows] @ motion.T >= MOTION_BITS * (1 - 2 * MOTION_WITHIN)
        near &= still[rows] @ still.T >= STILL_BITS * (1 - 2 * STILL_WITHIN)
        for row, column in np.argwhere(near).tolist():
            if start + row < column:
                pairs.append((names[start + row], names[column]))
    return pairs


def distance(one: Fingerprint, other: Fingerprint) -> tuple[float, float]:
    """The shares of bits that differ: of what stands, and of what moves."""
    return float(np.mean(one.still != other.still)), float(np.mean(one.motion != other.motion))


def _signs(bits: Sequence[NDArray[np.bool_]]) -> NDArray[np.float32]:
    return np.where(np.stack(bits), np.float32(1), np.float32(-1))


def _compute(folder: Path, clips: Sequence[Clip], workers: int) -> Iterator[tuple[str, Fingerprint]]:
    jobs = [(clip.sha256, folder / clip.file, clip.frames) for clip in clips]
    if workers <= 1 or len(jobs) <= FEW:
        yield from map(_of_file, jobs)
        return
    with get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(_of_file, jobs, chunksize=8)


def _of_file(job: tuple[str, Path, int]) -> tuple[str, Fingerprint]:
    sha256, path, frames = job
    return sha256, fingerprint(read(path, sample_positions(frames, FRAMES, "uniform")))


def _load(path: Path) -> dict[str, Fingerprint]:
    """What was kept by this method; what cannot be read is computed again."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {
            row["sha256"]: Fingerprint(_bits(row["still"], STILL_BITS), _bits(row["motion"], MOTION_BITS))
            for row in rows
            if row["method"] == METHOD
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _save(path: Path, known: dict[str, Fingerprint], clips: Sequence[Clip]) -> None:
    wanted = dict.fromkeys(clip.sha256 for clip in clips if clip.sha256 in known)
    rows = [
        {"sha256": sha256, "method": METHOD, "still": _hex(known[sha256].still), "motion": _hex(known[sha256].motion)}
        for sha256 in wanted
    ]
    try:
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
    except OSError as error:
        raise UserError(f"expected to write {path}, found: {error}") from error


def _hex(bits: NDArray[np.bool_]) -> str:
    return np.packbits(bits).tobytes().hex()


def _bits(text: str, count: int) -> NDArray[np.bool_]:
    packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    if len(packed) != -(-count // 8):
        raise ValueError(f"expected {count} bits, found {8 * len(packed)}")
    return np.unpackbits(packed, count=count).astype(bool)
