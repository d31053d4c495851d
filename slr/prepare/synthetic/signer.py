"""A drawn person: looks, proportions, habits, and the camera before them, all from one seed."""

import numpy as np

from slr.prepare.synthetic.motion import Point

Colour = tuple[int, int, int]
_SKINS = ((246, 212, 182), (231, 180, 143), (205, 148, 108), (164, 108, 72), (120, 76, 50), (88, 56, 40))
_HAIRS = ((30, 24, 20), (72, 46, 28), (120, 78, 40), (196, 160, 92), (150, 60, 30), (150, 150, 150))


class Signer:
    """A person and the camera before them, the same ones for the same seed. About one in eight is left-handed.

    Lengths are in picture heights, angles in radians.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        self.skin: Colour = _SKINS[rng.integers(len(_SKINS))]
        self.clothes = _colour_apart_from(rng, self.skin, 100, warm=0.35)
        self.hair: Colour = _HAIRS[rng.integers(len(_HAIRS))]
        self.wall = _colour_apart_from(rng, self.skin, 70, warm=0.65)
        self.hair_style = int(rng.integers(3))
        self.short_sleeves = bool(rng.random() < 0.4)
        self.left_handed = bool(rng.random() < 0.125)
        self.shoulders = rng.uniform(0.135, 0.175)
        self.arm = rng.uniform(0.225, 0.25)
        self.hand = rng.uniform(0.05, 0.058)
        self.head = (rng.uniform(0.068, 0.082), rng.uniform(0.094, 0.108))
        self.tempo = rng.uniform(0.85, 1.2)
        self.breadth = rng.uniform(0.9, 1.15)
        self.lean = rng.uniform(-0.2, 0.35)
        self.scale = rng.uniform(0.78, 1.06)
        self.shift = Point(rng.uniform(-0.11, 0.11), rng.uniform(-0.05, 0.09))
        self.tilt = rng.uniform(-0.1, 0.1)
        self.room = int(rng.integers(2**31))
        # The light's colour and the camera's white balance, by channel.
        self.white = (rng.uniform(0.8, 1.15), rng.uniform(0.85, 1.1), rng.uniform(0.8, 1.15))


def _colour_apart_from(rng: np.random.Generator, other: Colour, distance: float, warm: float) -> Colour:
    """A colour that the hand stands out from; of wood, sand or linen with probability `warm`.

    Were skin alone warm, its hue would tell a linear model where the hands are.
    """
    while True:
        vivid = rng.uniform(15, 245, 3)
        colour = vivid.mean() + rng.uniform(0.2, 0.7) * (vivid - vivid.mean())
        if rng.random() < warm:
            colour = np.array(_SKINS[rng.integers(len(_SKINS))]) * rng.uniform(0.5, 1.1) + rng.normal(0, 12, 3)
            colour = np.clip(colour, 10, 250)
        if np.linalg.norm(colour - other) > distance and abs(colour.mean() - np.mean(other)) > distance / 3:
            return round(colour[0]), round(colour[1]), round(colour[2])
