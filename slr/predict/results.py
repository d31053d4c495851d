"""Answers about a file: as lines for a person, as JSON for a program."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slr.core.units import counted
from slr.predict.segmentation import Segment

Ranking = list[tuple[str, float]]  # glosses with their probabilities, best first


@dataclass(frozen=True)
class Refusal:
    """A file that could not be read as a video."""

    source: Path
    reason: str  # a code
    detail: str  # a sentence

    def lines(self) -> list[str]:
        """One line."""
        return [f"{self.source}: skipped: {self.reason}: {self.detail}"]

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {"video": str(self.source), "error": self.reason, "detail": self.detail}


@dataclass(frozen=True)
class Watched:
    """A file that could be read."""

    source: Path
    frames: int  # at 25 a second; one is a still picture
    seconds: float

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {"video": str(self.source), "frames": self.frames, "seconds": round(self.seconds, 3)}

    @property
    def title(self) -> str:
        """The file and its duration."""
        return f"{self.source}  {'still picture' if self.frames == 1 else f'{self.seconds:.1f} s'}"


@dataclass(frozen=True)
class Ranked(Watched):
    """The best glosses of a clip of one sign."""

    ranking: Ranking
    known: bool  # False: the sign is not of the vocabulary, or too unlike the training clips

    def lines(self) -> list[str]:
        """A title and a table."""
        title = self.title if self.known else f"{self.title}  unknown; nearest:"
        return [title, *_table([f"{place:>3}" for place in range(1, len(self.ranking) + 1)], self.ranking)]

    def row(self) -> dict[str, Any]:
        """For JSON; `gloss` is null where the sign is unknown."""
        rows = [{"gloss": gloss, "probability": probability} for gloss, probability in self.ranking]
        return super().row() | {"gloss": self.ranking[0][0] if self.known else None, "ranking": rows}


@dataclass(frozen=True)
class Scanned(Watched):
    """The signs of a recording."""

    segments: Sequence[Segment]

    def lines(self) -> list[str]:
        """A title and a table."""
        spans = [f"{segment.start:>8.2f} – {segment.end:7.2f} s" for segment in self.segments]
        named = [(segment.gloss, segment.probability) for segment in self.segments]
        return [f"{self.title}  {counted(len(self.segments), 'sign')}", *_table(spans, named)]

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return super().row() | {"segments": [asdict(segment) for segment in self.segments]}


@dataclass(frozen=True)
class GeneratedText(Watched):
    """A model's free text about a clip."""

    text: str

    def lines(self) -> list[str]:
        """One line, whatever the text."""
        return [f"{self.title}  {' '.join(self.text.split())}"]

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return super().row() | {"text": self.text}


def _table(heads: Sequence[str], named: Ranking) -> list[str]:
    width = max((len(gloss) for gloss, _ in named), default=0)
    return [
        f"{head}  {gloss:<{width}}  {probability:.3f}" for head, (gloss, probability) in zip(heads, named, strict=True)
    ]


@dataclass(frozen=True)
class Seen:
    """The frames that a model saw of a clip, and which of them decided."""

    frames: NDArray[np.uint8]  # (T, H, W, 3), those that were sampled
    seconds: Sequence[float]  # T moments from the clip's beginning
    weights: Mapping[str, Sequence[float]]  # gloss -> nats by which each frame speaks for it: `slr.predict.saliency`
