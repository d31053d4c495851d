"""Clips on disk, a split and a vocabulary become batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from slr.core.files import generator
from slr.core.signals import end_workers_at_exit, ignore_signals
from slr.data import video
from slr.data.augment import ColorJitter
from slr.data.cache.frames import Frames, Wanted
from slr.data.collate import Batch, Inputs, Sample, collate_ranking, collate_training
from slr.data.manifest import Clip

Key = tuple[int, int]  # (epoch, position in the part)
Features = Callable[[str], Tensor]  # a key of `ClipDataset.feature_key` -> its cached features (V, D)


@dataclass(frozen=True)
class Decoded:
    """Frames decoded from the clips of a prepared data set's folder, resized as `inputs` does."""

    folder: Path
    inputs: Inputs

    def __call__(self, clip: Clip, positions: np.ndarray) -> Tensor:
        """Decode and resize: uint8 (T, 3, h, w)."""
        return self.inputs.resize(video.read(self.folder / clip.file, positions))


@dataclass(frozen=True, eq=False)
class ClipDataset(Dataset[Sample]):
    """Clips as samples; arguments as of `ClipData`. What is random depends on (seed, epoch, clip id) alone.

    With `views`, the positions of an epoch's frames are those of view `epoch % views`, which depend on the clip alone,
    so that every run finds them in a cache. Colours stay new each epoch, except under cached features.
    """

    clips: Sequence[Clip]
    frames_from: Frames
    features_from: Features | None
    views: int | None
    vocabulary: Sequence[str]
    inputs: Inputs
    prompt: str
    frames: int
    sampling: str
    jitter: ColorJitter | None
    seed: int

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: Key) -> Sample:
        epoch, number = key
        clip = self.clips[number]
        return Sample(
            clip=clip.id,
            gloss=self.vocabulary.index(clip.gloss),
            prompt=self.inputs.prompt_ids(clip.prompt or self.prompt, self.frames),
            answer=self.inputs.answer_ids(clip.gloss),
            frames=None if self.features_from else self.seen(clip, epoch),
            features=self.features_from(self.feature_key(clip, epoch)) if self.features_from else None,
        )

    def keys(self) -> list[Key]:
        """A key for each view of each clip that a training may read, to fill a cache with."""
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
        """Everything of the data that the features of a clip in an epoch depend on, as text."""
        colours = None if self.jitter is None else (self.jitter, clip.id, *self._turn(epoch))
        return f"{clip.sha256} {self.positions(clip, epoch).tolist()} {colours}"

    def _turn(self, epoch: int) -> tuple[int, int]:
        return (self.seed, epoch) if self.views is None else (0, epoch % self.views)


@dataclass(eq=False)
class EpochBatches(Sampler[list[Key]]):
    """Batches of (epoch, position): a new order each epoch, from (seed, epoch) alone; the last batch may be smaller.

    Of `count` clips in batches of `batch`, process `rank` of `world` gets every `world`-th; its last may be empty.
    """

    count: int
    batch: int
    seed: int
    rank: int = 0
    world: int = 1
    epoch: int = field(default=0, init=False)
    behind: int = field(default=0, init=False)  # batches to skip, of the whole training

    def start_at(self, step: int) -> None:
        """Skip the first `step` batches of the whole training, also within an epoch."""
        self.behind, self.epoch = step, step // len(self)

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
        skipped = max(0, self.behind - self.epoch * len(self))
        for start in range(skipped * self.batch, self.count, self.batch):
            share = order[start : start + self.batch][self.rank :: self.world]
            yield [(self.epoch, number) for number in share.tolist()]


@dataclass(eq=False, repr=False)
class ClipData:
    """Batches of a prepared data set."""

    parts: dict[str, list[Clip]]  # part -> its clips; train, val and test
    frames_from: Frames  # the prepared clips, or a cache of their frames
    vocabulary: Sequence[str]  # the ordered glosses
    inputs: Inputs
    prompt: str  # the question, where a clip has none of its own
    frames: int  # T, of a clip
    sampling: str  # of the training part, `uniform` or `segment`; the others are always `uniform`
    jitter: ColorJitter | None  # of the training part; None leaves colours alone
    answers: bool  # whether training batches hold the answers; an objective that ranks needs prompts alone
    batch: int  # clips per training batch, which is one optimiser step
    ranking_batch: int  # clips ranked at once
    workers: int  # processes that decode; 0 decodes in this one
    pin_memory: bool  # whether batches go to a GPU
    seed: int  # of order and augmentation
    views: int | None = None  # random samplings of a training clip where something is cached; None is one per epoch
    features_from: Features | None = None  # cached vision features of the train and val parts
    rank: int = 0  # of this process
    world: int = 1  # number of processes that share the work
    steps_behind: int = field(default=0, init=False)  # optimiser steps already done, where a training is resumed

    def training_set(self) -> ClipDataset:
        """The training part, sampled and jittered anew each epoch, or in each of `views`."""
        words = (self.vocabulary, self.inputs, self.prompt, self.frames, self.sampling, self.jitter, self.seed)
        return ClipDataset(self.parts.get("train", []), self.frames_from, self.features_from, self.views, *words)

    def ranking_set(self, clips: Sequence[Clip], features_from: Features | None = None) -> ClipDataset:
        """Clips as samples that are always the same."""
        changes = {"features_from": features_from, "views": None, "sampling": "uniform", "jitter": None}
        return replace(self.training_set(), clips=clips, **changes)

    def frames_wanted(self) -> list[Wanted]:
        """Every frame that fitting reads: of the training part in all views, and of the val part."""
        wanted: list[Wanted] = []
        for part in (self.training_set(), self.ranking_set(self.parts["val"])):
            keys = part.keys()
            wanted += [(part.clips[number], part.positions(part.clips[number], view)) for view, number in keys]
        return wanted

    def train_dataloader(self) -> DataLoader:
        """Batches of `batch` clips, or this process's share, in a new order each epoch, after `steps_behind` steps."""
        dataset = self.training_set()
        sampler = EpochBatches(len(dataset), self.batch, self.seed, self.rank, self.world)
        sampler.start_at(self.steps_behind)  # workers take first batches before Lightning says which epoch it is
        return self._loader(dataset, sampler, collate_training if self.answers else collate_ranking)

    def ranking_dataloader(self, clips: Sequence[Clip], features_from: Features | None = None) -> DataLoader:
        """This process's batches of `ranking_batch` clips, in the order given and without augmentation.

        All processes get equally many, since they wait for each other after each; the last may be empty.
        """
        dataset = self.ranking_set(clips, features_from)
        batches = [[(0, number) for number in batch] for batch in self.ranking_shares(len(clips))[self.rank]]
        return self._loader(dataset, batches, collate_ranking)

    def ranking_shares(self, count: int) -> list[list[list[int]]]:
        """The clip numbers that each process ranks, by batch; a batch is never divided, so that digits stay equal."""
        numbers = list(range(count))
        batches = [numbers[start : start + self.ranking_batch] for start in range(0, count, self.ranking_batch)]
        batches += [[]] * (-len(batches) % self.world)
        return [batches[rank :: self.world] for rank in range(self.world)]

    def val_dataloader(self) -> DataLoader:
        """Batches of the val part for ranking."""
        return self.ranking_dataloader(self.parts["val"], self.features_from)

    def _loader(
        self, dataset: ClipDataset, batches: EpochBatches | list[list[Key]], collate: Callable[..., Batch]
    ) -> DataLoader:
        end_workers_at_exit()
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=partial(collate, pad_id=self.inputs.pad_id),
            persistent_workers=self.workers > 0,
            worker_init_fn=ignore_signals,
            pin_memory=self.pin_memory,
            # Otherwise it draws from torch's global generator, how often depends on the workers, and dropout differs.
            generator=torch.Generator(),
        )
