"""`slr.load`: a trained recognizer, and its answers about a data set's clips and about a user's files."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
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
from slr.models.sign_model import SignModel
from slr.predict import calibration, sources
from slr.predict.bundle import Exported, is_exported, read_exported
from slr.predict.calibration import Calibration, Predictions
from slr.predict.predictor import ClipPredictor
from slr.predict.results import GeneratedText, Ranked, Ranking, Refusal, Scanned
from slr.predict.segmentation import Segment, cuts, lay, propose, stretches
from slr.predict.stream import look_at, watch

Files = str | PathLike[str] | Sequence[str | PathLike[str]]
GREEDY = Decoding()
LENIENCY = 1.25  # a sign cut out of a recording may be this much further from the training clips than a clip
Answer = TypeVar("Answer", Ranked, Scanned, GeneratedText)


def load(
    path: str | PathLike[str], checkpoint: str = "best", device: str | None = None, base: str | None = None
) -> "SignRecognizer":
    """The recognizer of a run, or one that `slr.export` has made of it.

    Args:
        path: the folder of either.
        checkpoint: of a run: best, last, or a path; `base` is the model before training.
        device: cpu or cuda; None is the device that a run was trained on, and the best that is here for an export.
        base: of an exported adapter: a folder or hub name of its base model, if the export's own cannot be reached.

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
    """A run's recognizer by a configuration, whose machine and quantization may differ from the run's own."""
    machine = factory.machine(config, device)
    model = SignModel(factory.network(config, machine), factory.inputs(config), vocabulary)
    if config.lora.scope != "none" and checkpoint != "base":  # an untrained adapter changes nothing
        model.restore(folder.checkpoint(checkpoint))
    fitted = calibration.read(folder.calibration) if checkpoint == "best" else None
    return SignRecognizer(model, config, machine, fitted)


def _from_export(exported: Exported, device: str | None, base: str | None) -> "SignRecognizer":
    config, merged = exported.config, exported.kind == "merged"
    machine = factory.machine(config, device or hardware.pick())
    own = config.model
    if merged or base:  # another place, where the hub's revision and commit mean nothing
        place = str(exported.root) if merged else str(base)
        own = dataclasses.replace(own, checkpoint=place, revision=None, commit=None)
    pointed = dataclasses.replace(config, model=own)
    if not merged:
        model = dataclasses.replace(config.model, commit=own.commit)
        refuse_other_base(model, exported.hashes, factory.base_of(pointed), str(exported.root))
    inputs = load_inputs(str(exported.processor), None)
    model = SignModel(factory.network(pointed, machine), inputs, exported.vocabulary)
    if not merged:
        lora.load_exported(model.network, exported.root / lora.ADAPTER_WEIGHTS)
    return SignRecognizer(model, config, machine, calibration.read(exported.root / calibration.FILE))


class SignRecognizer(ClipPredictor):
    """Names the sign in a clip, finds the signs of a recording, and writes free text.

    Files may be anything that PyAV or PIL can read; child processes with limits prepare them first, as for training. A
    clip of a prepared data set is used as it is.

    Attributes:
        calibration: temperature and threshold learned from the run's own clips; None: probabilities are uncalibrated,
            and every clip is answered.
    """

    def __init__(
        self, model: SignModel, config: schema.Config, machine: Machine, calibration: Calibration | None = None
    ) -> None:
        """Made by `load`."""
        super().__init__(model, config, machine)
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
            UserError: a file that cannot be read as a video.
        """
        rankings = [_required(answer).ranking for answer in self.answers(_files(clip), top)]
        return rankings[0] if isinstance(clip, str | PathLike) else rankings

    def answers(self, files: Sequence[Path], top: int = 5) -> Iterator[Ranked | Refusal]:
        """As `rank`, file by file, with length and whether the sign is known; an unreadable file gives a `Refusal`.

        Raises:
            UserError: `top` below 1.
        """
        if top < 1:
            raise UserError(f"top={top}: expected at least 1")

        def ranked(clips: list[Clip], folder: Path) -> Iterator[Ranked]:
            output = self.look_clips(clips, folder=folder)
            order = np.argsort(-output.log_probability, axis=1, kind="stable")[:, :top]
            for clip, row, known, best in zip(clips, *self._probabilities(output), order.tolist(), strict=True):
                yield Ranked(*_facts(clip), [(self.vocabulary[n], float(row[n])) for n in best], bool(known))

        return self._each(files, ranked)

    def scan(
        self, recording: str | PathLike[str], window: float | None = None, stride: float | None = None
    ) -> list[Segment]:
        """The signs of a long recording in the order of time: start and end in seconds, gloss and probability.

        Args:
            recording: a file of at most two hours.
            window: seconds that are ranked together; None is the median duration of a training clip.
            stride: seconds from one window to the next; None is a quarter of the window.

        Raises:
            UserError: the file cannot be read, or a window or stride is not above 0.
        """
        [answer] = self.scans(_files(recording), window, stride)
        return list(_required(answer).segments)

    def scans(
        self, files: Sequence[Path], window: float | None = None, stride: float | None = None
    ) -> Iterator[Scanned | Refusal]:
        """As `scan`, file by file; an unreadable file gives a `Refusal`."""
        window = self.usual_seconds() if window is None else window
        stride = window / 4 if stride is None else stride
        if not 0 < stride <= window < sources.HOURS:
            raise UserError(f"window={window:g} stride={stride:g}: expected seconds above 0, the stride no longer")

        def scanned(clips: list[Clip], folder: Path) -> list[Scanned]:
            return [Scanned(*_facts(clip), self._scan(clip, folder, window, stride)) for clip in clips]

        return self._each(files, scanned, sources.HOURS, at_once=1)

    def _scan(self, clip: Clip, folder: Path, window: float, stride: float) -> list[Segment]:
        path, prompt, count = folder / clip.file, self._config.model.prompt, self._config.frames
        windows = lay(clip.frames, clip.fps, count, window, stride)
        output, moved = watch(self._model, self._machine, path, windows, prompt)
        spans = propose(windows, self._probabilities(output)[0], stretches(moved, clip.fps))
        if not spans:
            return []
        parts = cuts(spans, clip.frames, clip.fps)
        positions = [start + video.sample_positions(end - start, count, "uniform") for start, end in parts]
        again = look_at(self._model, self._machine, path, np.stack(positions), prompt)
        probabilities, known = self._probabilities(again, LENIENCY)
        return [
            Segment(start / clip.fps, end / clip.fps, self.vocabulary[row.argmax()], float(row.max()))
            for (start, end), row, answered in zip(spans, probabilities, known, strict=True)
            if answered
        ]

    def usual_seconds(self) -> float:
        """The median duration of a training clip; 2 seconds without a calibration, which would know."""
        return self.calibration.seconds if self.calibration else 2.0

    @overload
    def generate(self, clip: str | PathLike[str], prompt: str | None = None, decoding: Decoding = ...) -> str: ...

    @overload
    def generate(
        self, clip: Sequence[str | PathLike[str]], prompt: str | None = None, decoding: Decoding = ...
    ) -> list[str]: ...

    def generate(self, clip: Files, prompt: str | None = None, decoding: Decoding = GREEDY) -> str | list[str]:
        """What the model writes about a clip, not limited to the vocabulary; of several clips, a list.

        Args:
            clip: a file, or several, which are batched.
            prompt: the question; None is the run's.
            decoding: how words are chosen.

        Raises:
            UserError: a file that cannot be read as a video, or a prompt with a special token.
        """
        texts = [_required(answer).text for answer in self.texts(_files(clip), prompt, decoding)]
        return texts[0] if isinstance(clip, str | PathLike) else texts

    def texts(
        self, files: Sequence[Path], prompt: str | None = None, decoding: Decoding = GREEDY
    ) -> Iterator[GeneratedText | Refusal]:
        """As `generate`, file by file; an unreadable file gives a `Refusal`."""

        def written(clips: list[Clip], folder: Path) -> list[GeneratedText]:
            asked, model = [dataclasses.replace(clip, prompt=prompt) for clip in clips], self._model
            texts = self.shared(asked, lambda batch: model.generate(batch, decoding), folder=folder)
            return [GeneratedText(*_facts(clip), text) for clip, text in zip(clips, texts, strict=True)]

        return self._each(files, written)

    def _each(
        self,
        files: Sequence[Path],
        answer: Callable[[list[Clip], Path], Sequence[Answer] | Iterator[Answer]],
        longest: float = sources.LONGEST,
        at_once: int = sources.AT_ONCE,
    ) -> Iterator[Answer | Refusal]:
        """For each file, in order, its answer or why there is none; `answer` gets the clips of some files together."""
        for folder, made in sources.clips(files, longest, at_once):
            clips = [clip for clip in made if isinstance(clip, Clip)]
            answers = iter(answer(clips, folder) if clips else ())
            for outcome in made:
                yield outcome if isinstance(outcome, Refusal) else next(answers)

    def _probabilities(
        self, output: Predictions, leniency: float = 1.0
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Calibrated probabilities (n, K), and whether each clip is answered (n,)."""
        if self.calibration is None:
            return softmax(output.log_probability.astype(np.float64), axis=1), np.ones(len(output.state), bool)
        return self.calibration.probabilities(output.log_probability), self.calibration.answers(output.state, leniency)


def _files(paths: Files) -> list[Path]:
    return [Path(paths)] if isinstance(paths, str | PathLike) else [Path(path) for path in paths]


def _facts(clip: Clip) -> tuple[Path, int, float]:
    return Path(clip.source), clip.frames, clip.frames / clip.fps


def _required(answer: Answer | Refusal) -> Answer:
    """The answer; raises UserError for a refused file."""
    if isinstance(answer, Refusal):
        raise UserError(f"expected a video at {answer.source}, found {answer.reason}: {answer.detail}")
    return answer
