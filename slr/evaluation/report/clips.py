"""Choose the clips that the page shows, and encode their frames."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FRAMES = 640  # on a page; of 26 real clips, each took 3.0 kB on average and 4.8 kB at most (2026-11-25)
WRONG, RIGHT = 2, 1  # clips of a gloss
SIDE = 192  # pixels of a picture's longer side
QUALITY = 78  # of its JPEG


def worst_first(per_gloss: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows by rising top-1, then more clips first, then by name; those without a clip last."""
    return sorted(per_gloss, key=lambda row: (row["top1"] is None, row["top1"] or 0.0, -row["n"], row["gloss"]))


def choose(results: Mapping[str, Any], most: int) -> list[int]:
    """Numbers of the predictions in an evaluation's results to show, at most `most`.

    Of each gloss, the worst first: the `WRONG` most confident mistakes and the `RIGHT` most confident right clips.
    """
    first = [prediction["ranking"][0] for prediction in results["predictions"]]
    by_gloss: dict[str, list[int]] = defaultdict(list)
    for number, prediction in enumerate(results["predictions"]):
        by_gloss[prediction["gloss"]].append(number)
    chosen: list[int] = []
    for gloss in [row["gloss"] for row in worst_first(results["per_gloss"])]:
        numbers = sorted(by_gloss[gloss], key=lambda number: -first[number]["probability"])
        chosen += [number for number in numbers if first[number]["gloss"] != gloss][:WRONG]
        chosen += [number for number in numbers if first[number]["gloss"] == gloss][:RIGHT]
    return chosen[:most]


def jpeg(frame: NDArray[np.uint8]) -> bytes:
    """A frame (H, W, 3) as JPEG, made smaller than `SIDE` where it is larger."""
    picture, file = Image.fromarray(frame), io.BytesIO()
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    picture.save(file, "JPEG", quality=QUALITY, optimize=True)
    return file.getvalue()
