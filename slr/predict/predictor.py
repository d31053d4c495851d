"""A model over clips of prepared data sets: rankings, features, free texts, and which frames decided."""

import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from slr import factory
from slr.config import schema
from slr.core import distributed
from slr.core.errors import UserError
from slr.core.hardware import Machine
from slr.data import video
from slr.data.batches import ClipData
from slr.data.collate import Batch, Sample, collate_ranking
from slr.data.manifest import Clip
from slr.models import lora
from slr.models.sign_model import SignModel
from slr.predict.calibration import Predictions
from slr.predict.results import Seen
from slr.predict.saliency import occlusion

Value = TypeVar("Value")
LENGTH = 16  # tokens of a free text, at most


class ClipPredictor:
    """A run's model that ranks and explains clips of prepared data sets. As a context, it frees its memory.

    Attributes:
        vocabulary: the K ordered glosses that it ranks.
    """

    def __init__(self, model: SignModel, config: schema.Config, machine: Machine) -> None:
        """Of a run."""
        self.vocabulary = model.vocabulary
        self._open: SignModel | None = model
        self._config = config
        self._machine = machine

    @property
    def _model(self) -> SignModel:
        """On its device, in evaluation mode."""
        if self._open is None:
            raise UserError("expected an open recognizer, found one that was closed; use slr.load again")
        return self._open.to(self._machine.device).eval()

    def close(self) -> None:
        """Free the network and its memory; it cannot be used again."""
        self._open = None
        gc.collect()  # modules refer to one another in circles
        if self._machine.device == "cuda":
            torch.cuda.empty_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def merge(self) -> Any:  # noqa: ANN401
        """Fold the adapter into the weights, for good; returns transformers' model."""
        model = self._model
        model.network = lora.merged(model.network)
        return model.network

    def look_clips(self, clips: Sequence[Clip], title: str | None = None, folder: Path | None = None) -> Predictions:
        """The ranking of every gloss for clips of a prepared data set, and the state that each came from.

        Args:
            clips, title, folder: as for `shared`; n is at least 1.
        """
        model = self._model

        def do(batch: Batch) -> list[tuple[NDArray[np.float32], ...]]:
            output = model.look(batch)
            return list(zip(output.log_probability.cpu().numpy(), output.state.cpu().numpy(), strict=True))

        rows = self.shared(clips, do, title, folder)
        return Predictions(*(np.stack(part) for part in zip(*rows, strict=True)))

    def rank_nothing(self, grey: int) -> NDArray[np.float32]:
        """Log-probabilities (K,) of a clip whose every pixel is `grey`, 0 to 255: the answer where no sign is."""
        model, frames = self._model, self._config.frames
        picture = torch.full((frames, 3, *model.inputs.image_size), grey, dtype=torch.uint8)
        sample = Sample("nothing", 0, model.inputs.prompt_ids(self._config.model.prompt, frames), [], frames=picture)
        with self._machine.autocast():
            batch = model.to_device(collate_ranking([sample], model.inputs.pad_id))
            return model.rank(batch)[0].cpu().numpy()

    def vision_features(self, clips: Sequence[Clip], title: str) -> NDArray[np.float32]:
        """The mean projected feature of every frame of clips of the run's data set, a clip's frames concatenated.

        Args:
            clips, title: as for `shared`.

        Returns:
            float32 (n, T x D), in the order of time.
        """
        model = self._model

        def do(batch: Batch) -> list[NDArray[np.float32]]:
            tokens = model.features(batch).unflatten(1, (self._config.frames, -1))  # (B, T, V/T, D)
            return list(tokens.float().mean(dim=2).flatten(1).cpu().numpy())

        return np.stack(self.shared(clips, do, title))

    def show(
        self, clips: Sequence[Clip], glosses: Sequence[Sequence[str]], title: str, folder: Path | None = None
    ) -> Iterator[Seen]:
        """Each clip's sampled frames, and by how much each of them speaks for some glosses.

        Args:
            clips: n rows of a manifest, whose glosses are in the vocabulary.
            glosses: n lists of glosses to explain, one for each clip.
            title: of a progress bar.
            folder: of the data set; None is the run's own.
        """
        model, data = self._model, self._data(folder, self._machine.workers)
        samples = data.ranking_set(clips)
        for number, clip in enumerate(tqdm(clips, desc=title, unit="clip", dynamic_ncols=True)):
            batch = model.to_device(collate_ranking([samples[0, number]], model.inputs.pad_id))
            with self._machine.autocast():
                weights = occlusion(model, batch, glosses[number], data.ranking_batch).cpu()
            positions = samples.positions(clip, 0)
            yield Seen(
                frames=video.read((folder or factory.prepared(self._config)) / clip.file, positions),
                seconds=(positions / clip.fps).tolist(),
                weights=dict(zip(glosses[number], weights.T.tolist(), strict=True)),
            )

    def generated(self, clips: Sequence[Clip], beams: int, title: str, folder: Path | None = None) -> list[list[str]]:
        """Free texts about clips of a prepared data set, the `beams` best of each, best first.

        Args:
            clips, title, folder: as for `shared`.
            beams: width of the search.
        """
        model = self._model
        return self.shared(clips, lambda batch: model.beams(batch, beams, LENGTH), title, folder)

    def shared(
        self,
        clips: Sequence[Clip],
        do: Callable[[Batch], Sequence[Value]],
        title: str | None = None,
        folder: Path | None = None,
    ) -> list[Value]:
        """What `do` returns for each clip. Several processes share the work, and each gets all results.

        Args:
            clips: n rows of a manifest; glosses outside the vocabulary are allowed, and do not matter.
            do: a value for each clip of a batch on the model's device.
            title: of a progress bar; None shows none, and decodes in this process, as for a user's few files.
            folder: of the data set; None is the run's own.
        """
        model, known = self._model, set(self.vocabulary)
        clips = [c if c.gloss in known else dataclasses.replace(c, gloss=self.vocabulary[0]) for c in clips]
        data = self._data(folder, self._machine.workers if title else 0)
        loader = data.ranking_dataloader(clips)
        with self._machine.autocast():
            bar = tqdm(loader, desc=title, unit="batch", disable=title is None, dynamic_ncols=True)
            own = [do(model.to_device(batch)) for batch in bar]
        values: dict[int, Value] = {}
        for share, batches in zip(data.ranking_shares(len(clips)), distributed.gather(own), strict=True):
            for numbers, batch in zip(share, batches, strict=True):
                values |= zip(numbers, batch, strict=True)
        return [values[number] for number in range(len(clips))]

    def _data(self, folder: Path | None, workers: int) -> ClipData:
        machine = dataclasses.replace(self._machine, workers=workers)
        place = folder or factory.prepared(self._config)
        return factory.data(self._config, place, {}, self.vocabulary, machine, self._model.inputs)
