"""Read finished and unfinished runs for a comparison: settings, scores, costs, and what makes them comparable."""

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slr.config import schema
from slr.config.provenance import known_base
from slr.core.env import command
from slr.core.errors import UserError
from slr.core.files import read_json
from slr.core.run_folder import RunFolder, digest, flat, status_of
from slr.evaluation.ranks import read_ranks

# Metric -> score of each clip, from the ranks of the true glosses.
METRICS: Mapping[str, Callable[[NDArray[np.int64]], NDArray[Any]]] = {
    "top1": lambda ranks: ranks <= 1,
    "top5": lambda ranks: ranks <= 5,
    "mrr": lambda ranks: 1 / ranks,
}
# Settings that say where files are, or how work was cut to fit the memory that was free: they do not set runs apart.
# The model and the earlier run that a run began with do, though they are paths too.
CUT = {f"hardware.{key}" for key in ("workers", "frames_at_once", "memory", "micro_batch")}
PLACES = {*schema.PATH_KEYS, *schema.ASIDE, *CUT, "trainer.name", "trainer.devices"} - {"model.checkpoint", "init"}
HASHES = {"data": "data", "test": "test part's clips", "val": "validation part's clips", "vocabulary": "vocabulary"}


class Score(NamedTuple):
    """A metric with its 95 % interval, where the run recorded one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ComparisonKey:
    """What two runs must share for their numbers to be compared."""

    data: str  # hash of the prepared clips
    test: str  # hash of the part's clip ids
    val: str
    vocabulary: str  # hash of the ordered glosses
    clips: int  # of the test part
    glosses: int  # to choose from

    def describe(self) -> str:
        """One line for a person."""
        return (
            f"{self.clips} test clips ({self.test[:8]}), {self.glosses} glosses ({self.vocabulary[:8]}), "
            f"data {self.data[:8]}"
        )

    def against(self, other: "ComparisonKey") -> str:
        """The hashes that differ, of both."""
        pairs = {words: (getattr(self, name)[:8], getattr(other, name)[:8]) for name, words in HASHES.items()}
        return "; ".join(f"hash of the {words} {one} and {two}" for words, (one, two) in pairs.items() if one != two)


@dataclass(frozen=True)
class Run:
    """One run, done or not."""

    folder: Path  # absolute
    status: str  # done, or another word of `status_of`
    settings: dict[str, Any]  # `key` or `group.key` -> value, without `PLACES`
    seconds: float
    memory: int | None  # peak in bytes, None where it was not measured
    val: dict[str, Score]  # metric -> score of that part
    test: dict[str, Score]
    made_with: dict[str, str]  # `code`, `base` (its weights) and each package -> hash or version
    error: str  # last line of a failed run's error
    ground: ComparisonKey | None  # of a run that is done
    ranks: dict[str, int]  # test clip -> rank of the true gloss, 1 is first; empty where they cannot be read
    unread: str  # why they cannot

    def scores(self, metric: str) -> NDArray[Any]:
        """A metric of each test clip, (C,), in the order of the clips' ids."""
        return METRICS[metric](np.array([self.ranks[clip] for clip in sorted(self.ranks)]))


def find_runs(place: Path) -> Iterator[Path]:
    """The folders of runs at or below `place`, absolute and sorted; hidden folders below it are skipped."""
    for folder, inner, files in os.walk(place.resolve()):
        if "result.json" in files:
            inner.clear()  # a run holds no runs
            yield Path(folder)
        inner[:] = sorted(name for name in inner if not name.startswith("."))


def read_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        UserError: a file of it is missing or has other content.
    """
    place = RunFolder(folder)
    try:
        result, config = read_json(place.result), read_json(place.config)
        status = status_of(place)
        done = result["status"] == "done"
        ground = None
        if done:
            ground = _ground(result["hashes"]["data"], place.split.read_bytes(), place.vocabulary.read_bytes())
        ranks, unread = _ranks(place, result["test"]["checkpoint"], ground) if ground else ({}, "")
        settings = flat(_as_of_today(config))
        return Run(
            folder=folder,
            status=status,
            settings={key: value for key, value in settings.items() if key not in PLACES},
            seconds=float(result.get("seconds", 0)),
            memory=result.get("memory", {"measured": None})["measured"],  # absent where nothing was trained
            val={name: _score(result["val"], name) for name in METRICS} if done else {},
            test={name: _score(result["test"], name) for name in METRICS} if done else {},
            made_with=_made_with(result, settings) if done else {},
            error=result.get("error", ""),
            ground=ground,
            ranks=ranks,
            unread=unread,
        )
    except OSError as error:
        raise UserError(
            f"{error.filename}: expected a file of a run, found none that can be read ({error.strerror})"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder}: expected a run, found files with other content ({error!r})") from error


def _as_of_today(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the keys that were added after it, where this version can read it."""
    try:
        return schema.to_plain(schema.from_plain(config, Path("config.json")))
    except UserError:
        return config


def _score(metrics: dict[str, Any], name: str) -> Score:
    """A metric of either part: a checkpoint keeps `top1_low` and `top1_high`, an evaluation `top1_interval`."""
    low, high = metrics.get(f"{name}_interval") or (metrics.get(f"{name}_low"), metrics.get(f"{name}_high"))
    return Score(float(metrics[name]), low, high)


def _made_with(result: dict[str, Any], settings: dict[str, Any]) -> dict[str, str]:
    base = known_base(settings.get("model.checkpoint"), settings.get("model.weights"), result["hashes"])
    versions = {name: str(version) for name, version in result["versions"].items()}
    return {"code": result["hashes"]["code"][:8]} | ({"base": base[:8]} if base else {}) | versions


@functools.lru_cache(maxsize=16)
def _ground(data: str, split: bytes, vocabulary: bytes) -> ComparisonKey:
    """From the files' content. Runs of a sweep have the same split, which may list tens of thousands of clips."""
    parts, glosses = json.loads(split)["parts"], json.loads(vocabulary)
    if not isinstance(glosses, list):
        raise ValueError("no list in vocabulary.json")
    val, test = (sorted(clip for clip, own in parts.items() if own == part) for part in ("val", "test"))
    return ComparisonKey(data, digest(test), digest(val), digest(glosses), len(test), len(glosses))


def _ranks(place: RunFolder, checkpoint: str | None, ground: ComparisonKey) -> tuple[dict[str, int], str]:
    """The ranks of the run's test clips, or why there are none: `evaluate.py` may have written another part's."""
    remedy = f"{command('evaluate', f'run={place.root} part=test')} ranks them again"
    try:
        read = read_ranks(place.evaluation)
        ranks, part, own = read["ranks"], read["part"], read["checkpoint"]
    except (OSError, UserError, ValueError, KeyError, TypeError) as error:
        return {}, f"{place.evaluation} holds no rankings that can be read ({error!r}); {remedy}"
    if digest(sorted(ranks)) != ground.test:
        found = f"ranks {len(ranks)} clips of part {part}, not the run's {ground.clips} test clips"
        return {}, f"{place.evaluation} {found}; {remedy}"
    if own != checkpoint:
        return {}, f"{place.evaluation} ranks with checkpoint {own}, the result with {checkpoint}; {remedy}"
    return ranks, ""
