"""The frame cache: resized frames of prepared clips, decoded once and shared by all runs.

A frame is stored under its clip's content and its position, so that a run with other `frames`, another sampling or
another split finds it. The name of the cache's folder holds everything else that a frame's bytes depend on.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from slr.core.errors import UserError
from slr.core.units import format_bytes
from slr.data.cache.store import LAYOUT, Pack, require_room, writing
from slr.data.collate import Inputs
from slr.data.manifest import Clip

QUALITY = 95  # of JPEG, with colours at full size: an error of 1.2 levels in an eighth of the bytes
MEASURED = 32  # clips from which the size of the others is estimated
SPARE = 1.05  # disk space that must be free, as a multiple of the estimate
FEW = 8  # clips that are not worth starting processes for

Frames = Callable[[Clip, NDArray[np.int64]], Tensor]  # a clip and positions -> those frames, uint8 (T, 3, h, w)
Wanted = tuple[Clip, NDArray[np.int64]]  # a clip and positions of frames in it


class FrameCache:
    """Frames that were decoded and resized as `inputs` does, in a folder of their own in `root`.

    Args:
        format: jpeg, or raw, which is exact and some eight times as large.
    """

    def __init__(self, root: Path, inputs: Inputs, format: str) -> None:
        # A resized picture stands for the code that resizes: no version number that somebody must remember to change.
        resized = inputs.resize(np.random.default_rng(0).integers(0, 256, (1, 37, 53, 3), np.uint8))
        self.size = tuple(resized.shape[1:])  # (3, h, w)
        self.format = format
        resizing = hashlib.sha256(resized.numpy().tobytes()).hexdigest()
        recipe = {"layout": LAYOUT, "reader": "decord", "resizing": resizing}
        recipe |= {"size": self.size, "format": format, "quality": QUALITY if format == "jpeg" else None}
        self.pack = Pack(root / f"frames-{format}-{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]}")

    def __call__(self, clip: Clip, positions: NDArray[np.int64]) -> Tensor:
        """The frames at some positions of a clip: uint8 (T, 3, h, w); UserError if one is missing or damaged."""
        records = self.pack.read(_keys(clip, positions))
        try:
            frames = np.stack([self.decode(record) for record in records])
        except (ValueError, OSError) as error:
            raise UserError(
                f"expected frames {positions.tolist()} of clip {clip.id!r} in {self.pack.folder}, found {error}; "
                "delete that folder, it will be made again"
            ) from error
        return torch.from_numpy(frames).contiguous()

    def encode(self, frame: Tensor) -> bytes:
        """One frame, uint8 (3, h, w), as it is stored."""
        if self.format == "raw":
            return frame.numpy().tobytes()
        file = io.BytesIO()
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=QUALITY, subsampling=0)
        return file.getvalue()

    def decode(self, record: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame of a record: uint8 (3, h, w); ValueError or OSError if it is none of this size."""
        if self.format == "raw":
            return record.reshape(self.size)
        frame = np.asarray(Image.open(io.BytesIO(record.data), formats=["JPEG"])).transpose(2, 0, 1)
        if frame.shape != self.size:
            raise ValueError(f"a picture of {frame.shape}")
        return frame

    def missing(self, wanted: Iterable[Wanted]) -> list[Wanted]:
        """The frames that are not stored yet: each clip's content once, each of its positions once, rising."""
        by_content: dict[str, tuple[Clip, set[int]]] = {}
        for clip, positions in wanted:
            by_content.setdefault(clip.sha256, (clip, set()))[1].update(positions.tolist())
        every = [(clip, np.array(sorted(positions))) for clip, positions in by_content.values()]
        left = [(clip, positions[~self.pack.has(_keys(clip, positions))]) for clip, positions in every]
        return [(clip, positions) for clip, positions in left if len(positions)]


def fill(cache: FrameCache, frames_from: Frames, wanted: Sequence[Wanted], workers: int) -> None:
    """Add the frames that a cache lacks, and print first how large they will be.

    A killed process leaves whole frames. Of two processes at once, one fills, the other waits and then finds them all.
    `frames_from` decodes and resizes, in `workers` processes of one thread each.

    Raises:
        UserError: a clip cannot be read, or the disk has no room.
    """
    folder = cache.pack.folder
    if not cache.missing(wanted):
        return
    with writing(folder) as writer:
        cache.pack.reopen()
        left = cache.missing(wanted)  # now that no other process adds to it
        if not left:
            return
        # In random order, since neighbours in a manifest are alike and the first give the size.
        left = [left[number] for number in np.random.default_rng(0).permutation(len(left)).tolist()]
        made = _records(cache, frames_from, left, workers)
        first = list(islice(made, 1 if cache.format == "raw" else MEASURED))
        size, count = estimate(left, first), sum(len(positions) for _, positions in left)
        print(f"frame cache: {count:,} frames of {len(left):,} clips to add, about {format_bytes(size)}, in {folder}")
        remedy = "choose cache.format=jpeg, fewer cache.views, cache=none or another data=FOLDER"
        require_room(folder, SPARE * size, remedy)
        bar = tqdm(chain(first, made), "Storing frames", len(left), unit="clip", dynamic_ncols=True)
        for job, records in zip(left, bar, strict=True):
            for key, record in zip(_keys(*job), records, strict=True):
                writer.append(key, record)
    cache.pack.reopen()


def _records(cache: FrameCache, frames_from: Frames, jobs: list[Wanted], workers: int) -> Iterator[list[bytes]]:
    """The records of each job's frames."""
    loader = DataLoader(
        cast(Any, jobs),
        batch_size=None,
        num_workers=workers if len(jobs) > FEW else 0,
        collate_fn=cast(Any, partial(_encoded, cache, frames_from)),
        generator=torch.Generator(),  # without its own, it would draw from torch's, and the adapter's dropout differ
    )
    for lengths, content in loader:
        yield [part.numpy().tobytes() for part in content.split(lengths.tolist())]


def _encoded(cache: FrameCache, frames_from: Frames, job: Wanted) -> tuple[Tensor, Tensor]:
    """Lengths of records and the records in a row: tensors, which reach the parent through shared memory.

    Bytes would go through a pipe, where a worker whose parent was killed would wait for ever and hold the lock.
    """
    records = [cache.encode(frame) for frame in frames_from(*job)]
    content = torch.frombuffer(bytearray(b"".join(records)), dtype=torch.uint8)
    return torch.tensor([len(record) for record in records]), content


def estimate(left: Sequence[Wanted], first: Sequence[list[bytes]]) -> float:
    """Bytes that all frames of `left` will take, if they are like the first clips'."""
    sizes = [len(record) for records in first for record in records]
    return sum(sizes) / len(sizes) * sum(len(positions) for _, positions in left)


def _keys(clip: Clip, positions: NDArray[np.int64]) -> list[str]:
    return [f"{clip.sha256} {position}" for position in positions.tolist()]
