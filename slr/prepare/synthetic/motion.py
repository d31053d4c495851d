"""Where a signer's hands are, frame by frame: rest, approach, movement, retreat, rest.

Positions are in body coordinates: x to the signer's dominant side (out), y downwards, origin between the shoulders,
unit = the height of the picture at camera scale 1.
"""

from dataclasses import dataclass
from math import ceil, cos, pi, sin
from typing import NamedTuple

import numpy as np

from slr.prepare.synthetic.signs import Sign

HEAD = (0.0, -0.18)
REST = (0.2, 0.47)  # where a hand hangs when it does not sign
PLACES = {
    "temple": (0.17, -0.18),
    "chin": (0.03, -0.05),
    "shoulder": (0.22, 0.04),
    "chest": (0.03, 0.16),
    "belly": (0.03, 0.35),
    "flank": (0.26, 0.30),
}
TWO_HANDED_OUT = 0.12  # least distance of both hands from the body's middle
REACH = 0.125  # half the length of a straight path


class Point(NamedTuple):
    """A position in body coordinates."""

    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Moment:
    """One frame of a performance: the path's parameter and how far the hands are from rest."""

    progress: float  # 0 at the beginning of the sign's movement, 1 at its end, for backwards movements too
    raised: float  # 0 at rest, 1 while the movement lasts


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of one performance in seconds; symmetric on average, so that a pair is a clip and its reverse."""

    before: float
    approach: float
    movement: float
    retreat: float
    after: float

    def frames(self, fps: int) -> int:
        """How many frames the performance lasts."""
        return ceil((self.before + self.approach + self.movement + self.retreat + self.after) * fps)

    def moment(self, seconds: float) -> Moment:
        """The state at a time; the movement itself rests a little at both of its ends."""
        begin = self.before + self.approach
        end = begin + self.movement
        if seconds < begin:
            return Moment(0.0, _ease((seconds - self.before) / self.approach))
        if seconds > end:
            return Moment(1.0, _ease(1 - (seconds - end) / self.retreat))
        return Moment(_ease(((seconds - begin) / self.movement - 0.06) / 0.88), 1.0)


def draw_timing(tempo: float, rng: np.random.Generator) -> Timing:
    """A performance's durations for a signer of this tempo (1 = average, more = faster)."""
    before, after = rng.uniform(0.0, 0.28, 2)
    approach, retreat = rng.uniform(0.16, 0.26, 2) / tempo
    return Timing(before, approach, rng.uniform(0.85, 1.1) / tempo, retreat, after)


def along(path: str, t: float) -> Point:
    """The point of a path at parameter t from 0 to 1, in units of half a straight path's length.

    >>> along("level", 0.0), along("level", 1.0)
    (Point(x=-1.0, y=0.0), Point(x=1.0, y=0.0))
    """
    match path:
        case "vertical":
            return Point(0.0, 1 - 2 * t)
        case "level":
            return Point(2 * t - 1, 0.0)
        case "slant":
            return Point(0.85 * (2 * t - 1), 0.85 * (1 - 2 * t))
        case "circle":
            return Point(0.9 * sin(2 * pi * t), -0.9 * cos(2 * pi * t))
        case "corner":
            return Point(0.8 * min(4 * t - 1, 1.0), 0.8 * min(3 - 4 * t, 1.0))
        case _:  # arch
            return Point(-cos(pi * t), 0.6 - 1.3 * sin(pi * t))


def dominant_hand(sign: Sign, moment: Moment, aim: Point, breadth: float) -> Point:
    """The dominant wrist's position; `aim` is this performance's miss of the place, `breadth` scales the path.

    The other hand of a two-handed sign is its mirror image; of a one-handed sign it rests.
    """
    x, y = PLACES[sign.location]
    x = max(x, TWO_HANDED_OUT) if sign.hands == 2 else x
    t = 1 - moment.progress if sign.backwards else moment.progress
    step = along(sign.path, t)
    target = Point(x + aim.x + REACH * breadth * step.x, y + aim.y + REACH * breadth * step.y)
    return Point(*(start + moment.raised * (end - start) for start, end in zip(REST, target, strict=True)))


def _ease(t: float) -> float:
    """Zero speed at both ends, as hands move."""
    t = min(max(t, 0.0), 1.0)
    return t * t * (3 - 2 * t)
