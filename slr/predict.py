"""A trained recognizer at work: `slr.load`, and what it says of a data set's clips and of files that someone brings."""

if __name__ == "__main__":  # before the imports below, which take seconds: mistakes are told at once
    import sys

    from slr.errors import explained
    from slr.predict_command import main

    sys.exit(explained(lambda: main(sys.argv[1:])))

import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch.utils.data import DataLoader
from tqdm import tqdm

from slr import assemble, brought, calibration, hardware, processes, schema
from slr.answers import Ranked, Ranking, Refusal, Scanned, Told
from slr.calibration import Calibration, Looked
from slr.data import video
from slr.data.collate import Batch, Sample, collate_ranking
from slr.data.manifest import Clip
from slr.errors import UserError
from slr.exported import Exported, is_exported, read_exported
from slr.hardware import Machine
from slr.model import lora, vlm
from slr.model.generation import Decoding
from slr.model.inputs import load_inputs
from slr.recognizer import Recognizer
from slr.report.pictures import Seen
from slr.run import RunFolder, open_run
from slr.saliency import occlusion
from slr.scan import Segment, cuts, lay, propose, stretches
from slr.watching import look_at, watch

LogProbability = NDArray[np.float32]
Files = str | PathLike[str] | Sequence[str | PathLike[str]]
GREEDY = Decoding()
LENIENCY = 1.25  # what is cut out of a recording may be this much stranger than a clip that is answered
Value = TypeVar("Value")
Answer = TypeVar("Answer", Ranked, Scanned, Told)


def load(
    path: str | PathLike[str], checkpoint: str = "best", device: str | None = None, base: str | None = None
) -> "SignRecognizer":
    """The recognizer of a run, or one that `slr.export` has made of it.

    Args:
        path: the folder of either.
        checkpoint: of a run: best, last, or a path; `base` is the model as it was before training.
        device: cpu or cuda; None is the device that a run was trained on, and the best that is here for an export.
        base: of an exported adapter: a folder or hub name of its base model, where the export's own is not to be had.

    Raises:
        UserError: `path` is neither, or the checkpoint, the device or the base model is not there.

    Example:
        `slr.load("outputs/…").rank("hello.mp4", top=5)` gives `[(gloss, probability), …]`, best first.
    """
    place = Path(path).expanduser()
    if is_exported(place):
        return _from_export(read_exported(place), device, base)
    folder, config, vocabulary = open_run(place)
    return assembled(folder, config, vocabulary, checkpoint, device)


def assembled(
    folder: RunFolder,
    config: schema.Config,
    vocabulary: Sequence[str],
    checkpoint: str = "best",
    device: str | None = None,
) -> "SignRecognizer":
    """A run's recognizer as a configuration has it, which may differ from the run's own in machine and quantization."""
    machine = assemble.machine(config, device)
    recognizer = assemble.recognizer(config, vocabulary, machine, assemble.inputs(config))
    if config.lora.scope != "none" and checkpoint != "base":  # an adapter that nobody trained changes nothing
        recognizer.restore(folder.checkpoint(checkpoint))
    learned = calibration.read(folder.calibration) if checkpoint == "best" else None
    return SignRecognizer(recognizer, config, machine, learned)


def _from_export(exported: Exported, device: str | None, base: str | None) -> "SignRecognizer":
    config, merged = exported.config, exported.kind == "merged"
    machine = assemble.machine(config, device or hardware.pick())
    inputs = load_inputs(str(exported.processor), None)
    weights = str(exported.root) if merged else base or config.model.checkpoint
    pointed = dataclasses.replace(config, model=dataclasses.replace(config.model, checkpoint=weights))
    recognizer = assemble.recognizer(pointed, exported.vocabulary, machine, inputs)
    if not merged:
        lora.load_exported(recognizer.network, exported.adapter)
    return SignRecognizer(recognizer, config, machine, calibration.read(exported.calibration))


def each_batch(
    recognizer: Recognizer, loader: DataLoader, machine: Machine, title: str | None, do: Callable[[Batch], Value]
) -> list[Value]:
    """What `do` makes of every batch of `loader`, on the machine's device; `title` heads a progress bar."""
    recognizer.to(machine.device).eval()
    found = []
    with machine.autocast():
        for batch in tqdm(loader, desc=title, unit="batch", disable=title is None, dynamic_ncols=True):
            found.append(do(recognizer.transfer_batch_to_device(batch, torch.device(machine.device), 0)))
    return found


class SignRecognizer:
    """Names the sign in a clip, finds the signs of a recording, and writes what the model would say.

    Files may be anything that PyAV or PIL can read; they are prepared first, as training's were, in processes that can
    be ended. A clip of a prepared data set is taken as it is. As a context, it lets go of its memory at the end.

    Attributes:
        vocabulary: the K ordered glosses that it ranks.
        calibration: what the run's validation part has taught of its probabilities; None: they are taken as they are,
            and every clip is answered.
    """

    def __init__(
        self, recognizer: Recognizer, config: schema.Config, machine: Machine, calibration: Calibration | None = None
    ) -> None:
        """Made by `load`."""
        self.vocabulary = recognizer.vocabulary
        self.calibration = calibration
        self._open: Recognizer | None = recognizer
        self._config = config
        self._machine = machine

    @property
    def _recognizer(self) -> Recognizer:
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

    def merge(self) -> "vlm.Model":
        """Fold the adapter into the weights, for good; the model as transformers has it, which the caller may keep."""
        self._recognizer.network = lora.merged(self._recognizer.network)
        return self._recognizer.network

    @overload
    def rank(self, clip: str | PathLike[str], top: int = 5) -> Ranking: ...

    @overload
    def rank(self, clip: Sequence[str | PathLike[str]], top: int = 5) -> list[Ranking]: ...

    def rank(self, clip: Files, top: int = 5) -> Ranking | list[Ranking]:
        """The `top` likeliest glosses of a clip with their calibrated probabilities, best first; of several, a list.

        Args:
            clip: a file, or several, which are ranked together.
            top: how many, at least one; all where it exceeds the vocabulary.

        Raises:
            UserError: a file from which no clip could be made.
        """
        found = [_demanded(answer).ranking for answer in self.answers(_files(clip), top)]
        return found[0] if isinstance(clip, str | PathLike) else found

    def answers(self, files: Sequence[Path], top: int = 5) -> Iterator[Ranked | Refusal]:
        """As `rank`, one after the other, with what was learned about each file; an unfit one is told and passed over.

        Raises:
            UserError: `top` below 1.
        """
        if top < 1:
            raise UserError(f"top={top}: expected at least 1")
        for folder, made in brought.clips(files, self.vocabulary[0]):
            clips = [one for one in made if isinstance(one, Clip)]
            told = iter(self._ranked(clips, folder, top) if clips else [])
            for one in made:
                yield one if isinstance(one, Refusal) else Ranked(*_watched(one), *next(told))

    def _ranked(self, clips: Sequence[Clip], folder: Path, top: int) -> list[tuple[Ranking, bool]]:
        """The best glosses of each clip, and whether it is answered."""
        looked = self._look(clips, folder)
        probabilities, known = self._probabilities(looked)
        order = np.argsort(-looked.log_probability, axis=1, kind="stable")[:, :top]
        best = [
            [(self.vocabulary[number], float(own[number])) for number in numbers]
            for own, numbers in zip(probabilities, order.tolist(), strict=True)
        ]
        return list(zip(best, known.tolist(), strict=True))

    def scan(
        self, recording: str | PathLike[str], window: float | None = None, stride: float | None = None
    ) -> list[Segment]:
        """The signs of a long recording in the order of time: start and end in seconds, gloss and probability.

        Args:
            recording: a file of at most two hours.
            window: seconds that are looked at at once; None is what the run's clips last in the middle.
            stride: seconds from one window to the next; None is a quarter of the window.

        Raises:
            UserError: the file cannot be read, or a window or stride is not above 0.
        """
        [found] = self.scans(_files(recording), window, stride)
        return list(_demanded(found).segments)

    def scans(
        self, files: Sequence[Path], window: float | None = None, stride: float | None = None
    ) -> Iterator[Scanned | Refusal]:
        """As `scan`, one file after the other; an unfit one is told and passed over."""
        window = self.usual_seconds() if window is None else window
        stride = window / 4 if stride is None else stride
        if not 0 < stride <= window < brought.HOURS:
            raise UserError(f"window={window:g} stride={stride:g}: expected seconds above 0, the stride no longer")
        for folder, [one] in brought.clips(files, self.vocabulary[0], brought.HOURS, at_once=1):
            yield one if isinstance(one, Refusal) else Scanned(*_watched(one), self._scan(one, folder, window, stride))

    def _scan(self, clip: Clip, folder: Path, window: float, stride: float) -> list[Segment]:
        self._recognizer.to(self._machine.device).eval()
        path, prompt, count = folder / clip.file, self._config.model.prompt, self._config.frames
        windows = lay(clip.frames, clip.fps, count, window, stride)
        looked, moved = watch(self._recognizer, self._machine, path, windows, prompt)
        spans = propose(windows, self._probabilities(looked)[0], stretches(moved, clip.fps))
        if not spans:
            return []
        parts = cuts(spans, clip.frames, clip.fps)
        positions = [start + video.sample_positions(end - start, count, "uniform") for start, end in parts]
        again = look_at(self._recognizer, self._machine, path, np.stack(positions), prompt)
        probabilities, known = self._probabilities(again, LENIENCY)
        return [
            Segment(start / clip.fps, end / clip.fps, self.vocabulary[row.argmax()], float(row.max()))
            for (start, end), row, answered in zip(spans, probabilities, known.tolist(), strict=True)
            if answered
        ]

    def usual_seconds(self) -> float:
        """What a training clip lasts in the middle; 2 seconds without a calibration, which would know."""
        return self.calibration.seconds if self.calibration else 2.0

    @overload
    def generate(self, clip: str | PathLike[str], prompt: str | None = None, decoding: Decoding = ...) -> str: ...

    @overload
    def generate(
        self, clip: Sequence[str | PathLike[str]], prompt: str | None = None, decoding: Decoding = ...
    ) -> list[str]: ...

    def generate(self, clip: Files, prompt: str | None = None, decoding: Decoding = GREEDY) -> str | list[str]:
        """What the model writes about a clip when nothing holds it to the vocabulary; of several clips, a list.

        Args:
            clip: a file, or several, which are asked about together.
            prompt: the question; None is the run's.
            decoding: how words are chosen.

        Raises:
            UserError: a file from which no clip could be made, or a prompt with a special token.
        """
        found = [_demanded(told).text for told in self.texts(_files(clip), prompt, decoding)]
        return found[0] if isinstance(clip, str | PathLike) else found

    def texts(
        self, files: Sequence[Path], prompt: str | None = None, decoding: Decoding = GREEDY
    ) -> Iterator[Told | Refusal]:
        """As `generate`, one after the other; an unfit file is told and passed over."""
        for folder, made in brought.clips(files, self.vocabulary[0]):
            clips = [dataclasses.replace(one, prompt=prompt) for one in made if isinstance(one, Clip)]
            found = iter(self._shared(clips, folder, lambda batch: self._recognizer.generate(batch, decoding)))
            for one in made:
                yield one if isinstance(one, Refusal) else Told(*_watched(one), next(found))

    def rank_clips(self, clips: Sequence[Clip], title: str, folder: Path | None = None) -> LogProbability:
        """Log-probabilities of every gloss for clips of a prepared data set: float32 (n, K); see `look_clips`."""
        return self.look_clips(clips, title, folder).log_probability

    def look_clips(self, clips: Sequence[Clip], title: str, folder: Path | None = None) -> Looked:
        """The ranking of every gloss for clips of a prepared data set, and the state that each came from.

        Several processes share the work, and each gets the whole.

        Args:
            clips: n rows of its manifest, whose glosses need not be in the vocabulary.
            title: heads the progress bar.
            folder: of the data set; None is the run's own.
        """
        known, any_gloss = set(self.vocabulary), self.vocabulary[0]  # a clip's own is not looked at
        clips = [clip if clip.gloss in known else dataclasses.replace(clip, gloss=any_gloss) for clip in clips]
        return self._look(clips, folder or assemble.prepared(self._config), self._machine.workers, title)

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

        return np.stack(self._shared(clips, assemble.prepared(self._config), do, self._machine.workers, title))

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
        place = folder or assemble.prepared(self._config)
        data = assemble.data(self._config, place, {}, self.vocabulary, self._machine, self._recognizer.inputs)
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
        place = folder or assemble.prepared(self._config)
        clips = [dataclasses.replace(clip, gloss=self.vocabulary[0]) for clip in clips]  # a clip's own is not looked at
        return self._shared(
            clips, place, lambda batch: self._recognizer.beams(batch, beams, length), self._machine.workers, title
        )

    def _look(self, clips: Sequence[Clip], folder: Path, workers: int = 0, title: str | None = None) -> Looked:
        def do(batch: Batch) -> list[tuple[NDArray[np.float32], ...]]:
            found = self._recognizer.look(batch)
            return list(zip(found.log_probability.cpu().numpy(), found.state.cpu().numpy(), strict=True))

        rows = self._shared(clips, folder, do, workers, title)
        return Looked(*(np.stack(part) for part in zip(*rows, strict=True)))

    def _shared(
        self,
        clips: Sequence[Clip],
        folder: Path,
        do: Callable[[Batch], Sequence[Value]],
        workers: int = 0,
        title: str | None = None,
    ) -> list[Value]:
        """What `do` makes of each clip of a batch, for all clips, whichever process has had them."""
        machine = dataclasses.replace(self._machine, workers=workers)
        data = assemble.data(self._config, folder, {}, self.vocabulary, machine, self._recognizer.inputs)
        own = each_batch(self._recognizer, data.ranking_dataloader(clips), machine, title, do)
        found: dict[int, Value] = {}
        for share, batches in zip(data.ranking_shares(len(clips)), processes.gather(own), strict=True):
            for numbers, values in zip(share, batches, strict=True):
                found |= zip(numbers, values, strict=True)
        return [found[number] for number in range(len(clips))]

    def _probabilities(self, looked: Looked, leniency: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Calibrated probabilities (n, K), and whether each clip is answered (n,)."""
        if self.calibration is None:
            return softmax(looked.log_probability.astype(np.float64), axis=1), np.ones(len(looked.state), bool)
        return self.calibration.probabilities(looked.log_probability), self.calibration.answers(looked.state, leniency)


def _files(given: Files) -> list[Path]:
    return [Path(given)] if isinstance(given, str | PathLike) else [Path(one) for one in given]


def _watched(clip: Clip) -> tuple[Path, int, float]:
    return Path(clip.source), clip.frames, clip.frames / clip.fps


def _demanded(answer: Answer | Refusal) -> Answer:
    """An answer.

    Raises:
        UserError: the file was refused.
    """
    if isinstance(answer, Refusal):
        raise UserError(f"expected a video at {answer.source}, found {answer.reason}: {answer.detail}")
    return answer
