"""Clips on disk, a split and a vocabulary become batches."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from slr.core.signals import end_workers_at_exit, leave_to_parent
from slr.data import video
from slr.data.augment import ColorJitter
from slr.data.cache.frames import Frames, Wanted
from slr.data.collate import Batch, Inputs, Sample, collate_ranking, collate_training
from slr.data.manifest import Clip

Key = tuple[int, int]  # (epoch, position in the part)


class Features(Protocol):
    """Where features come from that were computed before."""

    def __call__(self, key: str) -> Tensor:
        """What was kept under a key of `ClipDataset.feature_key`: (V, D)."""
        ...


@dataclass(frozen=True)
class Decoded:
    """Frames from the prepared clips themselves.

    Attributes:
        folder: the prepared data set's, which `Clip.file` is relative to.
        inputs: whose resizing the model wants.
    """

    folder: Path
    inputs: Inputs

    def __call__(self, clip: Clip, positions: np.ndarray) -> Tensor:
        """Decode and resize: uint8 (T, 3, h, w)."""
        return self.inputs.resize(video.read(self.folder / clip.file, positions))


class ClipDataset(Dataset[Sample]):
    """Clips as samples. What is random depends on (seed, epoch, clip id) alone: not on workers, not on order.

    With `views`, the positions of an epoch's frames are those of view `epoch % views`, which depend on the clip alone,
    so that every run finds them in a cache. Colours stay new each epoch, except under cached features.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        frames_from: Frames,
        features_from: Features | None,
        views: int | None,
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
        self.frames_from = frames_from
        self.features_from = features_from
        self.views = views
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
        from_cache = self.features_from is not None
        return Sample(
            clip=clip.id,
            gloss=self.position[clip.gloss],
            prompt=self.inputs.prompt_ids(clip.prompt or self.prompt, self.frames),
            answer=self.inputs.answer_ids(clip.gloss),
            frames=None if from_cache else self.seen(clip, epoch),
            features=self.features_from(self.feature_key(clip, epoch)) if self.features_from else None,
        )

    def keys(self) -> list[Key]:
        """One key for each thing that a training may see of its clips, for a cache to be filled with."""
        views = self.views if self.views and (self.sampling != "uniform" or self.jitter is not None) else 1
        return [(view, number) for number in range(len(self.clips)) for view in range(views)]

    def positions(self, clip: Clip, epoch: int) -> np.ndarray:
        """Which frames of a clip are seen in an epoch: int64 (T,)."""
        rng = generator(*self._turn(epoch), clip.id)
        return video.sample_positions(clip.frames, self.frames, self.sampling, rng)

    def seen(self, clip: Clip, epoch: int) -> Tensor:
        """The frames of a clip in an epoch, in that epoch's colours: uint8 (T, 3, h, w)."""
        frames = self.frames_from(clip, self.positions(clip, epoch))
        if self.jitter is None:
            return frames
        turn = self._turn(epoch) if self.features_from is not None else (self.seed, epoch)
        return self.jitter(frames, generator(*turn, f"{clip.id} colours"))

    def frames_of(self, names: Sequence[str]) -> Tensor:
        """The frames of the clips with these ids in the first epoch: uint8 (B, T, 3, h, w)."""
        clips = {clip.id: clip for clip in self.clips}
        return torch.stack([self.seen(clips[name], 0) for name in names])

    def feature_key(self, clip: Clip, epoch: int) -> str:
        """What the features of a clip in an epoch depend on, of all that is the data's."""
        colours = None if self.jitter is None else (self.jitter, clip.id, *self._turn(epoch))
        return f"{clip.sha256} {self.positions(clip, epoch).tolist()} {colours}"

    def _turn(self, epoch: int) -> tuple[int, int]:
        return (self.seed, epoch) if self.views is None else (0, epoch % self.views)


def generator(seed: int, epoch: int, label: str) -> np.random.Generator:
    """The random numbers of one thing (a clip id, or "order") in one epoch of one run."""
    return np.random.default_rng([seed, epoch, int.from_bytes(hashlib.sha256(label.encode()).digest()[:8])])


class EpochBatches(Sampler[list[Key]]):
    """Batches of (epoch, position): a new order each epoch, from (seed, epoch) alone; the last batch may be smaller.

    Of several processes, each gets its share of every batch, which may be empty in the last one.
    """

    def __init__(self, count: int, batch: int, seed: int, rank: int = 0, world: int = 1) -> None:
        """`count` clips in batches of `batch`, of which process `rank` of `world` gets every `world`-th clip."""
        self.count = count
        self.batch = batch
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.behind = (0, 0)  # an epoch, and how many of its batches lie behind a resumed training

    def start_at(self, step: int) -> None:
        """Begin behind so many batches of the whole training, in the middle of an epoch where that is."""
        self.behind = divmod(step, len(self))
        self.epoch = self.behind[0]

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
        skipped = self.behind[1] if self.epoch == self.behind[0] else 0
        for start in range(skipped * self.batch, self.count, self.batch):
            share = order[start : start + self.batch][self.rank :: self.world]
            yield [(self.epoch, number) for number in share.tolist()]


@dataclass(frozen=True)
class Collate:
    """A collation with its padding, which travels to workers."""

    collate: Callable[[list[Sample], int], Batch]
    pad_id: int

    def __call__(self, samples: list[Sample]) -> Batch:
        """Put samples beside one another."""
        return self.collate(samples, self.pad_id)


class ClipData:
    """Batches of a prepared data set.

    Args:
        parts: part -> its clips; train, val and test.
        frames_from: the prepared clips, or a cache of their frames.
        features_from: a cache of what the vision tower makes of the frames of the train and val parts, if there is one.
        views: how many random samplings of a training clip there are, where something is cached; None is one an epoch.
        vocabulary: the ordered glosses.
        inputs: what turns words and pictures into tensors for the model.
        prompt: the question, where a clip has none of its own.
        frames: T, frames per clip.
        sampling: of the training part, `uniform` or `segment`; the others are always `uniform`.
        jitter: of the training part; None leaves colours alone.
        answers: whether training batches hold the answers; an objective that ranks takes prompts alone.
        batch: clips per training batch, which is one optimiser step.
        ranking_batch: clips ranked at once.
        workers: processes that decode; 0 decodes in this one.
        pin_memory: whether batches go to a GPU.
        seed: of order and augmentation.
        rank: which one of the processes this is that share the work.
        world: how many there are.

    Attributes:
        steps_behind: optimiser steps that a training which goes on has behind it.
    """

    def __init__(
        self,
        parts: dict[str, list[Clip]],
        frames_from: Frames,
        vocabulary: Sequence[str],
        inputs: Inputs,
        prompt: str,
        frames: int,
        sampling: str,
        jitter: ColorJitter | None,
        answers: bool,
        batch: int,
        ranking_batch: int,
        workers: int,
        pin_memory: bool,
        seed: int,
        views: int | None = None,
        features_from: Features | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.rank = rank
        self.world = world
        self.parts = parts
        self.answers = answers
        self.views = views
        self.frames_from = frames_from
        self.features_from = features_from
        self.inputs = inputs
        self.batch = batch
        self.ranking_batch = ranking_batch
        self.workers = workers
        self.pin_memory = pin_memory
        self.seed = seed
        self.steps_behind = 0
        self._dataset = partial(
            ClipDataset,
            vocabulary=vocabulary,
            inputs=inputs,
            prompt=prompt,
            frames=frames,
            seed=seed,
        )
        self.sampling = sampling
        self.jitter = jitter

    def training_set(self) -> ClipDataset:
        """The training part as samples, sampled and jittered anew each epoch, or each of `views`."""
        return self._dataset(
            self.parts["train"],
            sampling=self.sampling,
            jitter=self.jitter,
            views=self.views,
            frames_from=self.frames_from,
            features_from=self.features_from,
        )

    def ranking_set(self, clips: Sequence[Clip], features_from: Features | None = None) -> ClipDataset:
        """Clips as samples that are always the same."""
        return self._dataset(
            clips,
            sampling="uniform",
            jitter=None,
            views=None,
            frames_from=self.frames_from,
            features_from=features_from,
        )

    def frames_wanted(self) -> list[Wanted]:
        """Every frame that fitting reads: of the training part in all views, and of the val part."""
        wanted: list[Wanted] = []
        for part in (self.training_set(), self.ranking_set(self.parts["val"])):
            keys = part.keys()
            wanted += [(part.clips[number], part.positions(part.clips[number], view)) for view, number in keys]
        return wanted

    def train_dataloader(self) -> DataLoader:
        """Batches of `batch` clips, or this process's share, in a new order each epoch, behind `steps_behind`."""
        dataset = self.training_set()
        sampler = EpochBatches(len(dataset), self.batch, self.seed, self.rank, self.world)
        sampler.start_at(self.steps_behind)  # workers take first batches before Lightning says which epoch it is
        return self._loader(dataset, sampler, collate_training if self.answers else collate_ranking)

    def ranking_dataloader(self, clips: Sequence[Clip], features_from: Features | None = None) -> DataLoader:
        """Those batches of `ranking_batch` clips, in the order given and without augmentation, that are this process's.

        All processes have as many, the last of some an empty one: they wait for one another after each.
        """
        dataset = self.ranking_set(clips, features_from)
        batches = [[(0, number) for number in batch] for batch in self.ranking_shares(len(clips))[self.rank]]
        return self._loader(dataset, batches, collate_ranking)

    def ranking_shares(self, count: int) -> list[list[list[int]]]:
        """Which of `count` clips each process ranks, batch by batch. A batch is never divided, so digits stay equal."""
        numbers = list(range(count))
        batches = [numbers[start : start + self.ranking_batch] for start in range(0, count, self.ranking_batch)]
        batches += [[]] * (-len(batches) % self.world)
        return [batches[rank :: self.world] for rank in range(self.world)]

    def val_dataloader(self) -> DataLoader:
        """Batches of the val part for ranking."""
        return self.ranking_dataloader(self.parts["val"], self.features_from)

    def _loader(
        self,
        dataset: ClipDataset,
        batches: Sampler[list[Key]] | list[list[Key]],
        collate: Callable[[list[Sample], int], Batch],
    ) -> DataLoader:
        end_workers_at_exit()
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=Collate(collate, self.inputs.pad_id),
            persistent_workers=self.workers > 0,
            worker_init_fn=leave_to_parent,
            pin_memory=self.pin_memory,
            # Without its own, it takes from torch's generator, once or every epoch depending on the workers, and the
            # adapter's dropout would differ.
            generator=torch.Generator(),
        )
