"""How far copies and different clips are apart in fingerprints: `python benchmarks/copies.py data=data/wlasl`.

Every clip is altered as a second copy of it might be and hashed again. Prints the distances of motion bits (least, 1 %,
median, 99 %, most) of different recordings and of copies, and the share of copies that are found.
"""

from options import CopiesArgs, read

if __name__ == "__main__":
    ARGS = read(CopiesArgs)  # before torch is imported

import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from slr.core.errors import explained
from slr.data.duplicates.near_duplicates import (
    MOTION_WITHIN,
    STILL_WITHIN,
    Fingerprint,
    distance,
    fingerprint,
    fingerprints,
)
from slr.data.manifest import Clip, read_manifest
from slr.data.video import read
from slr.prepare.encode import write_clip

Frames = Sequence[np.ndarray]


def main(args: CopiesArgs) -> None:
    """Measure and print."""
    folder = args.data
    clips = read_manifest(folder / "manifest.jsonl")
    prints = fingerprints(folder, clips, workers=1)
    print(f"{'':34}{'pairs':>8}  {'least':>6}{'1 %':>7}{'50 %':>7}{'99 %':>7}{'most':>7}   taken for copies")
    for name, pairs in different(clips).items():
        if pairs:
            show(name, [distance(prints[one.sha256], prints[other.sha256]) for one, other in pairs])
    by_alteration: dict[str, list[tuple[float, float]]] = {}
    for clip in tqdm(clips[:: args.every], desc="Copying", unit="clip"):
        frames = list(read(folder / clip.file, np.arange(clip.frames), reader="pyav"))
        for name, (alter, crf) in ALTERATIONS.items():
            by_alteration.setdefault(name, []).append(distance(prints[clip.sha256], hashed(alter(frames), crf)))
    for name, distances in by_alteration.items():
        show(f"copy: {name}", distances)


def different(clips: Sequence[Clip]) -> dict[str, list[tuple[Clip, Clip]]]:
    """Pairs of clips that are not of one file, by what else they share."""
    kinds = {(True, False): "one signer, two glosses", (True, True): "one signer, one gloss"}
    kinds |= {(False, True): "two signers, one gloss", (False, False): "two signers, two glosses"}
    pairs: dict[str, list[tuple[Clip, Clip]]] = {name: [] for name in kinds.values()}
    for one, other in combinations(clips, 2):
        if one.source_sha256 != other.source_sha256:
            pairs[kinds[one.signer == other.signer, one.gloss == other.gloss]].append((one, other))
    return pairs


def hashed(frames: Frames, crf: int) -> Fingerprint:
    """The fingerprint of frames that were encoded once more."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copy.mp4"
        count = write_clip(path, frames, crf=crf)
        return fingerprint(path, count, reader="pyav")


def half(frames: Frames) -> Frames:
    """Half the width and height."""
    size = (frames[0].shape[1] // 4 * 2, frames[0].shape[0] // 4 * 2)
    return [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)) for frame in frames]


def cropped(frames: Frames) -> Frames:
    """4 % less at each edge."""
    top, left = frames[0].shape[0] // 25, frames[0].shape[1] // 25
    return [np.ascontiguousarray(frame[top:-top, left:-left]) for frame in frames]


def brighter(frames: Frames) -> Frames:
    """A fifth more contrast and ten levels more light."""
    return [np.clip(frame * 1.2 + 10, 0, 255).astype(np.uint8) for frame in frames]


ALTERATIONS: dict[str, tuple[Callable[[Frames], Frames], int]] = {
    "encoded again, crf 30": (lambda frames: frames, 30),
    "half the size, crf 23": (half, 23),
    "half the size, crf 35": (half, 35),
    "brighter": (brighter, 23),
    "cropped by 4 %": (cropped, 23),
    "1 frame less at each end": (lambda frames: frames[1:-1], 23),
    "3 frames less at each end": (lambda frames: frames[3:-3], 23),
    "4 frames less at the start": (lambda frames: frames[4:], 23),
}


def show(name: str, distances: Iterable[tuple[float, float]]) -> None:
    """One row."""
    values = np.array(list(distances))
    taken = np.mean((values[:, 0] <= STILL_WITHIN) & (values[:, 1] <= MOTION_WITHIN))
    cells = "".join(f"{value:7.3f}" for value in np.percentile(values[:, 1], [0, 1, 50, 99, 100]))
    print(f"{name:<34}{len(values):>8,} {cells}   {100 * taken:.1f} %", flush=True)


if __name__ == "__main__":
    explained(lambda: main(ARGS))
