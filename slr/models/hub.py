"""Find a checkpoint: packaged, in a folder, or on the hub. Imports neither torch nor transformers."""

import functools
import hashlib
import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path

from slr.core.errors import UserError
from slr.core.files import sha256

PACKAGED = {"tiny": Path(__file__).parent / "tiny" / "checkpoint"}
SMALL_FILES = ["*.json", "*.jinja", "merges.txt"]
WEIGHTS = "model.safetensors"
PATIENCE = 8.0  # seconds for the one request that shows whether the hub can be reached


def locate(checkpoint: str, revision: str | None, need_weights: bool = True) -> Path:
    """Folder with a checkpoint's configuration, tokenizer, processor files and, if needed, weights.

    Looks at the packaged models, at folders, at the hub's local cache, and only then at the network.

    Args:
        checkpoint: `tiny`, a folder, or a hub name such as `OpenGVLab/InternVL3_5-2B-HF`.
        revision: branch, tag or commit of a hub name; None is its main branch. Ignored for the other two.
        need_weights: False if the small files are enough: for the inputs, and for random weights.

    Raises:
        UserError: no such folder, a folder that lacks files, or a hub name that is neither cached nor reachable.
    """
    if checkpoint in PACKAGED:
        return PACKAGED[checkpoint]
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return _complete(folder, need_weights)
    if folder.is_absolute() or checkpoint.startswith((".", "~")) or checkpoint.count("/") != 1:
        raise UserError(
            f"expected model.checkpoint to be 'tiny', a folder, or a hub name like OpenGVLab/InternVL3_5-2B-HF, found "
            f"{checkpoint!r}, which is no folder here; correct the path"
        )
    return _from_hub(checkpoint, revision, need_weights)


def commit_of(folder: Path) -> str | None:
    """The commit that a folder of the hub's cache holds; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name) else None


def base_hash(checkpoint: str, revision: str | None, weights: str, seed: int) -> str:
    """A hash that identifies the base model, 64 hexadecimal digits.

    For one file of weights, its SHA-256; for several files, the SHA-256 of their names and SHA-256s in the order of the
    names; for random weights, which have no file, that of `config.json`, the seed and the word random. JSON is written
    by Python's `json.dumps` with sorted keys.

    Args:
        checkpoint, revision: as for `locate`.
        weights: pretrained or random.
        seed: of random weights; ignored otherwise.

    Raises:
        UserError: as `locate`.
    """
    folder = locate(checkpoint, revision, need_weights=weights == "pretrained")
    if weights == "random":
        return _digest([json.loads((folder / "config.json").read_text(encoding="utf-8")), seed, "random"])
    shards = [_hash_of(folder / name) for name in _weight_files(folder)]
    return shards[0] if (folder / WEIGHTS).is_file() else _digest(list(zip(_weight_files(folder), shards, strict=True)))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _hash_of(file: Path) -> str:
    """A file's SHA-256, computed once per process while the file does not change: gigabytes take seconds."""
    stat = file.stat()
    return _hash_as_of(file.resolve(), stat.st_size, stat.st_mtime_ns)


@functools.cache
def _hash_as_of(file: Path, size: int, changed: int) -> str:
    return sha256(file)


def _complete(folder: Path, need_weights: bool) -> Path:
    if missing := _missing(folder, need_weights):
        raise UserError(
            f"expected a transformers checkpoint in {folder}, found no {', no '.join(missing)}; set model.checkpoint "
            f"to a complete folder"
        )
    return folder


def _missing(folder: Path, need_weights: bool) -> list[str]:
    """Names of the files that a complete checkpoint would have. Only safetensors count as weights: no unpickling."""
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    processors = ("preprocessor_config.json", "processor_config.json")
    if not any((folder / name).is_file() for name in processors):
        missing.append(processors[0])
    if need_weights:
        missing += [name for name in _weight_files(folder) if not (folder / name).is_file()]
    return missing


def _weight_files(folder: Path) -> list[str]:
    """Names of the files with a checkpoint's weights, sorted: one, or those that an index lists."""
    index = folder / f"{WEIGHTS}.index.json"
    if (folder / WEIGHTS).is_file() or not index.is_file():  # as transformers chooses
        return [WEIGHTS]
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _from_hub(name: str, revision: str | None, need_weights: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    wanted = [*SMALL_FILES, "*.safetensors"] if need_weights else SMALL_FILES
    try:
        cached = Path(snapshot_download(name, revision=revision, allow_patterns=wanted, local_files_only=True))
        if not _missing(cached, need_weights):  # a snapshot may lack files that were not needed before
            return cached
    except FileNotFoundError:
        pass  # nothing of it is cached
    except ValueError as error:  # not a name the hub could have
        raise UserError(_unreachable(name, revision, error)) from error
    try:
        # snapshot_download retries for half a minute without a network: send one request first.
        within(PATIENCE, lambda: HfApi().model_info(name, revision=revision, timeout=PATIENCE))
        fetched = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # the hub's HTTP library changes, and its errors with it; the remedy is the same
        raise UserError(_unreachable(name, revision, error)) from error
    return _complete(fetched, need_weights)


def _unreachable(name: str, revision: str | None, error: Exception) -> str:
    reason = (str(error).strip() or "no answer").splitlines()[0].rstrip(".")
    return (
        f"expected {name} ({revision or 'main'}) in the local cache or on the hub, found neither "
        f"({type(error).__name__}: {reason}); connect to the network once, or copy the checkpoint here and set "
        f"model.checkpoint=/path/to/folder (HF_HUB_OFFLINE=1 skips the request), or use model=tiny"
    )


def within(seconds: float, ask: Callable[[], object]) -> None:
    """Raise what `ask` raises, or TimeoutError. An HTTP time-out does not bound the look-up of the host's name."""
    result: Future[object] = Future()

    def run() -> None:
        try:
            result.set_result(ask())
        except Exception as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not wait([result], seconds).done:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    result.result()
