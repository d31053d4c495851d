"""Runs as a comparison reads them from their folders: settings, scores, costs, and what their numbers stand on."""

import functools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from slr.config import schema
from slr.config.provenance import known_base
from slr.core.errors import UserError
from slr.core.run_folder import RunFolder, digest, status_of

METRICS = ("top1", "top5", "mrr")
# Where things lie says nothing of a run (but what it began with does: a model, an earlier run), nor does how work was
# cut up: `hardware.micro_batch` follows from the memory that happened to be free.
CUT = {f"hardware.{key}" for key in ("workers", "frames_at_once", "memory", "micro_batch")}
PLACES = {*schema.PATH_KEYS, *schema.ASIDE, *CUT, "trainer.name", "trainer.devices"} - {"model.checkpoint", "init"}


class Score(NamedTuple):
    """A metric with its 95 % interval, where the run recorded one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ComparisonKey:
    """What two runs must share for their numbers to be held against each other.

    Attributes:
        data: hash of the prepared clips.
        test: hash of the test part's clip ids.
        val: of the validation part's, by which runs are ranked.
        vocabulary: of the ordered glosses.
        clips: how many clips test.
        glosses: how many glosses there are to choose from.
    """

    data: str
    test: str
    val: str
    vocabulary: str
    clips: int
    glosses: int

    def describe(self) -> str:
        """One line for a person."""
        return (
            f"{self.clips} test clips ({self.test[:8]}), {self.glosses} glosses ({self.vocabulary[:8]}), "
            f"data {self.data[:8]}"
        )

    def against(self, other: "ComparisonKey") -> str:
        """What differs, with both hashes."""
        words = {
            "data": "hash of the data",
            "test": "hash of the test part's clips",
            "val": "hash of the validation part's clips",
            "vocabulary": "hash of the vocabulary",
        }
        pairs = {name: (getattr(self, name)[:8], getattr(other, name)[:8]) for name in words}
        return "; ".join(f"{words[name]} {one} and {two}" for name, (one, two) in pairs.items() if one != two)


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        folder: its folder, absolute.
        status: done, or how else it stands with it.
        settings: `key` or `group.key` -> value, without `PLACES`.
        seconds: that the run took.
        memory: bytes at the peak, None where it was not measured.
        val: metric -> score of the validation part.
        test: metric -> score of the test part.
        made_with: `code`, `base` (its weights) and each package -> hash or version.
        error: the last line of what a failed run said.
        ground: of a run that is done.
        places: test clip -> place of the true gloss in its ranking, 1 is first; empty where they cannot be read.
        unread: why they cannot.
    """

    folder: Path
    status: str
    settings: dict[str, Any]
    seconds: float | None
    memory: int | None
    val: dict[str, Score]
    test: dict[str, Score]
    made_with: dict[str, str]
    error: str
    ground: ComparisonKey | None
    places: dict[str, int]
    unread: str


def find_runs(place: Path) -> Iterator[Path]:
    """The folders of runs at or below `place`, absolute and sorted; what is hidden below it is passed over."""
    for folder, inner, files in os.walk(place.resolve()):
        if "result.json" in files:
            inner.clear()  # a run holds no runs
            yield Path(folder)
        inner[:] = sorted(name for name in inner if not name.startswith("."))


def read_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        UserError: a file of it is missing or holds something else.
    """
    place = RunFolder(folder)
    result, config = _json(place.result), _json(place.config)
    try:
        status = str(status_of(place))
        done = status == "done"
        ground = _ground(place, result) if done else None
        places, unread = _places(place, result["test"], ground) if ground else ({}, "")
        settings = flat(_as_of_today(config))
        return Run(
            folder=folder,
            status=status,
            settings={key: value for key, value in settings.items() if key not in PLACES},
            seconds=_number(result["seconds"]) if "seconds" in result else None,
            memory=result.get("memory", {"measured": None})["measured"],  # nothing is trained, nothing measured
            val={name: _score(result["val"], name) for name in METRICS} if done else {},
            test={name: _score(result["test"], name) for name in METRICS} if done else {},
            made_with=_made_with(result, settings) if done else {},
            error=str(result["error"]) if "error" in result else "",
            ground=ground,
            places=places,
            unread=unread,
        )
    except KeyError as error:
        raise UserError(f"{place.result}: expected the result of a run, found none of its {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{place.result}: expected the result of a run, found something else ({error})") from error


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names.

    >>> flat({"seed": 1, "lora": {"r": 8, "targets": ["q", "k"]}})
    {'seed': 1, 'lora.r': 8, 'lora.targets': ['q', 'k']}
    """
    rows: dict[str, Any] = {}
    for key, value in nested.items():
        rows |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return rows


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: expected a file of a run, found none that can be read ({error.strerror})") from error


def _as_of_today(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the keys that came later, where it is one that this version reads."""
    try:
        return schema.to_plain(schema.from_plain(config, Path("config.json")))
    except UserError:
        return config


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_bytes(path))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, found something else ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} where a number should be")
    return float(value)


def _score(summary: dict[str, Any], name: str) -> Score:
    """A metric of either part: a checkpoint keeps `top1_low` and `top1_high`, an evaluation `top1_interval`."""
    value = _number(summary[name])
    if f"{name}_interval" in summary:
        low, high = map(_number, summary[f"{name}_interval"])
        return Score(value, low, high)
    if f"{name}_low" in summary:
        return Score(value, _number(summary[f"{name}_low"]), _number(summary[f"{name}_high"]))
    return Score(value, None, None)


def _made_with(result: dict[str, Any], settings: dict[str, Any]) -> dict[str, str]:
    versions = {name: str(version) for name, version in result["versions"].items()}
    base = known_base(settings.get("model.checkpoint"), settings.get("model.weights"), result["hashes"])
    return {"code": str(result["hashes"]["code"])[:8]} | ({"base": base[:8]} if base else {}) | versions


def _ground(place: RunFolder, result: dict[str, Any]) -> ComparisonKey:
    parts, glosses = _parts(_bytes(place.split)), _vocabulary(_bytes(place.vocabulary))
    return ComparisonKey(
        data=str(result["hashes"]["data"]),
        test=digest(sorted(parts["test"])),
        val=digest(sorted(parts["val"])),
        vocabulary=digest(glosses),
        clips=len(parts["test"]),
        glosses=len(glosses),
    )


@functools.lru_cache(maxsize=16)
def _parts(content: bytes) -> dict[str, list[str]]:
    """Part -> its clips. Runs of a sweep have the same split, which may list tens of thousands of clips."""
    parts: dict[str, list[str]] = {"val": [], "test": []}
    for clip, part in json.loads(content)["parts"].items():
        parts.setdefault(part, []).append(clip)
    return parts


@functools.lru_cache(maxsize=16)
def _vocabulary(content: bytes) -> list[str]:
    glosses = json.loads(content)
    if not isinstance(glosses, list):
        raise ValueError("no list in vocabulary.json")
    return glosses


def _places(place: RunFolder, test: dict[str, Any], ground: ComparisonKey) -> tuple[dict[str, int], str]:
    """The places of the run's own test ranking, or why there are none: `evaluate.py` writes to the same file."""
    path = place.evaluation / "evaluation_results.json"
    remedy = f"python evaluate.py run={place.root} part=test ranks them again"
    try:
        summary, places = true_places(path.read_bytes())
        part, checkpoint = summary["part"], summary["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {}, f"{path} holds no rankings that can be read ({error!r}); {remedy}"
    if digest(sorted(places)) != ground.test:
        return {}, f"{path} ranks {len(places)} clips of part {part}, not the run's {ground.clips} test clips; {remedy}"
    if checkpoint != test["checkpoint"]:
        return {}, f"{path} ranks with checkpoint {checkpoint}, the result with {test['checkpoint']}; {remedy}"
    return places, ""


# What stands before a prediction, its ranking and each gloss of it. JSON writes a quote inside a string as \", so that
# no clip or gloss can hold one of them.
PREDICTIONS, PREDICTION, RANKING, ENTRY = b', "predictions": [', b'{"clip": ', b'"ranking": [', b'{"gloss": '


def true_places(content: bytes) -> tuple[dict[str, Any], dict[str, int]]:
    """The summary in `evaluation_results.json`, and each clip's place of the true gloss.

    Counts the marks that `write_json` leaves around whole rankings, which takes a sixth of the time of reading them:
    a hundred runs rank millions of glosses. A file that was written otherwise is read as JSON.

    Args:
        content: of the file, UTF-8.

    Raises:
        ValueError: not such a file, or a ranking without its true gloss.
    """
    before, _, after = content.partition(PREDICTIONS)
    try:
        return json.loads(before + b"}")["summary"], _counted(after.split(PREDICTION)[1:])
    except ValueError:
        whole = json.loads(content)
        return whole["summary"], {row["clip"]: _place(row) for row in whole["predictions"]}


def _counted(predictions: list[bytes]) -> dict[str, int]:
    halves = [prediction.partition(RANKING)[::2] for prediction in predictions]
    rows = json.loads(b"[" + b", ".join(PREDICTION + about.rstrip(b", ") + b"}" for about, _ in halves) + b"]")
    places = {}
    for row, (_, ranking) in zip(rows, halves, strict=True):
        places[row["clip"]] = 1 + ranking.count(ENTRY, 0, ranking.index(_entry(row["gloss"])))
    return places


@functools.lru_cache(maxsize=4096)
def _entry(gloss: str) -> bytes:
    return ENTRY + json.dumps(gloss, ensure_ascii=False).encode() + b","


def _place(prediction: dict[str, Any]) -> int:
    glosses = [entry["gloss"] for entry in prediction["ranking"]]
    if prediction["gloss"] not in glosses:
        raise ValueError(f"the ranking of clip {prediction['clip']} lacks its true gloss {prediction['gloss']}")
    return 1 + glosses.index(prediction["gloss"])
