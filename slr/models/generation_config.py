"""How the tokens of free text are chosen. Needs no torch, so that wrong values are reported before it is imported."""

import math
from dataclasses import dataclass

from slr.core.errors import UserError


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen.

    Raises:
        UserError: a value out of range, or beams together with a temperature.
    """

    length: int = 32  # tokens of an answer, at most
    temperature: float = 0.0  # 0 takes the likeliest token; above 0, samples from the softmax of logits / temperature
    top_p: float = 1.0  # samples among the likeliest tokens of this probability together (Holtzman et al. 2020), (0, 1]
    beams: int = 1  # width of a beam search; 1 is no search
    seed: int = 0  # of sampling

    def __post_init__(self) -> None:
        if self.length < 1 or self.beams < 1:
            raise UserError(f"length={self.length} beams={self.beams}: expected at least 1 of each")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise UserError(f"temperature={self.temperature:g}: expected 0 (no sampling) or a positive number")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p:g}: expected a number above 0 and at most 1")
        if self.temperature and self.beams > 1:
            raise UserError(f"beams={self.beams} temperature={self.temperature:g}: expected only one of them")
        if self.top_p < 1 and not self.temperature:
            raise UserError(f"top_p={self.top_p:g}: expected a temperature above 0 with it; add temperature=1")
