"""The LightningDataModule: clips on disk, a split and a vocabulary become batches."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from slr.data import video
from slr.data.augment import ColorJitter
from slr.data.collate import Batch, Inputs, Sample, collate_ranking, collate_training
from slr.data.manifest import Clip

Key = tuple[int, int]  # (epoch, position in the part)


class ClipDataset(Dataset[Sample]):
    """Clips as samples. What is random depends on (seed, epoch, clip id) alone: not on workers, not on order."""

    def __init__(
        self,
        clips: Sequence[Clip],
        folder: Path,
        vocabulary: Sequence[str],
        inputs: Inputs,
        prompt: str,
        frames: int,
        sampling: str,
        jitter: ColorJitter | None,
        seed: int,
    ) -> None:
        """See `ClipData`; `jitter=None` leaves colours alone."""
        self.clips = list(clips)
        self.folder = folder
        self.position = {gloss: number for number, gloss in enumerate(vocabulary)}
        self.inputs = inputs
        self.prompt = prompt
        self.frames = frames
        self.sampling = sampling
        self.jitter = jitter
        self.seed = seed

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: Key) -> Sample:
        epoch, number = key
        clip = self.clips[number]
        rng = generator(self.seed, epoch, clip.id)
        positions = video.sample_positions(clip.frames, self.frames, self.sampling, rng)
        frames = self.inputs.resize(video.read(self.folder / clip.file, positions))
        if self.jitter is not None:
            frames = self.jitter(frames, rng)
        return Sample(
            clip=clip.id,
            gloss=self.position[clip.gloss],
            frames=frames,
            prompt=self.inputs.prompt_ids(clip.prompt or self.prompt, self.frames),
            answer=self.inputs.answer_ids(clip.gloss),
        )


def generator(seed: int, epoch: int, label: str) -> np.random.Generator:
    """The random numbers of one thing (a clip id, or "order") in one epoch of one run."""
    return np.random.default_rng([seed, epoch, int.from_bytes(hashlib.sha256(label.encode()).digest()[:8])])


class EpochBatches(Sampler[list[Key]]):
    """Batches of (epoch, position): a new order each epoch, from (seed, epoch) alone; the last batch may be smaller."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        """`count` clips in batches of `batch`."""
        self.count = count
        self.batch = batch
        self.seed = seed
        self.epoch = 0

    @property
    def sampler(self) -> "EpochBatches":
        """Itself: Lightning looks for `set_epoch` at `batch_sampler.sampler` alone."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.count // self.batch)

    def __iter__(self) -> Iterator[list[Key]]:
        order = generator(self.seed, self.epoch, "order").permutation(self.count)
        for start in range(0, self.count, self.batch):
            yield [(self.epoch, number) for number in order[start : start + self.batch].tolist()]


@dataclass(frozen=True)
class Collate:
    """A collation with its padding, which travels to workers."""

    collate: Callable[[list[Sample], int], Batch]
    pad_id: int

    def __call__(self, samples: list[Sample]) -> Batch:
        """Put samples beside one another."""
        return self.collate(samples, self.pad_id)


class ClipData(L.LightningDataModule):
    """Batches of a prepared data set.

    Args:
        parts: part -> its clips; train, val and test.
        folder: the prepared data set's folder, which `Clip.file` is relative to.
        vocabulary: the ordered glosses.
        inputs: what turns words and pictures into tensors for the model.
        prompt: the question, where a clip has none of its own.
        frames: T, frames per clip.
        sampling: of the training part, `uniform` or `segment`; the others are always `uniform`.
        jitter: of the training part.
        batch: clips per training batch, which is one optimiser step.
        ranking_batch: clips ranked at once.
        workers: processes that decode; 0 decodes in this one.
        pin_memory: whether batches go to a GPU.
        seed: of order and augmentation.
    """

    def __init__(
        self,
        parts: dict[str, list[Clip]],
        folder: Path,
        vocabulary: Sequence[str],
        inputs: Inputs,
        prompt: str,
        frames: int,
        sampling: str,
        jitter: ColorJitter,
        batch: int,
        ranking_batch: int,
        workers: int,
        pin_memory: bool,
        seed: int,
    ) -> None:
        super().__init__()
        self.parts = parts
        self.inputs = inputs
        self.batch = batch
        self.ranking_batch = ranking_batch
        self.workers = workers
        self.pin_memory = pin_memory
        self.seed = seed
        self._dataset = partial(
            ClipDataset, folder=folder, vocabulary=vocabulary, inputs=inputs, prompt=prompt, frames=frames, seed=seed
        )
        self.sampling = sampling
        self.jitter = jitter

    def training_set(self) -> ClipDataset:
        """The training part as samples, sampled and jittered anew each epoch."""
        return self._dataset(self.parts["train"], sampling=self.sampling, jitter=self.jitter)

    def train_dataloader(self) -> DataLoader:
        """Batches of `batch` clips in a new order each epoch."""
        dataset = self.training_set()
        sampler = EpochBatches(len(dataset), self.batch, self.seed)
        return self._loader(dataset, sampler, collate_training)

    def ranking_dataloader(self, clips: Sequence[Clip]) -> DataLoader:
        """Batches of `ranking_batch` clips in the order given, without augmentation."""
        dataset = self._dataset(clips, sampling="uniform", jitter=None)
        keys = [(0, number) for number in range(len(dataset))]
        batches = [keys[start : start + self.ranking_batch] for start in range(0, len(keys), self.ranking_batch)]
        return self._loader(dataset, batches, collate_ranking)

    def val_dataloader(self) -> DataLoader:
        """Batches of the val part for ranking."""
        return self.ranking_dataloader(self.parts["val"])

    def _loader(
        self,
        dataset: ClipDataset,
        batches: Sampler[list[Key]] | list[list[Key]],
        collate: Callable[[list[Sample], int], Batch],
    ) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=Collate(collate, self.inputs.pad_id),
            persistent_workers=self.workers > 0,
            pin_memory=self.pin_memory,
            # Without its own, it takes from torch's generator, once or every epoch depending on the workers, and the
            # adapter's dropout would differ.
            generator=torch.Generator(),
        )
