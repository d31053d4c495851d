"""Whole signers to train, val and test, until enough glosses can be both learned and tested."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from slr.core.errors import UserError
from slr.data.manifest import PARTS, Clip

Ints = NDArray[np.int64]
TRAIN, VAL, TEST = range(3)
SLACK = 0.02  # share of the clips by which a part may miss its own, to reach the coverage
ORDERS = 50  # random orders of the units that are tried
TRIES = 30_000  # exchanges tried before a coverage is refused
SHOWN = 10  # names in a message


def divide_signers(
    units: Sequence[Sequence[Clip]], shares: Mapping[str, float], coverage: float, rng: np.random.Generator
) -> dict[str, str]:
    """Give each unit, all clips of one or more signers, to one part.

    Units go in a random order, each to the part that lacks most; the best of many orders is taken. If that covers too
    few glosses, units move and change places at random; a move that covers no less and keeps the shares is kept.

    Args:
        units: clips that must stay together.
        shares: train, val and test, together 1.
        coverage: share of the glosses of which both train and test must have a clip.
        rng: the order among units of one size, and the exchanges.

    Raises:
        UserError: the coverage is not reached.
    """
    sizes = np.array([len(unit) for unit in units])
    wanted = np.array([shares[part] for part in PARTS]) * sizes.sum()
    # Largest first would come closer to the shares, but the seed would only choose among units of one size.
    divisions = [_in_turn(rng.permutation(len(sizes)), sizes, wanted) for _ in range(ORDERS)]
    parts = min(divisions, key=lambda parts: np.abs(np.bincount(parts, sizes, minlength=3) - wanted).max())
    glosses = sorted({clip.gloss for unit in units for clip in unit})
    position = {gloss: number for number, gloss in enumerate(glosses)}
    has = np.zeros((len(units), len(glosses)), dtype=bool)
    for number, unit in enumerate(units):
        has[number, [position[clip.gloss] for clip in unit]] = True
    asked = int(np.ceil(coverage * len(glosses) - 1e-9))
    one_signer = [glosses[number] for number in np.flatnonzero(has.sum(0) < 2)]
    found = _covered(has, parts)
    if found < asked:
        possible = min(asked, len(glosses) - len(one_signer))
        parts = _exchange(parts, has, sizes, wanted, possible, rng)
        found = _covered(has, parts)
    if found < asked:
        only = f"; clips of {len(one_signer)} are of one signer only ({listed(one_signer)})" if one_signer else ""
        raise UserError(
            f"split.coverage={coverage:g}: expected {asked} of {len(glosses)} glosses in train and test, found {found} "
            f"with {len(units)} signers or groups of them{only}; set split.coverage={found * 100 // len(glosses) / 100}"
            " or less, or give split.test a larger share"
        )
    return {clip.id: PARTS[part] for unit, part in zip(units, parts.tolist(), strict=True) for clip in unit}


def _in_turn(order: Ints, sizes: Ints, wanted: NDArray[np.float64]) -> Ints:
    """Each unit to the part that lacks most; then no part is left empty while another has two."""
    parts = np.zeros(len(sizes), dtype=np.int64)
    missing = wanted.copy()
    for number in order.tolist():
        part = max((TEST, TRAIN, VAL), key=lambda part: round(missing[part], 6))
        missing[part] -= sizes[number]
        parts[number] = part
    for empty in (TEST, VAL, TRAIN):
        spare = [number for number in order.tolist() if (parts == parts[number]).sum() > 1]
        if not (parts == empty).any() and spare:
            parts[min(spare, key=lambda number: sizes[number])] = empty
    return parts


def _covered(has: NDArray[np.bool_], parts: Ints) -> int:
    """How many glosses have a clip in train and in test; has (U, K), parts (U,)."""
    return int(np.sum(has[parts == TRAIN].any(0) & has[parts == TEST].any(0)))


def listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _exchange(
    parts: Ints, has: NDArray[np.bool_], sizes: Ints, wanted: NDArray[np.float64], asked: int, rng: np.random.Generator
) -> Ints:
    """Move units between parts until `asked` glosses are covered or the tries are used up; the parts (U,)."""
    slack = max(np.abs(np.bincount(parts, sizes, 3) - wanted).max(), SLACK * sizes.sum())
    best = _covered(has, parts)
    for _ in range(TRIES):
        if best >= asked:
            break
        one, other = rng.integers(len(parts), size=2).tolist()
        home, target = parts[one], rng.integers(3) if rng.random() < 0.3 else parts[other]
        if home == target:
            continue
        trial = parts.copy()
        trial[one] = target
        if parts[other] == target and rng.random() < 0.7:
            trial[other] = home
        filled = np.bincount(trial, sizes, 3)
        if np.abs(filled - wanted).max() <= slack and filled.min() > 0 and (covers := _covered(has, trial)) >= best:
            best, parts = covers, trial
    return parts
