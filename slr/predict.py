"""A trained recognizer at work: `slr.load`, rankings of a clip, of a part, of a file that someone brings."""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm import tqdm

from slr import assemble, processes, schema
from slr.data import video
from slr.data.collate import collate_ranking
from slr.data.manifest import Clip, read_manifest
from slr.errors import UserError
from slr.hardware import Machine
from slr.prepare.verify import Job, Prepared, prepare_clips
from slr.recognizer import Recognizer
from slr.report.evaluation import ranking
from slr.report.pictures import Seen
from slr.run import open_run
from slr.saliency import occlusion

LogProbability = NDArray[np.float32]


def load(path: str | PathLike[str], checkpoint: str = "best", device: str | None = None) -> "SignRecognizer":
    """A run's recognizer.

    Args:
        path: the run's folder.
        checkpoint: best, last, or a path.
        device: cpu or cuda; None is the device that the run was trained on.

    Raises:
        UserError: `path` is no run, or the checkpoint or the device is not there.

    Example:
        `slr.load("outputs/…").rank("hello.mp4", top=5)` gives `[(gloss, probability), …]`, best first.
    """
    folder, config, vocabulary = open_run(Path(path))
    machine = assemble.machine(config, device)
    inputs = assemble.inputs(config)
    recognizer = assemble.recognizer(config, vocabulary, machine, inputs)
    if config.lora.scope != "none":
        recognizer.restore(folder.checkpoint(checkpoint))
    return SignRecognizer(recognizer, config, machine)


def log_probabilities(
    recognizer: Recognizer, loader: DataLoader, machine: Machine, title: str | None
) -> LogProbability:
    """Rank every clip of `loader`: float32 (n, K), in the loader's order; `title` heads a progress bar."""
    recognizer.to(machine.device).eval()
    rows = []
    with machine.autocast():
        for batch in tqdm(loader, desc=title, unit="batch", disable=title is None, dynamic_ncols=True):
            moved = recognizer.transfer_batch_to_device(batch, torch.device(machine.device), 0)
            rows.append(recognizer.rank(moved).cpu())
    return torch.cat(rows).numpy()


class SignRecognizer:
    """Names the sign in a clip.

    Attributes:
        vocabulary: the K ordered glosses that it ranks.
    """

    def __init__(self, recognizer: Recognizer, config: schema.Config, machine: Machine) -> None:
        """Made by `load`."""
        self.vocabulary = recognizer.vocabulary
        self._recognizer = recognizer
        self._config = config
        self._machine = machine

    def rank(self, clip: str | PathLike[str], top: int = 5) -> list[tuple[str, float]]:
        """The `top` likeliest glosses of a clip with their probabilities, best first.

        A clip of a prepared data set is read as it is; any other file is prepared first, as training's were.

        Args:
            clip: a video file.
            top: how many, at least one; all where it exceeds the vocabulary.

        Raises:
            UserError: the file is no video that could be prepared.
        """
        if top < 1:
            raise UserError(f"top={top}: expected at least 1")
        path = Path(clip).expanduser().absolute()
        known = _prepared_clip(path)
        if known is not None:
            rows = self._rank([dataclasses.replace(known, gloss=self.vocabulary[0])], path.parents[1])
        else:
            with tempfile.TemporaryDirectory() as folder:
                rows = self._rank([_prepare(path, Path(folder), self.vocabulary[0])], Path(folder))
        return [(row["gloss"], row["probability"]) for row in ranking(self.vocabulary, rows[0])[:top]]

    def rank_clips(self, clips: Sequence[Clip], title: str, folder: Path | None = None) -> LogProbability:
        """Log-probabilities of every gloss for clips of a prepared data set: float32 (n, K).

        Several processes share the work, and each gets the whole.

        Args:
            clips: n rows of its manifest, whose glosses need not be in the vocabulary.
            title: heads the progress bar.
            folder: of the data set; None is the run's own.
        """
        known, any_gloss = set(self.vocabulary), self.vocabulary[0]  # a clip's own is not looked at
        clips = [clip if clip.gloss in known else dataclasses.replace(clip, gloss=any_gloss) for clip in clips]
        return self._rank(clips, folder or assemble.prepared(self._config), self._machine.workers, title)

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

    def _rank(self, clips: Sequence[Clip], folder: Path, workers: int = 0, title: str | None = None) -> LogProbability:
        machine = dataclasses.replace(self._machine, workers=workers)
        data = assemble.data(self._config, folder, {}, self.vocabulary, machine, self._recognizer.inputs)
        own = log_probabilities(self._recognizer, data.ranking_dataloader(clips), machine, title)
        ranked = np.empty((len(clips), len(self.vocabulary)), np.float32)
        for share, rows in zip(data.ranking_shares(len(clips)), processes.gather(own), strict=True):
            ranked[[number for batch in share for number in batch]] = rows
        return ranked


def _prepared_clip(path: Path) -> Clip | None:
    """The manifest's row of a file that lies in a prepared data set."""
    if len(path.parents) < 2 or not (path.parents[1] / "manifest.jsonl").is_file():
        return None
    rows = read_manifest(path.parents[1] / "manifest.jsonl")
    return next((row for row in rows if path.parents[1] / row.file == path), None)


def _prepare(source: Path, folder: Path, gloss: str) -> Clip:
    """Someone's file as training's clips were made, in `folder`; `gloss` only fills the row."""
    if not source.is_file():
        raise UserError(f"expected a video at {source}, found no file there")
    [(_, outcome)] = prepare_clips([Job(source, folder / "clip.mp4")], workers=1)
    if not isinstance(outcome, Prepared):
        raise UserError(f"expected a video at {source}, found {outcome.reason}: {outcome.detail}")
    facts = dataclasses.asdict(outcome.facts)
    return Clip(
        id="clip",
        file="clip.mp4",
        gloss=gloss,
        source=str(source),
        source_sha256=outcome.source_sha256,
        signer=None,
        official_part=None,
        prompt=None,
        **facts,
    )
