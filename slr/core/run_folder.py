"""The folder of a run: what lies in it, how it is written, how it is found again. Knows no torch and no hydra."""

import hashlib
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slr
from slr.config import schema
from slr.core import checkpoints
from slr.core.distributed import Lost, chief
from slr.core.errors import UserError
from slr.core.files import sha256, write_whole
from slr.core.locks import is_occupied
from slr.core.signals import Stopping

PACKAGES = (
    *("slr", "torch", "transformers", "peft", "bitsandbytes", "lightning", "hydra-core"),
    *("av", "decord2", "numpy"),
)

ENTRY_POINTS = ("train.py", "evaluate.py", "prepare_data.py")


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


def find_run(path: Path) -> tuple[RunFolder, schema.Config]:
    """A folder of a run that has begun, or is laid out to begin, and its configuration.

    Raises:
        UserError: `path` is none.
    """
    folder = RunFolder(path.expanduser().absolute())
    if not folder.config.is_file():
        raise UserError(f"expected the folder of a run at {path}, found no config.json in it; runs lie under outputs/")
    return folder, schema.from_plain(read_json(folder.config), folder.config)


def open_run(path: Path) -> tuple[RunFolder, schema.Config, list[str]]:
    """A run's folder, configuration and vocabulary.

    Raises:
        UserError: `path` is no folder of a run.
    """
    folder = RunFolder(path.expanduser().absolute())
    for file in (folder.config, folder.vocabulary, folder.split):
        if not file.is_file():
            raise UserError(
                f"run={path}: expected the folder of a run, found no {file.name} in it; runs lie under outputs/"
            )
    return folder, schema.from_plain(read_json(folder.config), folder.config), read_json(folder.vocabulary)


def read_json(path: Path) -> Any:  # noqa: ANN401
    """What the file holds.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, found something else ({error})") from error


def write_json(path: Path, value: object, indent: int | None = 1) -> None:
    """Write JSON so that the file is whole or not there; its folder is made. `indent=None` is for what nobody reads."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


class Record:
    """`result.json` of a run, true while it goes on; written by the chief alone where processes are several.

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
        if chief():
            write_json(self._path, self.content)


@contextmanager
def recorded(folder: RunFolder, overrides: Sequence[str], stopping: Stopping) -> Iterator[Record]:
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
    record = Record(folder, overrides)
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


def provenance(
    config: schema.Config, base: str, manifest: Path, split: str, vocabulary: Sequence[str]
) -> dict[str, Any]:
    """What a number depends on: versions, and hashes of code, base model, configuration, data, split and vocabulary.

    Args:
        config: of the run.
        base: the base model's hash; see `slr.models.hub.base_hash`.
        manifest: the file that lists the prepared clips.
        split: the split's own hash.
        vocabulary: the ordered glosses.
    """
    return {
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in PACKAGES}
        | ({"model": config.model.commit} if config.model.commit else {}),
        "hashes": {
            "code": _code(),
            "base": base,
            "config": digest(schema.to_plain(config)),
            "data": sha256(manifest),
            "split": split,
            "vocabulary": digest(list(vocabulary)),
        },
    }


def hashes_of(folder: RunFolder) -> dict[str, str]:
    """The hashes that a run has recorded; none where it has not come that far."""
    return read_json(folder.result).get("hashes", {}) if folder.result.is_file() else {}


def known_base(checkpoint: str | None, weights: str | None, hashes: Mapping[str, str]) -> str | None:
    """The hash of the base model that a run or an export stands on; None where it has recorded none that could be told.

    Args:
        checkpoint, weights: as in `schema.Model`.
        hashes: that it has recorded.
    """
    return hashes.get("base", schema.TINY_BASE if (checkpoint, weights) == ("tiny", "pretrained") else None)


def refuse_other_base(model: schema.Model, hashes: Mapping[str, str], found: str, whose: str) -> None:
    """See that a base model is the one that a run or an export stands on; say so where nobody can tell.

    Args:
        model: of the run or export.
        hashes: that it has recorded.
        found: the hash of the base model that is here.
        whose: how the run or export was named.

    Raises:
        UserError: it is another one; names both hashes.
    """
    expected = known_base(model.checkpoint, model.weights, hashes)
    if expected is None and not model.commit:
        print(
            f"{whose}: made before base models were recorded, so nobody can tell whether {model.checkpoint}, SHA-256 "
            f"{found[:12]}, is what it was trained on",
            file=sys.stderr,
        )
    if expected not in (None, found):
        raise UserError(
            f"{whose}: expected the base model that it was trained on, {model.checkpoint} of SHA-256 {expected[:12]}, "
            f"found one of {found[:12]}; put that model back, or train a new run"
        )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _code() -> str:
    """Hash of slr's own files, wherever the package lies, but for weights, which are the base model's."""
    package = Path(slr.__file__).parent
    beside = package.parent
    files = [*package.rglob("*"), *beside.glob("hydra_plugins/slr_*/**/*")]  # where others have put plugins too
    if (beside / "pyproject.toml").is_file():  # a checkout: among installed packages, such names may be anybody's
        files += [beside / name for name in ENTRY_POINTS]
    rows = [(file.relative_to(beside).as_posix(), file) for file in files if file.is_file() and not _is_made(file)]
    return digest([[name, sha256(file)] for name, file in sorted(rows)])


def _is_made(file: Path) -> bool:
    """Whether a file is none of the code: compiled from it, weights, or what an editor or a system leaves."""
    return "__pycache__" in file.parts or file.name.startswith(".") or file.suffix in (".pyc", ".safetensors")
