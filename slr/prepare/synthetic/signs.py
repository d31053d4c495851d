"""The drawn signs, their names, and whether each is for pretraining or for data sets.

A sign is a handshape at a location with a movement of one or two hands: the parameters of W. C. Stokoe,
"Sign Language Structure" (1960). A movement is a path walked one way; walked the other way it is another movement
and another sign, so signs come in pairs that share every picture and differ only in the order of the pictures.

The tiny model is pretrained on some signs and taught others later. What belongs to which side is decided here, by
arithmetic, and nothing is on both sides:

- a combination (handshape, location, path, hands) is kept for data sets where the sum of its four numbers is
  divisible by four, otherwise it is for pretraining; both directions of a path are on the same side;
- a name is kept for data sets where the sum of its syllables' numbers is divisible by four;
- a signer is kept for data sets where the seed is odd.
"""

from dataclasses import dataclass
from enum import Enum
from itertools import count, product
from math import gcd

HANDSHAPES = ("fist", "flat", "point", "vee", "spread", "ring", "ell", "wye")
LOCATIONS = ("temple", "chin", "shoulder", "chest", "belly", "flank")
PATHS = {  # path to its two movements: as drawn, and walked backwards
    "vertical": ("up", "down"),
    "level": ("out", "in"),
    "slant": ("climb", "fall"),
    "circle": ("roll", "unroll"),
    "corner": ("turn", "unturn"),
    "arch": ("hop", "back"),
}
HANDS = (1, 2)
SYLLABLES = tuple(a + b for a, b in product("bdfgklmnprstvz", "aeiou"))


class Side(Enum):
    """Who may use a combination, a name or a signer."""

    PRETRAINING = "pretraining"
    DATA_SET = "data set"


@dataclass(frozen=True, slots=True)
class Sign:
    """One sign.

    >>> Sign("vee", "chin", "up", 1).reverse
    Sign(handshape='vee', location='chin', movement='down', hands=1)
    """

    handshape: str
    location: str
    movement: str
    hands: int

    def __str__(self) -> str:
        """The sign in four words."""
        return f"{self.handshape} {self.location} {self.movement} {'two' if self.hands == 2 else 'one'}"

    @property
    def path(self) -> str:
        """The path that the movement walks, in one direction or the other."""
        return next(path for path, movements in PATHS.items() if self.movement in movements)

    @property
    def backwards(self) -> bool:
        """Whether the path is walked from its end to its beginning."""
        return self.movement == PATHS[self.path][1]

    @property
    def reverse(self) -> "Sign":
        """The other sign of the pair: the same pictures in the opposite order."""
        forward, backward = PATHS[self.path]
        return Sign(self.handshape, self.location, forward if self.backwards else backward, self.hands)

    @property
    def side(self) -> Side:
        """Whether the combination is for pretraining or for data sets."""
        numbers = HANDSHAPES.index(self.handshape), LOCATIONS.index(self.location), list(PATHS).index(self.path)
        return Side.DATA_SET if (sum(numbers) + self.hands) % 4 == 0 else Side.PRETRAINING


def signs(side: Side) -> list[Sign]:
    """Every sign of one side, pairs together, neighbours unlike each other.

    >>> len(signs(Side.PRETRAINING)), len(signs(Side.DATA_SET))
    (864, 288)
    """
    shapes = product(HANDSHAPES, LOCATIONS, PATHS.values(), HANDS)
    pairs = [pair for h, p, (m, _), n in shapes if (pair := Sign(h, p, m, n)).side is side]
    step = next(s for s in count(len(pairs) * 5 // 13) if gcd(s, len(pairs)) == 1)
    spread = (pairs[i * step % len(pairs)] for i in range(len(pairs)))
    return [sign for pair in spread for sign in (pair, pair.reverse)]


def names(side: Side, number: int) -> list[str]:
    """The first invented names of one side: two or three syllables, no two alike.

    >>> names(Side.DATA_SET, 3)
    ['bagibo', 'meti', 'rozo']
    """
    size, chosen = len(SYLLABLES), []
    for i in range(size * size):
        # 1201 shares no factor with 4900, so every pair of syllables comes once, unlike ones in a row.
        first, second = divmod((i * 1201 + 17) % (size * size), size)
        syllables = [first, second] if i % 3 else [first, second, (7 * i + 3) % size]
        if len(chosen) < number and (sum(syllables) % 4 == 0) == (side is Side.DATA_SET):
            chosen.append("".join(SYLLABLES[s] for s in syllables))
    return chosen


def signer_seed(side: Side, number: int) -> int:
    """The seed that signer `number` (from 0) of one side is drawn from: even for pretraining, odd for data sets."""
    return 2 * number + (side is Side.DATA_SET)
