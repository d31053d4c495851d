"""Strokes of Pillow: a room, a body, an arm with a bent elbow, a hand with its shape."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import cos, hypot, pi, sin, sqrt

import numpy as np
from PIL import ImageDraw

from slr.prepare.synthetic.motion import HEAD, Point
from slr.prepare.synthetic.signer import Colour, Signer

Stroke = tuple[float, Sequence[tuple[float, float]]]  # width and points of a line with round ends; one point is a dot

# Handshape to its skin and its creases. Origin at the palm's middle, x to the thumb, y to the fingers' tips, unit = the
# palm's radius.
HANDS: dict[str, tuple[Sequence[Stroke], Sequence[Stroke]]] = {
    "rest": ([(1.8, [(0, 0)]), (1.4, [(0, 0.2), (0, 1.6)])], []),
    "fist": (
        [(2.2, [(0, 0.1)]), (1.9, [(-0.25, 0.35), (0.25, 0.35)])],
        [(0.2, [(x, 0.45), (x, 1.1)]) for x in (-0.5, 0.0, 0.5)] + [(0.25, [(-0.3, -0.1), (0.9, 0.1)])],
    ),
    "flat": (
        [
            (1.9, [(0, 0)]),
            *((0.75, [(x, 0.4), (x, 2.4)]) for x in (-0.75, -0.25, 0.25, 0.7)),
            (0.6, [(0.8, -0.3), (1.2, 0.8)]),
        ],
        [(0.16, [(x, 0.8), (x, 2.4)]) for x in (-0.5, 0.0, 0.5)],
    ),
    "point": ([(2.0, [(0, 0)]), (0.7, [(0.35, 0.4), (0.35, 2.8)])], [(0.25, [(-0.5, 0.1), (0.8, 0.1)])]),
    "vee": (
        [(2.0, [(0, 0)]), (0.64, [(0.4, 0.6), (0.95, 2.7)]), (0.64, [(-0.2, 0.6), (-0.75, 2.7)])],
        [(0.25, [(-0.5, 0.1), (0.8, 0.1)])],
    ),
    "spread": (
        [
            (1.9, [(0, 0)]),
            (0.56, [(0.6, 0.0), (2.0, 0.8)]),
            (0.54, [(0.6, 0.6), (1.25, 2.4)]),
            (0.54, [(0.2, 0.8), (0.3, 2.75)]),
            (0.54, [(-0.25, 0.8), (-0.65, 2.55)]),
            (0.5, [(-0.6, 0.6), (-1.55, 1.95)]),
        ],
        [],
    ),
    "ring": (
        [(1.5, [(0, -0.4)]), (0.75, [(1.15 * sin(i * pi / 8), 0.9 - 1.15 * cos(i * pi / 8)) for i in range(17)])],
        [],
    ),
    "ell": ([(2.0, [(0, 0)]), (0.68, [(0.45, 0.4), (0.45, 2.8)]), (0.68, [(0.4, -0.3), (2.3, -0.3)])], []),
    "wye": (
        [(2.0, [(0, 0)]), (0.68, [(0.5, 0.1), (2.2, 1.1)]), (0.62, [(-0.5, 0.2), (-2.0, 1.5)])],
        [(0.2, [(x, 0.3), (x, 0.9)]) for x in (-0.35, 0.0, 0.35)],
    ),
}


@dataclass(frozen=True, slots=True)
class Brush:
    """Draws in stage coordinates onto a picture of `size` pixels through the camera's view."""

    draw: ImageDraw.ImageDraw
    size: int
    scale: float
    seen: Callable[[Point], Point]

    def at(self, point: Point) -> tuple[float, float]:
        """The pixel that a point of the stage falls on."""
        x, y = self.seen(point)
        return x * self.size, y * self.size

    def stroke(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A line with round ends."""
        pixels = [self.at(point) for point in points]
        thick = max(width * self.scale * self.size, 1.0)
        if len(pixels) > 1:
            self.draw.line(pixels, fill=colour, width=round(thick), joint="curve")
        for x, y in (pixels[0], pixels[-1]):
            self.draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=colour)

    def patch(self, points: Sequence[Point], colour: Colour) -> None:
        """A filled polygon."""
        self.draw.polygon([self.at(point) for point in points], fill=colour)

    def oval(
        self, centre: Point, radii: tuple[float, float], colour: Colour, part: tuple[float, float] = (0, 1)
    ) -> None:
        """A filled ellipse, or the slice of it between two shares of a turn (0 = right, clockwise)."""
        turns = np.linspace(part[0], part[1], 40) * 2 * pi
        self.patch([Point(centre.x + radii[0] * cos(a), centre.y + radii[1] * sin(a)) for a in turns], colour)


def shade(colour: Colour, factor: float) -> Colour:
    """The colour, darker (factor below 1) or lighter."""
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue


@lru_cache(maxsize=4)
def noise_tile(size: int) -> np.ndarray:
    """Grey noise of standard deviation 1, larger than a picture so that each frame can use another part: float32."""
    tile = np.random.default_rng(7).normal(0, 1, (size + 64, size + 64, 1))
    return tile.astype(np.float32)


def draw_room(brush: Brush, wall: Colour, seed: int) -> None:
    """A wall with light from one side, some things on it, perhaps a table's edge."""
    rng = np.random.default_rng(seed)
    size, draw = brush.size, brush.draw
    left, right = rng.uniform(0.8, 1.1, 2)
    for i in range(16):
        bar = (i * size // 16, 0, (i + 1) * size // 16, size)
        draw.rectangle(bar, fill=shade(wall, left + (right - left) * i / 15))
    for _ in range(rng.integers(0, 5)):
        x, y = rng.uniform(0, 1, 2) * size
        wide, high = rng.uniform(0.08, 0.35, 2) * size
        tint = np.clip(np.asarray(wall) + rng.normal(0, 28, 3), 0, 255).astype(int)
        colour = (int(tint[0]), int(tint[1]), int(tint[2]))
        draw.rectangle((x, y, x + wide, y + high), fill=colour, outline=shade(colour, 0.8), width=max(1, size // 96))


def draw_body(brush: Brush, signer: Signer) -> None:
    """Torso, neck, head with hair and face, from the front."""
    wide, (rx, ry), head = signer.shoulders, signer.head, Point(*HEAD)
    back = (rx * 1.25, ry * 1.2)
    if signer.hair_style == 1:
        brush.oval(Point(head.x, head.y + ry * 0.5), (rx * 1.35, ry * 1.6), signer.hair)
    if signer.hair_style != 2:
        brush.oval(Point(head.x, head.y - ry * 0.08), back, signer.hair)
    torso = [(-0.25, -0.055), (0.25, -0.055), (0.75, -0.035), (1.05, 0.02), (0.9, 0.3), (0.92, 0.9)]
    outline = [Point(x * wide, y) for x, y in torso] + [Point(-x * wide, y) for x, y in reversed(torso[2:])]
    brush.patch(outline, signer.clothes)
    brush.stroke([Point(-0.5 * wide, 0.62), Point(0.5 * wide, 0.62)], 0.008, shade(signer.clothes, 0.75))
    brush.stroke([Point(0, -0.09), Point(0, -0.045)], rx * 0.95, shade(signer.skin, 0.85))
    brush.patch([Point(-rx * 0.6, -0.055), Point(rx * 0.6, -0.055), Point(0, 0.0)], shade(signer.skin, 0.85))
    _draw_face(brush, signer, head)


def _draw_face(brush: Brush, signer: Signer, head: Point) -> None:
    rx, ry = signer.head
    dark = shade(signer.skin, 0.55)
    for side in (-1, 1):
        brush.oval(Point(head.x + side * rx, head.y + 0.02), (rx * 0.18, ry * 0.2), shade(signer.skin, 0.9))
    brush.oval(head, (rx, ry), signer.skin)
    brush.oval(Point(head.x, head.y - ry * 0.12), (rx * 1.05, ry * 0.98), signer.hair, (0.53, 0.97))
    for side in (-1, 1):
        eye = Point(head.x + side * rx * 0.42, head.y + ry * 0.02)
        brush.oval(eye, (rx * 0.2, ry * 0.1), (245, 245, 245))
        brush.oval(eye, (rx * 0.1, ry * 0.1), (35, 25, 20))
        brow = [Point(eye.x - rx * 0.22, eye.y - ry * 0.2), Point(eye.x + rx * 0.22, eye.y - ry * 0.2)]
        brush.stroke(brow, 0.005, shade(signer.hair, 0.8))
    brush.stroke([Point(head.x, head.y + ry * 0.15), Point(head.x + rx * 0.1, head.y + ry * 0.35)], 0.006, dark)
    brush.stroke(
        [Point(head.x - rx * 0.3, head.y + ry * 0.6), Point(head.x + rx * 0.3, head.y + ry * 0.6)], 0.01, (150, 60, 60)
    )


def draw_arm(brush: Brush, signer: Signer, side: int, palm: Point, handshape: str, raised: float) -> None:
    """One arm from the shoulder on this side (-1 the picture's left, 1 its right) to a hand at the palm's place.

    A hand points down at rest and up, leaning to the body's middle, when it is raised; its shape forms on the way.
    """
    turn = side * (0.92 * pi * (1 - raised) - signer.lean * raised)
    tip = (sin(turn), -cos(turn))
    wrist = Point(palm.x - 1.1 * signer.hand * tip[0], palm.y - 1.1 * signer.hand * tip[1])
    shoulder = Point(side * signer.shoulders * 0.9, 0.015)
    elbow = _elbow(shoulder, wrist, signer.arm, side)
    edge, skin_edge = shade(signer.clothes, 0.6), shade(signer.skin, 0.45)
    sleeve = signer.skin if signer.short_sleeves else signer.clothes
    brush.stroke([shoulder, elbow], 0.082, edge)
    brush.stroke([elbow, wrist], 0.066, skin_edge if signer.short_sleeves else edge)
    brush.stroke([elbow, wrist], 0.054, sleeve)
    brush.stroke([shoulder, elbow], 0.07, signer.clothes)
    _draw_hand(brush, signer, side, palm, tip, handshape if raised > 0.4 else "rest")


def _elbow(shoulder: Point, wrist: Point, bone: float, side: int) -> Point:
    """Two-bone inverse kinematics; bones of an arm that comes towards the viewer look shorter."""
    dx, dy = wrist.x - shoulder.x, wrist.y - shoulder.y
    distance = max(hypot(dx, dy), 1e-6)
    length = max(distance / 2, min(bone, 0.15 + 0.25 * distance))
    rise = sqrt(max(length**2 - distance**2 / 4, 0.0))
    normal = (-dy / distance, dx / distance)
    # Out and down is where an elbow goes; where neither side is clearly that, the arm is nearly straight.
    bend = rise * min(max(1.5 * (0.7 * side * normal[0] + normal[1]), -1.0), 1.0)
    return Point((shoulder.x + wrist.x) / 2 + bend * normal[0], (shoulder.y + wrist.y) / 2 + bend * normal[1])


def _draw_hand(brush: Brush, signer: Signer, side: int, palm: Point, tip: tuple[float, float], handshape: str) -> None:
    """The skin's dark outline first, then the skin, then its creases; the thumb is on the body's side."""
    unit = signer.hand
    across = (side * tip[1], -side * tip[0])

    def place(points: Sequence[tuple[float, float]]) -> list[Point]:
        return [
            Point(palm.x + unit * (x * across[0] + y * tip[0]), palm.y + unit * (x * across[1] + y * tip[1]))
            for x, y in points
        ]

    skin, creases = HANDS[handshape]
    dark = shade(signer.skin, 0.4)
    for width, points in skin:
        brush.stroke(place(points), unit * (width + 0.36), dark)
    for width, points in skin:
        brush.stroke(place(points), unit * width, shade(signer.skin, 1.06))
    for width, points in creases:
        brush.stroke(place(points), unit * width, dark)
