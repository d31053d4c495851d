"""Which clips of an evaluation a page shows, and their frames as small pictures."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slr.predict.results import Seen

FRAMES = 640  # on a page; of 26 real clips, each took 3.0 kB on average and 4.8 kB at most (2026-11-25)
WRONG, RIGHT = 2, 1  # clips of a gloss
SIDE = 192  # pixels of a picture's longer side
QUALITY = 78  # of its JPEG


@dataclass(frozen=True)
class Pictures:
    """A clip on the page: `Seen` with its T frames as JPEG."""

    frames: Sequence[bytes]
    seconds: Sequence[float]
    weights: Mapping[str, Sequence[float]]


def worst_first(per_gloss: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows by rising top-1, then more clips first, then by name; those without a clip last."""
    return sorted(per_gloss, key=lambda row: (row["top1"] is None, row["top1"] or 0.0, -row["n"], row["gloss"]))


def choose(results: Mapping[str, Any], most: int) -> list[int]:
    """Numbers of the predictions to show, at most `most`.

    Of each gloss, the worst first, the `WRONG` mistakes that the model was surest of, and the `RIGHT` right clips.

    Args:
        results: what `evaluation` gives.
        most: clips.
    """
    own: dict[str, list[int]] = defaultdict(list)
    for number, prediction in enumerate(results["predictions"]):
        own[prediction["gloss"]].append(number)
    chosen: list[int] = []
    for row in worst_first(results["per_gloss"]):
        numbers = sorted(own[row["gloss"]], key=lambda number: -_first(results, number)["probability"])
        right = [number for number in numbers if _first(results, number)["gloss"] == row["gloss"]]
        chosen += [number for number in numbers if number not in right][:WRONG] + right[:RIGHT]
        if len(chosen) >= most:
            break
    return chosen[:most]


def _first(results: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    return results["predictions"][number]["ranking"][0]


def glosses_asked(prediction: Mapping[str, Any]) -> list[str]:
    """The gloss that was named and, where that is another one, the true one: what frames may speak for."""
    return list(dict.fromkeys([prediction["ranking"][0]["gloss"], prediction["gloss"]]))


def pictures(seen: Seen) -> Pictures:
    """A clip's frames as JPEG, made smaller than `SIDE` where they are larger."""
    return Pictures([_jpeg(frame) for frame in seen.frames], seen.seconds, seen.weights)


def _jpeg(frame: NDArray[np.uint8]) -> bytes:
    picture, file = Image.fromarray(frame), io.BytesIO()
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    picture.save(file, "JPEG", quality=QUALITY, optimize=True)
    return file.getvalue()
