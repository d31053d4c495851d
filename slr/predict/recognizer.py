"""A trained recognizer at work: `slr.load`, and what it says of a data set's clips and of files that someone brings."""

import dataclasses
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from slr import factory
from slr.config import schema
from slr.config.provenance import refuse_other_base
from slr.config.saved_run import open_run
from slr.core import hardware
from slr.core.errors import UserError
from slr.core.hardware import Machine
from slr.core.run_folder import RunFolder, hashes_of
from slr.data import video
from slr.data.manifest import Clip
from slr.models import lora
from slr.models.generation import Decoding
from slr.models.processor import load_inputs
from slr.predict import calibration, sources
from slr.predict.bundle import Exported, is_exported, read_exported
from slr.predict.calibration import Calibration, Predictions
from slr.predict.predictor import ClipPredictor
from slr.predict.results import GeneratedText, Ranked, Ranking, Refusal, Scanned
from slr.predict.segmentation import Segment, cuts, lay, propose, stretches
from slr.predict.stream import look_at, watch
from slr.training import assemble
from slr.training.module import SignModule

LogProbability = NDArray[np.float32]
Files = str | PathLike[str] | Sequence[str | PathLike[str]]
GREEDY = Decoding()
LENIENCY = 1.25  # what is cut out of a recording may be this much stranger than a clip that is answered
Value = TypeVar("Value")
Answer = TypeVar("Answer", Ranked, Scanned, GeneratedText)


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
        UserError: `path` is neither, or the checkpoint, the device or the base model is not there, or the base model
            is another one.

    Example:
        `slr.load("outputs/…").rank("hello.mp4", top=5)` gives `[(gloss, probability), …]`, best first.
    """
    place = Path(path).expanduser()
    if is_exported(place):
        return _from_export(read_exported(place), device, base)
    folder, config, vocabulary = open_run(place)
    refuse_other_base(config.model, hashes_of(folder), factory.base_of(config), str(path))
    return assembled(folder, config, vocabulary, checkpoint, device)


def assembled(
    folder: RunFolder,
    config: schema.Config,
    vocabulary: Sequence[str],
    checkpoint: str = "best",
    device: str | None = None,
) -> "SignRecognizer":
    """A run's recognizer as a configuration has it, which may differ from the run's own in machine and quantization."""
    machine = factory.machine(config, device)
    recognizer = assemble.recognizer(config, vocabulary, machine, factory.inputs(config))
    if config.lora.scope != "none" and checkpoint != "base":  # an adapter that nobody trained changes nothing
        recognizer.restore(folder.checkpoint(checkpoint))
    learned = calibration.read(folder.calibration) if checkpoint == "best" else None
    return SignRecognizer(recognizer, config, machine, learned)


def _from_export(exported: Exported, device: str | None, base: str | None) -> "SignRecognizer":
    config, merged = exported.config, exported.kind == "merged"
    machine = factory.machine(config, device or hardware.pick())
    inputs = load_inputs(str(exported.processor), None)
    model = config.model
    if merged or base:  # whose commits, if it has any, are others
        place = str(exported.root) if merged else str(base)
        model = dataclasses.replace(model, checkpoint=place, revision=None, commit=None)
    pointed = dataclasses.replace(config, model=model)
    if not merged:
        own = dataclasses.replace(config.model, commit=model.commit)  # which says nothing of another place
        refuse_other_base(own, exported.hashes, factory.base_of(pointed), str(exported.root))
    recognizer = assemble.recognizer(pointed, exported.vocabulary, machine, inputs)
    if not merged:
        lora.load_exported(recognizer.network, exported.adapter)
    return SignRecognizer(recognizer, config, machine, calibration.read(exported.calibration))


class SignRecognizer(ClipPredictor):
    """Names the sign in a clip, finds the signs of a recording, and writes what the model would say.

    Files may be anything that PyAV or PIL can read; they are prepared first, as training's were, in processes that can
    be ended. A clip of a prepared data set is taken as it is.

    Attributes:
        calibration: what the run's validation part has taught of its probabilities; None: they are taken as they are,
            and every clip is answered.
    """

    def __init__(
        self, recognizer: SignModule, config: schema.Config, machine: Machine, calibration: Calibration | None = None
    ) -> None:
        """Made by `load`."""
        super().__init__(recognizer, config, machine)
        self.calibration = calibration

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
        for folder, made in sources.clips(files, self.vocabulary[0]):
            clips = [one for one in made if isinstance(one, Clip)]
            told = iter(self._ranked(clips, folder, top) if clips else [])
            for one in made:
                yield one if isinstance(one, Refusal) else Ranked(*_watched(one), *next(told))

    def _ranked(self, clips: Sequence[Clip], folder: Path, top: int) -> list[tuple[Ranking, bool]]:
        """The best glosses of each clip, and whether it is answered."""
        looked = self.look(clips, folder)
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
        if not 0 < stride <= window < sources.HOURS:
            raise UserError(f"window={window:g} stride={stride:g}: expected seconds above 0, the stride no longer")
        for folder, [one] in sources.clips(files, self.vocabulary[0], sources.HOURS, at_once=1):
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
    ) -> Iterator[GeneratedText | Refusal]:
        """As `generate`, one after the other; an unfit file is told and passed over."""
        for folder, made in sources.clips(files, self.vocabulary[0]):
            clips = [dataclasses.replace(one, prompt=prompt) for one in made if isinstance(one, Clip)]
            found = iter(self.shared(clips, folder, lambda batch: self._recognizer.generate(batch, decoding)))
            for one in made:
                yield one if isinstance(one, Refusal) else GeneratedText(*_watched(one), next(found))

    def _probabilities(
        self, looked: Predictions, leniency: float = 1.0
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
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
