"""Features of the frozen vision tower, computed once and kept: `cache=features`.

A training step that finds them opens no video and runs no vision tower. Their folder is named after everything besides
the clips that they depend on (weights, resizing, colours, number formats, code), their keys after what they depend on
of the clips.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from slr.core.files import sha256
from slr.core.units import format_bytes
from slr.data.batches import ClipDataset
from slr.data.cache.store import Pack, require_room, writing
from slr.data.manifest import Clip

# The files that features of a frame depend on; a change of one of them computes every feature again.
CODE = ("data/cache/features.py", "data/augment.py", "data/video.py", "models/processor.py", "models/internvl.py")
View = tuple[str, ClipDataset, Clip, int]  # feature key, data set, clip of it, epoch


@dataclass(frozen=True)
class FeatureCache:
    """Features by key, from a folder."""

    pack: Pack
    tokens: int  # V, of a clip
    width: int  # D, numbers per token
    dtype: str  # `float32`, `bf16`, or `int8` with a float32 scale for each token

    def __call__(self, key: str) -> Tensor:
        """The features under a key: (V, D), float32 where `dtype` is, else bfloat16.

        Raises:
            UserError: they have not been computed.
        """
        [record] = self.pack.read([key])
        return decode(torch.from_numpy(record), self.tokens, self.width, self.dtype)

    @property
    def bytes_each(self) -> int:
        """Bytes of one record on the disk."""
        return len(encode(torch.zeros(self.tokens, self.width), self.dtype))


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
    """16 hexadecimal digits of everything besides the clips that features depend on; `settings` are JSON-able."""
    digest = hashlib.sha256()
    for tensor in weights:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    here = Path(__file__).parents[2]
    code = [sha256(here / name) for name in CODE]
    versions = [importlib.metadata.version(name) for name in ("torch", "transformers")]
    digest.update(json.dumps([settings, code, versions], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def fill(
    cache: FeatureCache,
    datasets: Sequence[ClipDataset],
    compute: Callable[[Tensor], Tensor],
    precision: Callable[[], AbstractContextManager],
    batch: int,
    workers: int,
) -> None:
    """Compute the features of the data sets that the cache lacks, and print first how large they will be.

    Waits for another process that fills the same folder, and does not compute its features again.

    Args:
        cache, datasets: to be filled; the training part with its views and the val part.
        compute: frames uint8 (B, T, 3, h, w) -> features (B, V, D).
        precision: autocast as the training has it.
        batch: clips computed at once.
        workers: processes that decode.

    Raises:
        UserError: the disk has no room.
    """
    folder = cache.pack.folder
    if not _missing(cache, datasets):
        return
    with writing(folder) as writer:
        cache.pack.reopen()  # another process may have filled it while this one waited
        missing = _missing(cache, datasets)
        if not missing:
            return
        count = sum(map(len, missing))
        print(f"features: {count} views of clips to compute, {format_bytes(count * cache.bytes_each)} in {folder}")
        require_room(folder, count * cache.bytes_each, "choose fewer cache.views, cache.dtype=int8, or cache=frames")
        progress = tqdm(total=count, desc="Computing features", unit="clip")
        error = 0.0
        for views in missing:
            loader = DataLoader(
                cast(Any, views), batch, num_workers=workers, collate_fn=_load, generator=torch.Generator()
            )
            for keys, frames in loader:
                with torch.no_grad(), precision():
                    features = compute(frames).cpu().float()
                for key, truth in zip(keys, features, strict=True):
                    record = encode(truth, cache.dtype)
                    writer.append(key, record.numpy().tobytes())
                    stored = decode(record, cache.tokens, cache.width, cache.dtype).float()
                    error = max(error, float((stored - truth).norm() / truth.norm().clamp(min=1e-12)))
                    progress.update()
        progress.close()
    cache.pack.reopen()
    if cache.dtype != "float32":
        print(f"features: {cache.dtype} differs from what was computed by {error:.2%} of a clip's norm at most")


def _missing(cache: FeatureCache, datasets: Sequence[ClipDataset]) -> list[list[View]]:
    """The views of each data set that have no features, identical clips once."""
    asked: set[str] = set()
    missing = []
    for dataset in datasets:
        keys = dataset.keys()
        clips = [(dataset.clips[number], epoch) for epoch, number in keys]
        views = {dataset.feature_key(clip, epoch): (dataset, clip, epoch) for clip, epoch in clips}
        new = [key for key in views if key not in asked]
        known = cache.pack.has(new)
        missing.append([(key, *views[key]) for key, there in zip(new, known, strict=True) if not there])
        asked |= views.keys()
    return [views for views in missing if views]


def _load(views: Sequence[View]) -> tuple[list[str], Tensor]:
    """Keys and frames of some views."""
    frames = [dataset.seen(clip, epoch) for _, dataset, clip, epoch in views]
    return [key for key, *_ in views], torch.stack(frames)
