"""A perceptual hash of a clip; near-duplicates have nearly equal ones.

After Coskun, Sankur and Memon (2006), "Spatio-temporal transform based video hashing": the signs of the low frequencies
of a three-dimensional cosine transform. They survive another size, encoder or brightness. Frequencies that are constant
in time are kept apart: before one wall, two signs of one signer differ only in what moves. Motion is hashed for the
whole clip and without its start, its end and both, since copies may be cut a little differently.
"""

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from tqdm import tqdm

from slr.core.errors import UserError
from slr.core.files import write_whole
from slr.data.manifest import Clip
from slr.data.video import read

METHOD = "dct-2"  # a new name computes every fingerprint again
FRAMES = 16  # uniform over the clip or its cut
END = 0.05  # share of the clip that a differently cut copy may lack
CUTS = ((0.0, 1.0), (END, 1.0), (0.0, 1.0 - END), (END, 1.0 - END))  # the whole clip first
SIDE = 32  # pixels; the picture is squeezed into a square, so that another size of it gives the same
STILL = 8  # frequencies per axis of the picture
MOTION = (12, 16, 16)  # frequencies in time, height and width of what moves
STILL_BITS = STILL * STILL - 1  # without the constant, which is the brightness
MOTION_BITS = MOTION[0] * MOTION[1] * MOTION[2]
STILL_WITHIN = 0.25  # shares of the bits that may differ in a copy; docs/audit.md has the measurements
MOTION_WITHIN = 0.22
NO_MOTION = 0.1  # levels of 255, root mean square; below it is the encoder's noise
FEW = 32  # clips that are not worth starting processes for
SAVED_EVERY = 500  # clips
BLOCK = 256  # clips compared with all at once


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The hash of one clip, as booleans: `still` (63,), and `motion` (4, 3072), a row for each of `CUTS`."""

    still: NDArray[np.bool_]
    motion: NDArray[np.bool_]


def fingerprint(path: Path, frames: int, reader: str = "decord") -> Fingerprint:
    """The hash of a prepared clip of `frames` frames; raises UserError if it cannot be read."""
    start, end = np.array(CUTS).T[..., None]  # (4, 1)
    middles = frames * (start + (end - start) * (np.arange(FRAMES) + 0.5) / FRAMES)  # of equal segments: (4, T)
    wanted = np.minimum(middles.astype(np.int64), frames - 1)
    positions, place = np.unique(wanted, return_inverse=True)
    pictures = [Image.fromarray(frame).convert("L") for frame in read(path, positions, reader)]
    small = [picture.resize((SIDE, SIDE), Image.Resampling.BOX) for picture in pictures]
    cuts = np.stack([np.asarray(picture, np.float32) for picture in small])[place.reshape(wanted.shape)]
    still = np.asarray(dctn(cuts[0].mean(axis=0), norm="ortho"))[:STILL, :STILL].ravel()[1:] > 0
    return Fingerprint(still, np.stack([_motion(cut) for cut in cuts]))


def _motion(grey: NDArray[np.float32]) -> NDArray[np.bool_]:
    times, rows, columns = MOTION
    waves = np.asarray(dctn(grey, norm="ortho"))[1 : times + 1, :rows, :columns]  # slow and coarse first
    moving = np.sqrt(np.square(waves).sum() / grey.size) >= NO_MOTION
    return (waves.ravel() > 0) & bool(moving)


def fingerprints(folder: Path, clips: Sequence[Clip], workers: int) -> dict[str, Fingerprint]:
    """Fingerprints of a manifest's clips, by the clip's sha256; kept in `fingerprints.jsonl` beside it.

    A kept fingerprint is not computed again; a killed run loses the last few hundred at most.

    Raises:
        UserError: a clip cannot be read, or the folder cannot be written.
    """
    path = folder / "fingerprints.jsonl"
    known = _load(path)
    jobs = {clip.sha256: (folder / clip.file, clip.frames) for clip in clips if clip.sha256 not in known}
    if jobs:
        results = _compute(list(jobs.values()), workers)
        progress = tqdm(results, "Checking for duplicate clips", len(jobs), unit="clip", disable=len(jobs) <= FEW)
        try:
            for number, (sha256, result) in enumerate(zip(jobs, progress, strict=True), start=1):
                known[sha256] = result
                if number % SAVED_EVERY == 0:
                    _save(path, known, clips)
        finally:  # an interrupted run keeps what it has computed
            _save(path, known, clips)
    return {clip.sha256: known[clip.sha256] for clip in clips}


def find_near_duplicates(folder: Path, clips: Sequence[Clip], workers: int) -> list[tuple[str, str]]:
    """Pairs of near-duplicates among prepared clips; see `fingerprints` and `near_duplicates`."""
    return near_duplicates(clips, fingerprints(folder, clips, workers))


def near_duplicates(clips: Sequence[Clip], prints: dict[str, Fingerprint]) -> list[tuple[str, str]]:
    """Pairs of clips (ids) whose `prints`, by sha256, differ in few bits; of clips of the same bytes only the first."""
    place = {clip.sha256: number for number, clip in reversed(list(enumerate(clips)))}
    # Neighbours look alike, so that a block of them needs few detailed comparisons.
    contents = sorted(place, key=lambda sha256: prints[sha256].still.tolist())
    still = _signs([prints[sha256].still for sha256 in contents])
    whole = _signs([prints[sha256].motion[0] for sha256 in contents])
    pairs: set[tuple[int, ...]] = set()
    for cut in range(len(CUTS)):  # every whole clip against every whole clip, then against every cut
        motion = _signs([prints[sha256].motion[cut] for sha256 in contents])
        for start in range(0, len(contents), BLOCK):
            rows = slice(start, start + BLOCK)
            alike = _agree(still[rows], still, STILL_WITHIN)
            columns = np.flatnonzero(alike.any(axis=0))
            near = alike[:, columns] & _agree(whole[rows], motion[columns], MOTION_WITHIN)
            found = [(contents[start + row], contents[columns[column]]) for row, column in np.argwhere(near)]
            pairs |= {tuple(sorted(place[sha256] for sha256 in pair)) for pair in found}
    return [(clips[first].id, clips[second].id) for first, second in sorted(pairs) if first != second]


def _agree(rows: NDArray[np.float32], columns: NDArray[np.float32], within: float) -> NDArray[np.bool_]:
    """Which of the rows (A, n) and (B, n) of ±1 differ in at most the share `within`: bool (A, B)."""
    return rows @ columns.T >= rows.shape[1] * (1 - 2 * within)


def distance(one: Fingerprint, other: Fingerprint) -> tuple[float, float]:
    """The shares of `still` and of `motion` bits that differ, the latter between one clip whole and any cut."""
    differing = [np.mean(a.motion[0] != cut) for a, b in ((one, other), (other, one)) for cut in b.motion]
    return float(np.mean(one.still != other.still)), float(min(differing))


def _signs(bits: Sequence[NDArray[np.bool_]]) -> NDArray[np.float32]:
    return np.where(np.stack(bits), np.float32(1), np.float32(-1))


def _compute(jobs: Sequence[tuple[Path, int]], workers: int) -> Iterator[Fingerprint]:
    """The fingerprints of (file, frames), in order."""
    if workers <= 1 or len(jobs) <= FEW:
        yield from starmap(fingerprint, jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(fingerprint, *zip(*jobs, strict=True), chunksize=8)


def _load(path: Path) -> dict[str, Fingerprint]:
    """The fingerprints of this method; an unreadable file counts as none."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {
            row["sha256"]: Fingerprint(_bits(row["still"], STILL_BITS), _bits(row["motion"], len(CUTS), MOTION_BITS))
            for row in rows
            if row["method"] == METHOD
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _save(path: Path, known: dict[str, Fingerprint], clips: Sequence[Clip]) -> None:
    """Write the fingerprints of these clips; others are dropped."""
    kept = {clip.sha256: known[clip.sha256] for clip in clips if clip.sha256 in known}
    rows = [
        {"sha256": sha256, "method": METHOD, "still": _hex(one.still), "motion": _hex(one.motion)}
        for sha256, one in kept.items()
    ]
    try:
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
    except OSError as error:
        raise UserError(f"expected to write {path}, found: {error}") from error


def _hex(bits: NDArray[np.bool_]) -> str:
    return np.packbits(bits).tobytes().hex()


def _bits(text: str, *shape: int) -> NDArray[np.bool_]:
    """What `_hex` wrote; ValueError where it is shorter."""
    packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    return np.unpackbits(packed)[: math.prod(shape)].astype(bool).reshape(shape)
