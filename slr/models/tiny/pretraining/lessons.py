"""What the tiny model is pretrained on: clips of pretraining signs by pretraining signers, with everything known.

Nothing here comes from the data sets' side of slr.prepare.synthetic.signs: no combination, no name, no signer.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from multiprocessing import get_context

import numpy as np
from PIL import Image

from slr.models.tiny.pretraining.build import IMAGE_SIZE
from slr.prepare.synthetic.clip import Performance
from slr.prepare.synthetic.signer import Signer
from slr.prepare.synthetic.signs import HANDSHAPES, LOCATIONS, PATHS, Side, Sign, names, signer_seed, signs

CLIP_SIZE = 160
"""Pixels at which a clip is drawn before it is made small, as a prepared clip is."""
SIGNERS = 50_000
BLOCK = 1024
NAMED = 320
"""So many of the pretraining signs have a name; the others are only described."""
MOVEMENTS = tuple(movement for pair in PATHS.values() for movement in pair)
SHAPES = ("rest", *HANDSHAPES)


@cache
def lexicon() -> dict[Sign, str]:
    """The signs that are named in pretraining, and their names."""
    known = signs(Side.PRETRAINING)[:NAMED]
    return dict(zip(known, names(Side.PRETRAINING, NAMED), strict=True))


@cache
def curriculum() -> list[Sign]:
    """Every pretraining sign once and the named ones twice more, to draw from evenly."""
    return signs(Side.PRETRAINING) + 2 * list(lexicon())


@dataclass(frozen=True, slots=True)
class Lesson:
    """One clip and the truth about it. Positions are shares of the picture's width and height.

    pictures: uint8 (T, 3, 96, 96). palms: float32 (T, 2, 2), the dominant hand first. head: float32 (2,).
    shapes: int64 (T, 2) into SHAPES. raised: float32 (T,). signer: the seed.
    """

    sign: Sign
    signer: int
    pictures: np.ndarray
    palms: np.ndarray
    head: np.ndarray
    shapes: np.ndarray
    raised: np.ndarray


def draw_lesson(number: int, frames: int) -> Lesson:
    """The lesson of this number: sign, signer, take and the frames looked at, all from the number."""
    rng = np.random.default_rng([number, 3])
    sign = curriculum()[rng.integers(len(curriculum()))]
    signer = signer_seed(Side.PRETRAINING, int(rng.integers(SIGNERS)))
    performance = Performance(sign, Signer(signer), seed=number)
    within = rng.random(frames) if rng.random() < 0.5 else np.full(frames, 0.5)
    positions = np.floor((np.arange(frames) + within) * performance.frames / frames).astype(int)
    light = rng.uniform(0.8, 1.2, 3)
    quality = int(rng.integers(60, 96))
    pictures = [_film(performance.draw(int(i), CLIP_SIZE), light, quality) for i in positions]
    poses = [performance.pose(int(i)) for i in positions]
    raised = np.array([performance.moment(int(i)).raised for i in positions], dtype=np.float32)
    shape = np.where(raised > 0.4, SHAPES.index(sign.handshape), 0)
    other = shape if sign.hands == 2 else np.zeros_like(shape)
    return Lesson(
        sign=sign,
        signer=signer,
        pictures=np.stack(pictures).transpose(0, 3, 1, 2),
        palms=np.array([pose[:2] for pose in poses], dtype=np.float32),
        head=np.array(poses[0][2], dtype=np.float32),
        shapes=np.stack([shape, other], axis=1),
        raised=raised,
    )


def draw_lessons(first: int, number: int, frames: int, workers: int) -> Iterator[Lesson]:
    """Lessons first, first + 1, ... in order, drawn in other processes, at most a block or two ahead of their use."""
    blocks = [
        [(i, frames) for i in range(begin, min(begin + BLOCK, first + number))]
        for begin in range(first, first + number, BLOCK)
    ]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        drawn = pool.map(_draw_job, blocks[0], chunksize=16)
        for following in [*blocks[1:], []]:
            coming = pool.map(_draw_job, following, chunksize=16)
            yield from drawn
            drawn = coming


def attributes(sign: Sign) -> tuple[int, int, int, int]:
    """Numbers of handshape, location, movement and hands."""
    return (
        HANDSHAPES.index(sign.handshape),
        LOCATIONS.index(sign.location),
        MOVEMENTS.index(sign.movement),
        sign.hands - 1,
    )


def _draw_job(job: tuple[int, int]) -> Lesson:
    return draw_lesson(*job)


def _film(pixels: np.ndarray, light: np.ndarray, quality: int) -> np.ndarray:
    """Small as the model sees it; brightness, contrast and colour as augmentation changes them; a codec's softness."""
    small = Image.fromarray(pixels).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    brightness, contrast, saturation = light.astype(np.float32)
    seen = np.asarray(small, dtype=np.float32) * brightness
    grey = seen.mean(axis=2, keepdims=True)
    seen = (grey + saturation * (seen - grey) - grey.mean()) * contrast + grey.mean()
    file = BytesIO()
    Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
