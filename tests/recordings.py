"""Long recordings of drawn signers who rest between their signs, as real video files, and what is signed when."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slr.prepare.encode import write_clip
from slr.prepare.synthetic.clip import FPS, Performance
from slr.prepare.synthetic.motion import Moment
from slr.prepare.synthetic.prepare import vocabulary
from slr.prepare.synthetic.signer import Signer
from slr.prepare.synthetic.signs import Side, signer_seed

UNSEEN = 5000  # the number of the first signer; a demo draws those below 64
PAUSE = (0.4, 1.6)  # seconds


@dataclass(frozen=True)
class Signed:
    """One sign of a recording, from when the hands leave their rest until they are back, in seconds."""

    gloss: str
    start: float
    end: float

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2


class Resting(Performance):
    """A signer who makes no sign."""

    def moment(self, frame: int) -> Moment:
        return Moment(0.0, 0.0)


def record(path: Path, signs: int, signers: int, seconds: float, seed: int, size: int = 160) -> list[Signed]:
    """Write a recording in which each of `signers` has an equal share of the time; returns what is signed in it.

    Args:
        path: of the mp4 file.
        signs: of the demo's vocabulary, in an order that the seed draws.
    """
    signed: list[Signed] = []
    write_clip(path, _pictures(signed, signs, signers, seconds, seed, size))
    return signed


def _pictures(
    signed: list[Signed], signs: int, signers: int, seconds: float, seed: int, size: int
) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    glosses, count = vocabulary(signs), 0
    for number in range(signers):
        signer = Signer(signer_seed(Side.DATA_SET, UNSEEN + 10 * seed + number))
        while count < (number + 1) / signers * seconds * FPS:
            gloss = str(rng.choice(list(glosses)))
            performance = Performance(glosses[gloss], signer, seed=int(rng.integers(2**31)))
            timing = performance.timing
            start = count / FPS + timing.before
            end = start + timing.approach + timing.movement + timing.retreat
            signed.append(Signed(gloss, start, end))
            yield from (performance.draw(frame, size) for frame in range(performance.frames))
            pause = list(_pause(performance, signer, float(rng.uniform(*PAUSE)), rng, size))
            yield from pause
            count += performance.frames + len(pause)


def _pause(
    before: Performance, signer: Signer, seconds: float, rng: np.random.Generator, size: int
) -> Iterator[np.ndarray]:
    """The signer at rest."""
    left = round(seconds * FPS)
    while left > 0:
        rest = Resting(before.sign, signer, seed=int(rng.integers(2**31)))
        frames = min(left, rest.frames)
        yield from (rest.draw(frame, size) for frame in range(frames))
        left -= frames
