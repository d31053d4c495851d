"""The folder of a run: what is in it, `result.json`, and the run's status. Uses neither torch nor hydra."""

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slr.core import checkpoints
from slr.core.distributed import Lost, is_main
from slr.core.env import command
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.core.locks import is_occupied
from slr.core.signals import Stopping


class _Inside:
    """A path in a run's folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: "RunFolder", owner: type) -> Path:
        return folder.root / self.name


@dataclass(frozen=True)
class RunFolder:
    """The paths in a run's folder."""

    root: Path

    config = _Inside("config.json")  # the resolved configuration: what evaluate, resume and `slr.load` read
    split = _Inside("split.json")  # clip -> part
    vocabulary = _Inside("vocabulary.json")  # the ordered glosses
    result = _Inside("result.json")  # status, metrics, versions, hashes; see `RunRecord`
    transcript = _Inside("log.txt")  # what the run has printed
    checkpoints = _Inside("checkpoints")  # best.ckpt, last.ckpt and the one before it; see `slr.core.checkpoints`
    adapter = _Inside("adapter")  # the best adapter in PEFT's format
    calibration = _Inside("calibration.safetensors")  # see `slr.predict.calibration`
    evaluation = _Inside("evaluation")  # what `evaluate.py` writes

    @property
    def facts(self) -> dict[str, Any]:
        """The content of `result`; nothing where there is none."""
        return read_json(self.result) if self.result.is_file() else {}

    @property
    def is_begun(self) -> bool:
        """Whether a run has written its settings here."""
        return all(file.is_file() for file in (self.config, self.vocabulary, self.split))

    def checkpoint(self, choice: str) -> Path:
        """The checkpoint that `best`, `last` or a path names.

        Raises:
            UserError: it is not there, or damaged.
        """
        named = choice in ("best", "last")
        path = self.checkpoints / f"{choice}.ckpt" if named else Path(choice)
        if not path.is_file():
            raise UserError(f"checkpoint={choice}: expected a file at {path}, found none; use best, last or a path")
        if named and (self.checkpoints / checkpoints.HASHES).is_file() and not checkpoints.is_whole(path):
            raise UserError(
                f"checkpoint={choice}: expected a whole file at {path}, found one whose SHA-256 is not in "
                f"{checkpoints.HASHES}; evaluate another one, or train again"
            )
        return path


class RunRecord:
    """`result.json` of a running run, which the main process writes.

    Attributes:
        content: of the file: `status` (running, done, pruned, failed or stopped), `seconds` of all processes that have
            worked on the run, `overrides`, and what `update` added.
    """

    def __init__(self, folder: RunFolder, overrides: Sequence[str]) -> None:
        self._path = folder.result
        self._started = time.monotonic()
        before = folder.facts
        self._seconds = float(before.get("seconds", 0.0))
        self.content: dict[str, Any] = {"status": "running", "overrides": list(overrides)}
        self.update({key: before[key] for key in ("progress", "memory", "hashes") if key in before})

    def update(self, facts: Mapping[str, Any]) -> None:
        """Add facts to the file."""
        self.content |= facts
        self.content["seconds"] = self._seconds + time.monotonic() - self._started
        if is_main():
            write_json(self._path, self.content)


@contextmanager
def recorded(folder: RunFolder, overrides: Sequence[str], stopping: Stopping) -> Iterator[RunRecord]:
    """Record in `result.json` how the run in the block ends; `overrides` are those typed.

    Its `status` becomes done unless the block sets another one, failed (with the error's last line), or stopped (by
    Ctrl-C or SIGTERM). It stays at running if the process is killed; see `status_of`.

    Raises:
        SystemExit: 130 after Ctrl-C, 143 after SIGTERM, as a shell knows them.
    """
    record = RunRecord(folder, overrides)
    try:
        yield record
        if record.content["status"] == "running":
            record.update({"status": "done"})
    except BaseException as error:
        code = _stop_code(error, stopping)
        if code is not None:
            record.update({"status": "stopped"})
            if folder.is_begun:
                again = command("train", shlex.quote(f"resume={folder.root}"))
                print(f"\nstopped; to continue: {again}", file=sys.stderr)  # behind a progress bar
            raise SystemExit(code) from None
        lines = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[-1]}"
        if isinstance(error, Lost):
            reason = error.reason or "another process of this run was killed, or its machine was lost"
        record.update({"status": "failed", "error": reason})
        raise


def _stop_code(error: BaseException, stopping: Stopping) -> int | None:
    """The exit code, if a request to end has ended the run."""
    if isinstance(error, UserError) or (isinstance(error, Lost) and error.reason is not None):
        return None  # the error comes first, even if the run was asked to end too
    code = error.stopped if isinstance(error, Lost) else 130 if isinstance(error, KeyboardInterrupt) else None
    return stopping.code or code


def status_of(folder: RunFolder) -> str:
    """The status of a run: running, done, pruned, failed, stopped, killed, or missing where there is none."""
    status = folder.facts["status"] if folder.result.is_file() else "missing"
    return "killed" if status == "running" and not is_occupied(folder.root) else status


def digest(value: object) -> str:
    """SHA-256 of a JSON-able value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def flat(nested: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Nested settings by their joined names.

    >>> flat({"seed": 1, "lora": {"r": 8, "targets": ["q", "k"]}})
    {'seed': 1, 'lora.r': 8, 'lora.targets': ['q', 'k']}
    """
    rows: dict[str, Any] = {}
    for key, value in nested.items():
        inner = flat(value, separator) if isinstance(value, Mapping) else None
        rows |= {key: value} if inner is None else {f"{key}{separator}{name}": own for name, own in inner.items()}
    return rows


def hashes_of(folder: RunFolder) -> dict[str, str]:
    """The hashes that a run has recorded; empty if there are none yet."""
    return folder.facts.get("hashes", {})
