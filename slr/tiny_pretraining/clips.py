"""What the tiny model is pretrained on: clips of pretraining signs by pretraining signers, with their labels.

Nothing here comes from the data sets' side of slr.prepare.synthetic.signs: no combination, no name, no signer.
"""

from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from slr.prepare.synthetic.clip import Performance
from slr.prepare.synthetic.signer import Signer
from slr.prepare.synthetic.signs import HANDSHAPES, LOCATIONS, PATHS, Side, Sign, names, signer_seed, signs

IMAGE_SIZE = 96  # of the model's frames, in pixels
CLIP_SIZE = 160  # pixels at which a clip is drawn before it is made small, as a prepared clip is
SIGNERS = 50_000
NAMED = 320  # pretraining signs that have a name; the others are only described
MOVEMENTS = tuple(movement for pair in PATHS.values() for movement in pair)
SHAPES = ("rest", *HANDSHAPES)


@cache
def lexicon() -> dict[Sign, str]:
    """The signs that are named in pretraining, and their names."""
    return dict(zip(signs(Side.PRETRAINING)[:NAMED], names(Side.PRETRAINING, NAMED), strict=True))


@cache
def curriculum() -> list[Sign]:
    """Every pretraining sign once and the named ones twice more, to draw from evenly."""
    return signs(Side.PRETRAINING) + 2 * list(lexicon())


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """One clip and its labels. Positions are shares of the picture's width and height.

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


def draw_clip(number: int, frames: int) -> LabelledClip:
    """The clip of this number: sign, signer, take and the sampled frames all follow from the number."""
    rng = np.random.default_rng([number, 3])
    sign = curriculum()[rng.integers(len(curriculum()))]
    signer = signer_seed(Side.PRETRAINING, int(rng.integers(SIGNERS)))
    performance = Performance(sign, Signer(signer), seed=number)
    within = rng.random(frames) if rng.random() < 0.5 else np.full(frames, 0.5)
    positions = np.floor((np.arange(frames) + within) * performance.frames / frames).astype(int).tolist()
    light = rng.uniform(0.8, 1.2, 3)
    quality = int(rng.integers(60, 96))
    poses = [performance.pose(i) for i in positions]
    raised = np.array([performance.moment(i).raised for i in positions], dtype=np.float32)
    shape = np.where(raised > 0.4, SHAPES.index(sign.handshape), 0)
    other = shape if sign.hands == 2 else np.zeros_like(shape)
    pictures = [_as_filmed(performance.draw(i, CLIP_SIZE), light, quality) for i in positions]
    return LabelledClip(
        sign=sign,
        signer=signer,
        pictures=np.stack(pictures).transpose(0, 3, 1, 2),
        palms=np.array([pose[:2] for pose in poses], dtype=np.float32),
        head=np.array(poses[0][2], dtype=np.float32),
        shapes=np.stack([shape, other], axis=1),
        raised=raised,
    )


def draw_batches(first: int, number: int, frames: int, workers: int, size: int) -> "DataLoader[list[LabelledClip]]":
    """Clips first, first + 1, ... in batches of `size`, the last one of what is left, drawn in other processes."""
    return DataLoader(
        range(first, first + number),  # pyright: ignore[reportArgumentType]
        batch_size=size,
        num_workers=workers,
        collate_fn=partial(_draw_batch, frames=frames),
        multiprocessing_context="spawn",
        generator=torch.Generator(),  # otherwise it draws a number from the global one, as first weights do
    )


def _draw_batch(numbers: list[int], frames: int) -> list[LabelledClip]:
    return [draw_clip(number, frames) for number in numbers]


def attributes(sign: Sign) -> tuple[int, int, int, int]:
    """Numbers of handshape, location, movement and hands."""
    return (
        HANDSHAPES.index(sign.handshape),
        LOCATIONS.index(sign.location),
        MOVEMENTS.index(sign.movement),
        sign.hands - 1,
    )


def _as_filmed(pixels: np.ndarray, light: np.ndarray, quality: int) -> np.ndarray:
    """At the model's size, with other brightness, contrast and saturation, and softened by a codec."""
    small = Image.fromarray(pixels).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    brightness, contrast, saturation = light.astype(np.float32)
    lit = np.asarray(small, dtype=np.float32) * brightness
    grey = lit.mean(axis=2, keepdims=True)
    lit = (grey + saturation * (lit - grey) - grey.mean()) * contrast + grey.mean()
    file = BytesIO()
    Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
