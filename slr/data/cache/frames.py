"""The frame cache: frames of prepared clips after resizing, decoded once and shared by all runs.

A frame is kept under its clip's content and its position, so that a run with other `frames`, another sampling or
another split finds what is there already. What else a frame's bytes depend on is in the name of the cache's folder.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from slr.core.errors import UserError
from slr.core.files import write_whole
from slr.core.units import format_bytes
from slr.data.cache.store import LAYOUT, Pack, writing
from slr.data.collate import Inputs
from slr.data.manifest import Clip

QUALITY = 95  # of JPEG, with colours at full size: an error of 1.2 levels in an eighth of the bytes
MEASURED = 32  # clips that tell how large the others will be
SPARE = 1.05  # room that must be there, as a multiple of the estimate
FEW = 8  # clips that are not worth starting processes for

Frames = Callable[[Clip, NDArray[np.int64]], Tensor]  # a clip and positions -> those frames, uint8 (T, 3, h, w)
Wanted = tuple[Clip, NDArray[np.int64]]  # a clip and positions of frames in it
Made = tuple[Clip, NDArray[np.int64], list[bytes]]  # these frames as they are kept


class FrameCache:
    """Frames that were decoded and resized before.

    Args:
        root: the folder of all caches; a frame cache has one of its own in it.
        inputs: whose resizing the model wants.
        format: jpeg, or raw, which is exact and some eight times as large.
    """

    def __init__(self, root: Path, inputs: Inputs, format: str) -> None:
        if format not in ("jpeg", "raw"):
            raise ValueError(f"expected format jpeg or raw, found {format!r}")
        # What resizing does to a picture, instead of a version that somebody must remember to change.
        resized = inputs.resize(np.random.default_rng(0).integers(0, 256, (1, 37, 53, 3), np.uint8))
        self.size = tuple(resized.shape[1:])  # (3, h, w)
        self.format = format
        self.recipe = {"layout": LAYOUT, "reader": "decord", "resizing": _sha256(resized.numpy().tobytes())}
        self.recipe |= {"size": self.size, "format": format, "quality": QUALITY if format == "jpeg" else None}
        self.pack = Pack(root / f"frames-{format}-{_sha256(json.dumps(self.recipe).encode())[:12]}")

    def __call__(self, clip: Clip, positions: NDArray[np.int64]) -> Tensor:
        """The frames at some positions of a clip: uint8 (T, 3, h, w).

        Raises:
            UserError: one of them is not there, or is damaged.
        """
        try:
            records = self.pack.read(_keys(clip, positions))
            frames = np.stack([self.decode(record) for record in records])
        except (KeyError, ValueError, OSError) as error:
            raise UserError(
                f"expected frames {positions.tolist()} of clip {clip.id!r} in {self.pack.folder}, found {error}; "
                "delete that folder, it will be made again"
            ) from error
        return torch.from_numpy(frames).contiguous()

    def encode(self, frame: Tensor) -> bytes:
        """One frame, uint8 (3, h, w), as it is kept."""
        if self.format == "raw":
            return frame.numpy().tobytes()
        file = io.BytesIO()
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=QUALITY, subsampling=0)
        return file.getvalue()

    def decode(self, record: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame of a record: uint8 (3, h, w).

        Raises:
            ValueError, OSError: the record is no frame of this size.
        """
        if self.format == "raw":
            return record.reshape(self.size)
        picture = Image.open(io.BytesIO(record.data), formats=["JPEG"])
        frame = np.asarray(picture).transpose(2, 0, 1)
        if frame.shape != self.size:
            raise ValueError(f"a picture of {frame.shape}")
        return frame

    def missing(self, wanted: Iterable[Wanted]) -> list[Wanted]:
        """What is not kept yet of some frames: each clip's content once, each of its positions once, rising."""
        clips: dict[str, Clip] = {}
        positions: dict[str, set[int]] = {}
        for clip, chosen in wanted:
            clips.setdefault(clip.sha256, clip)
            positions.setdefault(clip.sha256, set()).update(chosen.tolist())
        every = [(clips[sha256], np.array(sorted(chosen))) for sha256, chosen in positions.items()]
        left = [(clip, chosen[~self.pack.has(_keys(clip, chosen))]) for clip, chosen in every]
        return [(clip, chosen) for clip, chosen in left if len(chosen)]


def fill(cache: FrameCache, frames_from: Frames, wanted: Sequence[Wanted], workers: int) -> None:
    """Put frames into a cache that are not there yet, and say before how large they will be.

    What a killed process has added is kept. Of two processes at once, one fills and the other waits, then finds
    everything there.

    Args:
        cache: what is filled.
        frames_from: what decodes and resizes.
        wanted: all that a run will read.
        workers: processes that decode side by side, with one thread each.

    Raises:
        UserError: a clip cannot be read, or there is too little room.
    """
    if not cache.missing(wanted):
        return
    with writing(cache.pack.folder) as writer:
        cache.pack.reopen()
        left = cache.missing(wanted)  # now that nobody else adds to it
        if not left:
            return
        write_whole(cache.pack.folder / "recipe.json", json.dumps(cache.recipe, indent=1) + "\n")
        made = _made(cache, frames_from, left, workers)
        first = list(islice(made, 1 if cache.format == "raw" else MEASURED))
        _announce(cache.pack.folder, left, estimate(left, first))
        bar = tqdm(chain(first, made), total=len(left), desc="Keeping frames", unit="clip", dynamic_ncols=True)
        for clip, positions, records in bar:
            for key, record in zip(_keys(clip, positions), records, strict=True):
                writer.append(key, record)
    cache.pack.reopen()


def _made(cache: FrameCache, frames_from: Frames, left: Sequence[Wanted], workers: int) -> Iterator[Made]:
    """Clips with their frames as they are kept, in an order whose beginning tells about the rest."""
    # Neighbours in a manifest are takes of one sign or of one signer.
    order = np.random.default_rng(0).permutation(len(left))
    jobs = [left[number] for number in order.tolist()]
    loader = DataLoader(
        _Jobs(cache, frames_from, jobs),
        batch_size=None,
        num_workers=workers if len(jobs) > FEW else 0,
        generator=torch.Generator(),  # without its own, it would take from torch's, and the adapter's dropout differ
    )
    for (clip, positions), (lengths, content) in zip(jobs, loader, strict=True):
        ends = np.cumsum(lengths.numpy())
        yield clip, positions, [part.tobytes() for part in np.split(content.numpy(), ends[:-1])]


@dataclass(frozen=True)
class _Jobs(Dataset[tuple[Tensor, Tensor]]):
    """Lengths of records and the records in a row: tensors, which reach the parent through shared memory.

    Bytes would go through a pipe, at which a worker whose parent was killed would wait for ever, and hold the lock.
    """

    cache: FrameCache
    frames_from: Frames
    jobs: Sequence[Wanted]

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        records = [self.cache.encode(frame) for frame in self.frames_from(*self.jobs[number])]
        return torch.tensor([len(record) for record in records]), torch.frombuffer(
            bytearray(b"".join(records)), dtype=torch.uint8
        )


def estimate(left: Sequence[Wanted], first: Sequence[Made]) -> float:
    """Bytes that all frames of `left` will take, if they are like those that were made first."""
    sizes = [len(record) for _, _, records in first for record in records]
    return sum(sizes) / len(sizes) * sum(len(positions) for _, positions in left)


def _announce(folder: Path, left: Sequence[Wanted], size: float) -> None:
    """Say what filling will take, or refuse it."""
    frames = sum(len(positions) for _, positions in left)
    print(f"frame cache: {frames:,} frames of {len(left):,} clips to add, about {format_bytes(size)}, in {folder}")
    free = shutil.disk_usage(folder).free
    if free < SPARE * size:
        raise UserError(
            f"expected {format_bytes(SPARE * size)} of room in {folder}, found {format_bytes(free)}; make room, or "
            "choose cache.format=jpeg, fewer cache.views, cache=none or another data=FOLDER"
        )


def _keys(clip: Clip, positions: NDArray[np.int64]) -> list[str]:
    return [f"{clip.sha256} {position}" for position in positions.tolist()]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
