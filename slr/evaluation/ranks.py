"""The rank of each clip's true gloss: written beside an evaluation, so that comparing runs reads no whole rankings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slr.core.files import read_json


def true_rank(prediction: Mapping[str, Any]) -> int:
    """The rank of the true gloss in a clip's ranking, 1 is first."""
    return 1 + [entry["gloss"] for entry in prediction["ranking"]].index(prediction["gloss"])


def true_ranks(results: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `ranks.json`, from that of `evaluation_results.json`."""
    ranks = {prediction["clip"]: true_rank(prediction) for prediction in results["predictions"]}
    return {key: results["summary"][key] for key in ("part", "checkpoint")} | {"ranks": ranks}


def read_ranks(folder: Path) -> dict[str, Any]:
    """The `part` and `checkpoint` of an evaluation, and its `ranks`: clip -> rank of the true gloss.

    Raises:
        OSError, UserError: no file there, or one that is not JSON.
        ValueError, KeyError, TypeError: a file with other content.
    """
    path = folder / "ranks.json"
    if path.is_file():
        return read_json(path)
    return true_ranks(read_json(folder / "evaluation_results.json"))  # evaluated before 2026-11-28
