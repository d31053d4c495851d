"""A recognizer over clips of prepared data sets: rankings, features, free texts, and which frames decided."""

import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm import tqdm

from slr import factory
from slr.config import schema
from slr.core import distributed
from slr.core.errors import UserError
from slr.core.hardware import Machine
from slr.data import video
from slr.data.collate import Batch, Sample, collate_ranking
from slr.data.manifest import Clip
from slr.models import internvl, lora
from slr.predict.calibration import Predictions
from slr.predict.results import Seen
from slr.predict.saliency import occlusion
from slr.training.module import SignModule

LogProbability = NDArray[np.float32]
Value = TypeVar("Value")


class ClipPredictor:
    """What training's end, evaluation, ladder and export ask of a recognizer. As a context, it frees its memory.

    Attributes:
        vocabulary: the K ordered glosses that it ranks.
    """

    def __init__(self, recognizer: SignModule, config: schema.Config, machine: Machine) -> None:
        """Of a run."""
        self.vocabulary = recognizer.vocabulary
        self._open: SignModule | None = recognizer
        self._config = config
        self._machine = machine

    @property
    def _recognizer(self) -> SignModule:
        if self._open is None:
            raise UserError("expected a recognizer that is open, found one that was closed; use slr.load again")
        return self._open

    def close(self) -> None:
        """Let go of the network and of the memory that it took; nothing more can be asked."""
        self._open = None
        gc.collect()  # modules refer to one another in circles
        if self._machine.device == "cuda":
            torch.cuda.empty_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def merge(self) -> "internvl.Model":
        """Fold the adapter into the weights, for good; the model as transformers has it, which the caller may keep."""
        self._recognizer.network = lora.merged(self._recognizer.network)
        return self._recognizer.network

    def rank_clips(self, clips: Sequence[Clip], title: str, folder: Path | None = None) -> LogProbability:
        """Log-probabilities of every gloss for clips of a prepared data set: float32 (n, K); see `look_clips`."""
        return self.look_clips(clips, title, folder).log_probability

    def look_clips(self, clips: Sequence[Clip], title: str, folder: Path | None = None) -> Predictions:
        """The ranking of every gloss for clips of a prepared data set, and the state that each came from.

        Several processes share the work, and each gets the whole.

        Args:
            clips: n rows of its manifest, whose glosses need not be in the vocabulary.
            title: heads the progress bar.
            folder: of the data set; None is the run's own.
        """
        known, any_gloss = set(self.vocabulary), self.vocabulary[0]  # a clip's own is not looked at
        clips = [clip if clip.gloss in known else dataclasses.replace(clip, gloss=any_gloss) for clip in clips]
        return self.look(clips, folder or factory.prepared(self._config), self._machine.workers, title)

    def rank_nothing(self, grey: int) -> NDArray[np.float32]:
        """Log-probabilities (K,) of a clip whose every pixel is `grey`, 0 to 255: what is said where no sign is."""
        inputs, frames = self._recognizer.inputs, self._config.frames
        picture = torch.full((frames, 3, *inputs.image_size), grey, dtype=torch.uint8)
        sample = Sample("nothing", 0, inputs.prompt_ids(self._config.model.prompt, frames), [], frames=picture)
        batch = collate_ranking([sample], inputs.pad_id)
        self._recognizer.to(self._machine.device).eval()
        with self._machine.autocast():
            moved = self._recognizer.transfer_batch_to_device(batch, torch.device(self._machine.device), 0)
            return self._recognizer.rank(moved)[0].cpu().numpy()

    def vision_features(self, clips: Sequence[Clip], title: str) -> NDArray[np.float32]:
        """The mean projected feature of every frame of clips of the run's data set, frames beside one another.

        Args:
            clips: n rows of its manifest.
            title: heads the progress bar.

        Returns:
            float32 (n, T x D), in the order of time.
        """

        def do(batch: Batch) -> list[NDArray[np.float32]]:
            tokens = self._recognizer.features(batch).unflatten(1, (self._config.frames, -1))  # (B, T, V/T, D)
            return list(tokens.float().mean(dim=2).flatten(1).cpu().numpy())

        return np.stack(self.shared(clips, factory.prepared(self._config), do, self._machine.workers, title))

    def show(
        self, clips: Sequence[Clip], glosses: Sequence[Sequence[str]], title: str, folder: Path | None = None
    ) -> Iterator[Seen]:
        """Each clip's sampled frames, and by how much each of them speaks for some glosses.

        Args:
            clips: n rows of a manifest, whose glosses are in the vocabulary.
            glosses: n lists of what is asked about each clip.
            title: heads a progress bar.
            folder: of the data set; None is the run's own.
        """
        place = folder or factory.prepared(self._config)
        data = factory.data(self._config, place, {}, self.vocabulary, self._machine, self._recognizer.inputs)
        samples = data.ranking_set(clips)
        self._recognizer.to(self._machine.device).eval()
        for number, clip in enumerate(tqdm(clips, desc=title, unit="clip", dynamic_ncols=True)):
            batch = collate_ranking([samples[0, number]], self._recognizer.inputs.pad_id)
            moved = self._recognizer.transfer_batch_to_device(batch, torch.device(self._machine.device), 0)
            with self._machine.autocast():
                weights = occlusion(self._recognizer, moved, glosses[number], data.ranking_batch).cpu()
            positions = samples.positions(clip, 0)
            yield Seen(
                frames=video.read(place / clip.file, positions),
                seconds=(positions / clip.fps).tolist(),
                weights=dict(zip(glosses[number], weights.T.tolist(), strict=True)),
            )

    def generated(
        self, clips: Sequence[Clip], beams: int, title: str, folder: Path | None = None, length: int = 16
    ) -> list[list[str]]:
        """Free texts about clips of a prepared data set, the `beams` best of each, best first.

        Several processes share the work, and each gets the whole.

        Args:
            clips: n rows of its manifest, whose glosses need not be in the vocabulary.
            beams: width of the search.
            title: heads the progress bar.
            folder: of the data set; None is the run's own.
            length: tokens of an answer, at most.
        """
        place = folder or factory.prepared(self._config)
        clips = [dataclasses.replace(clip, gloss=self.vocabulary[0]) for clip in clips]  # a clip's own is not looked at
        return self.shared(
            clips, place, lambda batch: self._recognizer.beams(batch, beams, length), self._machine.workers, title
        )

    def look(self, clips: Sequence[Clip], folder: Path, workers: int = 0, title: str | None = None) -> Predictions:
        """As `look_clips`, for clips of any folder whose glosses are in the vocabulary."""

        def do(batch: Batch) -> list[tuple[NDArray[np.float32], ...]]:
            found = self._recognizer.look(batch)
            return list(zip(found.log_probability.cpu().numpy(), found.state.cpu().numpy(), strict=True))

        rows = self.shared(clips, folder, do, workers, title)
        return Predictions(*(np.stack(part) for part in zip(*rows, strict=True)))

    def shared(
        self,
        clips: Sequence[Clip],
        folder: Path,
        do: Callable[[Batch], Sequence[Value]],
        workers: int = 0,
        title: str | None = None,
    ) -> list[Value]:
        """What `do` makes of each clip of a batch, for all clips, whichever process has had them."""
        machine = dataclasses.replace(self._machine, workers=workers)
        data = factory.data(self._config, folder, {}, self.vocabulary, machine, self._recognizer.inputs)
        own = each_batch(self._recognizer, data.ranking_dataloader(clips), machine, title, do)
        found: dict[int, Value] = {}
        for share, batches in zip(data.ranking_shares(len(clips)), distributed.gather(own), strict=True):
            for numbers, values in zip(share, batches, strict=True):
                found |= zip(numbers, values, strict=True)
        return [found[number] for number in range(len(clips))]


def each_batch(
    recognizer: SignModule, loader: DataLoader, machine: Machine, title: str | None, do: Callable[[Batch], Value]
) -> list[Value]:
    """What `do` makes of every batch of `loader`, on the machine's device; `title` heads a progress bar."""
    recognizer.to(machine.device).eval()
    found = []
    with machine.autocast():
        for batch in tqdm(loader, desc=title, unit="batch", disable=title is None, dynamic_ncols=True):
            found.append(do(recognizer.transfer_batch_to_device(batch, torch.device(machine.device), 0)))
    return found
