"""The folder of a run: what lies in it, how it is written, how it is found again. Knows no torch and no hydra."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slr.core import checkpoints
from slr.core.distributed import Lost, is_main
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.core.locks import is_occupied
from slr.core.signals import Stopping


@dataclass(frozen=True)
class RunFolder:
    """The places in a run's folder."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration: what evaluate, resume and `slr.load` read."""
        return self.root / "config.json"

    @property
    def split(self) -> Path:
        """Clip -> part."""
        return self.root / "split.json"

    @property
    def vocabulary(self) -> Path:
        """The ordered glosses."""
        return self.root / "vocabulary.json"

    @property
    def result(self) -> Path:
        """Metrics, versions, hashes."""
        return self.root / "result.json"

    @property
    def transcript(self) -> Path:
        """What the run has said."""
        return self.root / "log.txt"

    @property
    def checkpoints(self) -> Path:
        """`best.ckpt`, `last.ckpt` and the one before it; see `slr.core.checkpoints`."""
        return self.root / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The best adapter in PEFT's format."""
        return self.root / "adapter"

    @property
    def calibration(self) -> Path:
        """What validation and training clips have taught of its answers; see `slr.predict.calibration`."""
        return self.root / "calibration.safetensors"

    @property
    def evaluation(self) -> Path:
        """What `evaluate.py` writes."""
        return self.root / "evaluation"

    @property
    def is_begun(self) -> bool:
        """Whether a run has written down here what it is."""
        return all(file.is_file() for file in (self.config, self.vocabulary, self.split))

    def checkpoint(self, choice: str) -> Path:
        """The checkpoint that `best`, `last` or a path names.

        Raises:
            UserError: it is not there, or damaged.
        """
        path = self.checkpoints / f"{choice}.ckpt" if choice in ("best", "last") else Path(choice)
        if not path.is_file():
            raise UserError(f"checkpoint={choice}: expected a file at {path}, found none; use best, last or a path")
        hashed = choice in ("best", "last") and (path.parent / checkpoints.HASHES).is_file()
        if hashed and not checkpoints.is_whole(path):
            raise UserError(
                f"checkpoint={choice}: expected a whole file at {path}, found one whose SHA-256 is none that was "
                "written; evaluate another one, or train anew"
            )
        return path


class RunRecord:
    """`result.json` of a run, true while it goes on; written by the main process alone where processes are several.

    Attributes:
        content: what the file holds: `status` (running, done, pruned, failed or stopped), `seconds` of all processes
            that have worked on the run, `overrides`, and what has been told.
    """

    def __init__(self, folder: RunFolder, overrides: Sequence[str]) -> None:
        self._path = folder.result
        self._started = time.monotonic()
        before = read_json(folder.result) if folder.result.is_file() else {}
        self._seconds = float(before.get("seconds", 0.0))
        self.content: dict[str, Any] = {"status": "running", "overrides": list(overrides)}
        self.tell({key: before[key] for key in ("progress", "memory", "hashes") if key in before})

    def tell(self, facts: Mapping[str, Any]) -> None:
        """Add facts to the file."""
        self.content |= facts
        self.content["seconds"] = self._seconds + time.monotonic() - self._started
        if is_main():
            write_json(self._path, self.content)


@contextmanager
def recorded(folder: RunFolder, overrides: Sequence[str], stopping: Stopping) -> Iterator[RunRecord]:
    """Keep `result.json` true from a run's beginning to its end, however it ends.

    Its `status` becomes done unless the block says otherwise, failed (with the error's last line), or stopped, by
    Ctrl-C or by SIGTERM, with which schedulers end a job. Only a run that was killed outright, or lost its machine,
    stays at running: `status_of` tells it from one that is alive.

    Args:
        folder: of the run.
        overrides: what was typed.
        stopping: whether a signal has asked for the end.

    Raises:
        SystemExit: 130 after Ctrl-C, 143 after SIGTERM, as a shell knows them.
    """
    record = RunRecord(folder, overrides)
    try:
        yield record
        if record.content["status"] == "running":
            record.tell({"status": "done"})
    except BaseException as error:
        code = _asked(error, stopping)
        if code is not None:
            record.tell({"status": "stopped"})
            raise SystemExit(code) from None
        record.tell({"status": "failed", "error": _told(error)})
        raise


def _asked(error: BaseException, stopping: Stopping) -> int | None:
    """The exit code by which a run was asked to end, if that is what has ended it."""
    if isinstance(error, UserError) or (isinstance(error, Lost) and error.reason is not None):
        return None  # a reason of its own, whoever asked besides
    code = error.stopped if isinstance(error, Lost) else 130 if isinstance(error, KeyboardInterrupt) else None
    return stopping.code or code


def _told(error: BaseException) -> str:
    """An error, of this process or of another one of the run, in a line."""
    if isinstance(error, Lost):
        return error.reason or "another process of this run was killed, or its machine was lost"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"


def status_of(folder: RunFolder) -> str:
    """How it stands with a run: running, done, pruned, failed, stopped, killed, or missing where there is none."""
    if not folder.result.is_file():
        return "missing"
    status = read_json(folder.result)["status"]
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
    """The hashes that a run has recorded; none where it has not come that far."""
    return read_json(folder.result).get("hashes", {}) if folder.result.is_file() else {}
