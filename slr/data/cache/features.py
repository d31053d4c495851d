"""What the frozen vision tower makes of a training's frames, computed once and kept: `cache=features`.

A step of a run that finds them opens no video and runs no vision tower. They lie in a folder named after everything
that they depend on besides the clips (weights, resizing, colours, number formats, the code itself), under keys of what
they depend on of the clips.
"""

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from slr.core.errors import UserError
from slr.core.files import sha256
from slr.core.units import format_bytes
from slr.data.cache.store import Pack, writing
from slr.data.datamodule import ClipDataset, Key

# The files that decide what features of a frame are; who changes one of them computes every feature anew.
CODE = ("data/cache/features.py", "data/augment.py", "data/video.py", "models/processor.py", "models/internvl.py")
ENCODINGS = ("float32", "bf16", "int8")


@dataclass(frozen=True)
class FeatureCache:
    """Features by key, from a folder; travels to workers without what it has read.

    Attributes:
        pack: the records.
        tokens: V, of a clip.
        width: D, numbers of a token.
        dtype: `float32` and `bf16` as they are; `int8` with a float32 scale for each token.
    """

    pack: Pack
    tokens: int
    width: int
    dtype: str

    def __call__(self, key: str) -> Tensor:
        """The features under a key: (V, D), float32 where `dtype` is, else bfloat16.

        Raises:
            UserError: they have not been computed.
        """
        try:
            [record] = self.pack.read([key])
        except KeyError:
            raise UserError(
                f"expected features in {self.pack.folder}, found none for a clip; delete that folder and start again"
            ) from None
        return decode(torch.from_numpy(record), self.tokens, self.width, self.dtype)

    @property
    def bytes_each(self) -> int:
        """What one record takes on the disk."""
        size = {"float32": 4, "bf16": 2, "int8": 1}[self.dtype] * self.width + (4 if self.dtype == "int8" else 0)
        return self.tokens * size


def encode(features: Tensor, dtype: str) -> Tensor:
    """Features float (V, D) as bytes: uint8 (n,)."""
    if dtype != "int8":
        whole = features.to(torch.float32 if dtype == "float32" else torch.bfloat16)
        return whole.contiguous().view(torch.uint8).flatten()
    scale = features.float().abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
    numbers = (features.float() / scale).round().to(torch.int8)
    return torch.cat([scale.contiguous().view(torch.uint8).flatten(), numbers.view(torch.uint8).flatten()])


def decode(record: Tensor, tokens: int, width: int, dtype: str) -> Tensor:
    """What `encode` wrote, (tokens, width): float32, or bfloat16 for `bf16` and `int8`.

    >>> decode(encode(torch.tensor([[127.0, -2.0], [0.5, 0.0]]), "int8"), 2, 2, "int8").tolist()
    [[127.0, -2.0], [0.5, 0.0]]
    """
    if dtype != "int8":
        return record.view(torch.float32 if dtype == "float32" else torch.bfloat16).view(tokens, width)
    scale = record[: 4 * tokens].clone().view(torch.float32).unsqueeze(1)
    return (record[4 * tokens :].view(torch.int8).view(tokens, width) * scale).to(torch.bfloat16)


def recipe(weights: Sequence[Tensor], settings: object) -> str:
    """A name for everything besides the clips that features depend on: 16 hexadecimal digits.

    Args:
        weights: of vision tower and projector.
        settings: what else they depend on, able to become JSON.
    """
    found = hashlib.sha256()
    for tensor in weights:
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    here = Path(__file__).parents[2]
    code = [sha256(here / name) for name in CODE]
    versions = [importlib.metadata.version(name) for name in ("torch", "transformers")]
    found.update(json.dumps([settings, code, versions], sort_keys=True).encode())
    return found.hexdigest()[:16]


class _Views(Dataset[tuple[str, Tensor]]):
    """Some of a data set's views as (feature key, frames)."""

    def __init__(self, dataset: ClipDataset, keys: Sequence[Key]) -> None:
        self.dataset, self.keys = dataset, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> tuple[str, Tensor]:
        view, position = self.keys[number]
        clip = self.dataset.clips[position]
        return self.dataset.feature_key(clip, view), self.dataset.seen(clip, view)


def fill(
    cache: FeatureCache,
    datasets: Sequence[ClipDataset],
    compute: Callable[[Tensor], Tensor],
    precision: Callable[[], AbstractContextManager],
    batch: int,
    workers: int,
) -> None:
    """Compute whatever features of the data sets the cache lacks, and say how large that is before.

    Another process that fills the same folder is waited for, and what it computed is not computed again.

    Args:
        cache: to be filled.
        datasets: the training part with its views, the val part.
        compute: frames uint8 (B, T, 3, h, w) -> features (B, V, D).
        precision: autocast as the training has it.
        batch: clips computed at once.
        workers: processes that decode.

    Raises:
        UserError: the disk has no room.
    """
    if not _missing(cache, datasets):
        return
    with writing(cache.pack.folder) as writer:
        cache.pack.reopen()  # another process may have filled it while this one waited
        missing = _missing(cache, datasets)
        _announce(cache, sum(len(keys) for _, keys in missing))
        progress = tqdm(total=sum(len(keys) for _, keys in missing), desc="Computing features", unit="clip")
        error = 0.0
        for dataset, keys in missing:
            loader = DataLoader(
                _Views(dataset, keys), batch, num_workers=workers, collate_fn=_side_by_side, generator=torch.Generator()
            )
            for names, frames in loader:
                with torch.no_grad(), precision():
                    features = compute(frames).cpu()
                for name, one in zip(names, features, strict=True):
                    record = encode(one, cache.dtype)
                    writer.append(name, record.numpy().tobytes())
                    error = max(error, _stray(one, decode(record, cache.tokens, cache.width, cache.dtype)))
                progress.update(len(names))
        progress.close()
    cache.pack.reopen()
    if cache.dtype != "float32":
        print(f"features: {cache.dtype} strays from what was computed by {error:.2%} of a clip's norm at most")


def _missing(cache: FeatureCache, datasets: Sequence[ClipDataset]) -> list[tuple[ClipDataset, list[Key]]]:
    """The views of each data set that have no features; those of identical clips are asked for once."""
    lacking = []
    asked: set[str] = set()
    for dataset in datasets:
        keys = dataset.keys()
        names = [dataset.feature_key(dataset.clips[number], view) for view, number in keys]
        there = cache.pack.has(names) if names else np.zeros(0, bool)
        chosen = []
        for key, name, known in zip(keys, names, there.tolist(), strict=True):
            if not known and name not in asked:
                asked.add(name)
                chosen.append(key)
        if chosen:
            lacking.append((dataset, chosen))
    return lacking


def _announce(cache: FeatureCache, count: int) -> None:
    needed, free = count * cache.bytes_each, shutil.disk_usage(cache.pack.folder).free
    if count:
        print(f"features: {count} views of clips to compute, {format_bytes(needed)} in {cache.pack.folder}")
    if needed > free:
        raise UserError(
            f"expected {format_bytes(needed)} of disk for features in {cache.pack.folder}, found "
            f"{format_bytes(free)}; make room, or choose fewer cache.views, cache.dtype=int8, or cache=frames"
        )


def _stray(truth: Tensor, kept: Tensor) -> float:
    return float((kept.float() - truth.float()).norm() / truth.float().norm().clamp(min=1e-12))


def _side_by_side(rows: list[tuple[str, Tensor]]) -> tuple[list[str], Tensor]:
    return [name for name, _ in rows], torch.stack([frames for _, frames in rows])
