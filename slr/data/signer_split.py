"""Whole signers to train, val and test, until enough glosses can be both learned and tested."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from slr.core.errors import UserError
from slr.data.manifest import Clip

TRAIN, VAL, TEST = range(3)
PARTS = ("train", "val", "test")
SLACK = 0.02  # share of the clips by which a part may miss its own, for the sake of coverage
ORDERS = 50  # random orders of the units that are tried
TRIES = 30_000  # exchanges tried before a coverage is called out of reach


def divide_signers(
    units: Sequence[Sequence[Clip]], shares: Mapping[str, float], coverage: float, rng: np.random.Generator
) -> dict[str, str]:
    """Give each unit, all clips of one or more signers, to one part.

    Units go in a random order, each to the part that lacks most; the best of many orders stays. If that covers too few
    glosses, units move and change places at random; what covers no less and keeps the shares stays.

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
    parts = _best_of_many(sizes, wanted, rng)
    glosses = sorted({clip.gloss for unit in units for clip in unit})
    position = {gloss: number for number, gloss in enumerate(glosses)}
    counts = np.zeros((len(units), len(glosses)), dtype=np.int64)
    for number, unit in enumerate(units):
        np.add.at(counts[number], [position[clip.gloss] for clip in unit], 1)
    asked = int(np.ceil(coverage * len(glosses) - 1e-9))
    if _covered(counts, parts) < asked:
        _refuse_impossible(counts, asked, glosses)
        _exchange(parts, counts, sizes, wanted, asked, rng)
    found = _covered(counts, parts)
    if found < asked:
        raise UserError(
            f"split.coverage={coverage:g} asks for {asked} of {len(glosses)} glosses in train and test, found {found} "
            f"with {len(units)} signers or groups of them; ask for less, or give split.test a larger share"
        )
    return {clip.id: PARTS[part] for unit, part in zip(units, parts.tolist(), strict=True) for clip in unit}


def _best_of_many(sizes: NDArray[np.int64], wanted: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """The part of each unit, (U,): of `ORDERS` random orders, the one that comes closest to the shares.

    Largest first would come closer still, but to one division only: the seed would choose among units of one size.
    """
    divisions = [_in_turn(rng.permutation(len(sizes)), sizes, wanted) for _ in range(ORDERS)]
    return min(divisions, key=lambda parts: np.abs(np.bincount(parts, sizes, minlength=3) - wanted).max())


def _in_turn(order: NDArray[np.int64], sizes: NDArray[np.int64], wanted: NDArray[np.float64]) -> NDArray[np.int64]:
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


def _covered(counts: NDArray[np.int64], parts: NDArray[np.int64]) -> int:
    """How many glosses have a clip in train and in test; counts (U, K), parts (U,)."""
    return int(np.sum(counts[parts == TRAIN].any(0) & counts[parts == TEST].any(0)))


def _refuse_impossible(counts: NDArray[np.int64], asked: int, glosses: list[str]) -> None:
    alone = np.flatnonzero((counts > 0).sum(0) < 2)
    if len(glosses) - len(alone) < asked:
        names = ", ".join(glosses[number] for number in alone[:10].tolist()) + (", …" if len(alone) > 10 else "")
        raise UserError(
            f"split.coverage asks for {asked} of {len(glosses)} glosses in train and test, found {len(alone)} that one "
            f"signer alone makes ({names}); ask for {(len(glosses) - len(alone)) / len(glosses):.2f} at most"
        )


def _exchange(
    parts: NDArray[np.int64],
    counts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    wanted: NDArray[np.float64],
    asked: int,
    rng: np.random.Generator,
) -> None:
    """Move units between parts, in place, until `asked` glosses are covered or the tries are used up."""
    per_part = np.stack([counts[parts == part].sum(0) for part in range(3)])  # (3, K) clips
    filled = np.array([sizes[parts == part].sum() for part in range(3)])
    slack = max(np.abs(filled - wanted).max(), SLACK * sizes.sum())
    best = _covered(counts, parts)
    for _ in range(TRIES):
        if best >= asked:
            return
        one, other = rng.integers(len(parts), size=2).tolist()
        home, target = parts[one], rng.integers(3) if rng.random() < 0.3 else parts[other]
        if home == target:
            continue
        swap = parts[other] == target and rng.random() < 0.7
        moved = counts[one] - (counts[other] if swap else 0)
        size = sizes[one] - (sizes[other] if swap else 0)
        after, load = per_part.copy(), filled.copy()
        after[home] -= moved
        after[target] += moved
        load[home] -= size
        load[target] += size
        covers = int(np.sum((after[TRAIN] > 0) & (after[TEST] > 0)))
        if covers >= best and np.abs(load - wanted).max() <= slack and load.min() > 0:
            best, per_part, filled = covers, after, load
            parts[one] = target
            if swap:
                parts[other] = home
