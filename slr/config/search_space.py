"""What a search varies: axes of words or of numbers, and where its trials lie. Imports neither hydra nor optuna.

A trial is a run in `<sweep>/trial-<number>/`, beside the study's journal.
"""

import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from slr.core.errors import UserError

JOURNAL = "study.journal"
Value = str | int | float


@dataclass(frozen=True)
class Choices:
    """A key, as it is typed, that takes one of several words, each once."""

    key: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.key}={','.join(self.words)}"

    @property
    def size(self) -> int | None:
        """How many values there are."""
        return len(self.words)

    @property
    def corners(self) -> Sequence[Value]:
        """The values that tell whether all are allowed."""
        return self.words

    def at(self, index: int) -> Value:
        """The value of a number in [0, size)."""
        return self.words[index]

    def exact(self, value: Value) -> Value:
        """The value that a sampler meant."""
        return value


@dataclass(frozen=True)
class Numbers:
    """A key that takes numbers from `low` to `high`, both included and of the type that the key takes."""

    key: str
    low: int | float
    high: int | float
    step: int | float | None  # between two values; None where there is any number in between
    log: bool  # whether the logarithm is what is spread evenly

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise UserError(f"{self.key}: expected two finite ends, found {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise UserError(f"{self.key}: expected a lower end above 0 for tag(log,…), found {self.low}")
        if self.log and self.step not in (None, 1):
            raise UserError(f"{self.key}: expected no steps within tag(log,…); use interval({self.low},{self.high})")

    def __str__(self) -> str:
        """As text.

        >>> print(Numbers("frames", 2, 16, 2, False), Numbers("optimizer.lr", 1e-5, 1e-3, None, True))
        frames=2…16 by 2 optimizer.lr=1e-05…0.001 (log)
        """
        step = "" if self.step is None else f" by {self.step}"
        return f"{self.key}={self.low}…{self.high}{step}{' (log)' if self.log else ''}"

    @property
    def size(self) -> int | None:
        """How many values there are; None for more than can be tried."""
        return None if self.step is None else round((self.high - self.low) / self.step) + 1

    @property
    def corners(self) -> Sequence[Value]:
        """The values that tell whether all are allowed."""
        return list(dict.fromkeys([self.low, self.high]))

    def at(self, index: int) -> Value:
        """The value of a number in [0, size): as decimals add up, which floats do not.

        >>> Numbers("x", 0.1, 0.5, 0.1, False).at(2)
        0.3
        """
        value = Decimal(str(self.low)) + index * Decimal(str(self.step or 0))
        return int(value) if isinstance(self.low, int) else float(value)

    def exact(self, value: Value) -> Value:
        """The value that a sampler meant, whose digits of a step may be others."""
        return value if self.step is None else self.at(round((float(value) - self.low) / self.step))


Axis = Choices | Numbers


def size(axes: Sequence[Axis]) -> int | None:
    """How many different trials there are; None for more than can be tried."""
    return None if any(axis.size is None for axis in axes) else math.prod(axis.size or 0 for axis in axes)


def point(axes: Sequence[Axis], index: int) -> tuple[Value, ...]:
    """The values of a number in [0, size), each once.

    >>> [point([Choices("a", ("x", "y")), Numbers("b", 1, 3, 2, False)], index) for index in range(4)]
    [('x', 1), ('y', 1), ('x', 3), ('y', 3)]
    """
    values = []
    for axis in axes:
        index, rest = divmod(index, axis.size or 1)
        values.append(axis.at(rest))
    return tuple(values)


def corners(axes: Sequence[Axis]) -> list[tuple[Value, ...]]:
    """Trials that have each choice and both ends of each axis at least once, one axis varied at a time."""
    first = tuple(axis.corners[0] for axis in axes)
    others = [
        (*first[:place], value, *first[place + 1 :]) for place, axis in enumerate(axes) for value in axis.corners[1:]
    ]
    return [first, *others]


def require_optuna() -> None:
    """Raise a `UserError` where Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError("a search needs Optuna, which is not installed; slr's extra has it: uv sync --extra optuna")


def trial_folder(sweep: Path, number: int) -> Path:
    """The folder of a trial's run."""
    return sweep / f"trial-{number}"


def trial_number(folder: Path) -> int | None:
    """Which trial of a search a run's folder is, or None where it is none."""
    found = re.fullmatch(r"trial-(\d+)", folder.name)
    return int(found[1]) if found and (folder.parent / JOURNAL).is_file() else None
