"""One clip: a drawn signer makes one sign once.

Coordinates: body coordinates as in slr.prepare.synthetic.motion for the hands; on the stage x points to the picture's
right, y down, origin between the shoulders; in the picture both are shares of its width and height.
"""

from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from slr.prepare.encode import FPS
from slr.prepare.synthetic.drawing import Brush, draw_arm, draw_body, draw_room, noise_tile
from slr.prepare.synthetic.motion import HEAD, REST, Moment, Point, Timing, dominant_hand, draw_timing
from slr.prepare.synthetic.signer import Signer
from slr.prepare.synthetic.signs import Sign

DRAWING = 2  # version; raised whenever a seed gives other pictures than before
_FINER = 2  # pictures are drawn this many times larger and averaged down, for smooth edges
_ORIGIN = Point(0.5, 0.42)  # of the stage in the picture, before the camera is moved


class Performance:
    """One clip: a signer makes a sign once. Timing, aim, light and noise come from the seed.

    >>> from slr.prepare.synthetic.signer import Signer
    >>> performance = Performance(Sign("vee", "chin", "up", 1), Signer(0), seed=0)
    >>> performance.draw(performance.frames // 2, size=96).shape
    (96, 96, 3)
    """

    def __init__(self, sign: Sign, signer: Signer, seed: int) -> None:
        rng = np.random.default_rng([seed, 2])
        self.sign = sign
        self.signer = signer
        self.timing: Timing = draw_timing(signer.tempo * rng.uniform(0.95, 1.05), rng)
        self.frames = self.timing.frames(FPS)
        # Where the dominant hand is: a right-handed person's right hand is on the picture's left.
        self._side = 1 if signer.left_handed else -1
        self._aim = Point(rng.normal(0, 0.008), rng.normal(0, 0.008))
        self._breadth = signer.breadth * rng.uniform(0.95, 1.05)
        self._drift = rng.uniform(0, 2 * pi, 2)
        self._light = (rng.uniform(0.9, 1.08) * np.array(signer.white)).astype(np.float32)
        self._grain = rng.uniform(0.5, 2.5)
        self._noise = rng.integers(0, 64, (self.frames, 2))
        self._stage: Image.Image | None = None

    def moment(self, frame: int) -> Moment:
        """The state of the movement at a frame."""
        return self.timing.moment((frame + 0.5) / FPS)

    def pose(self, frame: int) -> tuple[Point, Point, Point]:
        """Where the dominant palm, the other palm and the head are in a frame's picture."""
        dominant, other = self._palms(frame)
        return self._seen(dominant), self._seen(other), self._seen(Point(*HEAD))

    def draw(self, frame: int, size: int) -> np.ndarray:
        """The frame's picture: uint8 (size, size, 3), RGB."""
        fine = size * _FINER
        if self._stage is None or self._stage.width != fine:
            self._stage = Image.new("RGB", (fine, fine))
            brush = self._brush(self._stage)
            draw_room(brush, self.signer.wall, self.signer.room)
            draw_body(brush, self.signer)
        picture = self._stage.copy()
        brush = self._brush(picture)
        raised = self.moment(frame).raised
        dominant, other = self._palms(frame)
        both = self.sign.hands == 2
        draw_arm(brush, self.signer, -self._side, other, self.sign.handshape, raised if both else 0.0)
        draw_arm(brush, self.signer, self._side, dominant, self.sign.handshape, raised)
        noise = noise_tile(size)[tuple(slice(at, at + size) for at in self._noise[frame])]
        pixels = np.asarray(picture.reduce(_FINER)) * self._light + noise * np.float32(self._grain)
        return np.clip(pixels, 0, 255).astype(np.uint8)

    def _palms(self, frame: int) -> tuple[Point, Point]:
        """The dominant and the other palm on the stage."""
        hand = dominant_hand(self.sign, self.moment(frame), self._aim, self._breadth)
        resting = Point(*REST) if self.sign.hands == 1 else hand
        sway = 0.004 * np.sin(self._drift + 2 * pi * frame / FPS)
        dominant = Point(self._side * hand.x + sway[0], hand.y)
        return dominant, Point(-self._side * resting.x + sway[1], resting.y)

    def _seen(self, point: Point) -> Point:
        """From the stage into the picture."""
        signer = self.signer
        x = signer.scale * (cos(signer.tilt) * point.x - sin(signer.tilt) * point.y)
        y = signer.scale * (sin(signer.tilt) * point.x + cos(signer.tilt) * point.y)
        return Point(_ORIGIN.x + signer.shift.x + x, _ORIGIN.y + signer.shift.y + y)

    def _brush(self, picture: Image.Image) -> Brush:
        return Brush(ImageDraw.Draw(picture), picture.width, self.signer.scale, self._seen)
