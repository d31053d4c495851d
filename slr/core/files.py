"""Writing files atomically, reading JSON, hashes, and random numbers by a key."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slr.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which is renamed to `path` at the end, unless the block raises.

    Args:
        path: of the file.
        durable: flush to the disk before renaming, so that a power cut too leaves the old file or the new one.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        if durable:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, text: str, durable: bool = False) -> None:
    """Write UTF-8 text, as `replacing` does."""
    with replacing(path, durable) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def generator(*key: int | str) -> "np.random.Generator":
    """A random generator seeded by a key, such as a seed, an epoch and the id of a clip."""
    import numpy as np

    words = [int.from_bytes(hashlib.sha256(k.encode()).digest()[:8]) if isinstance(k, str) else k for k in key]
    return np.random.default_rng(words)


def read_json(path: Path) -> Any:  # noqa: ANN401
    """The content of a JSON file.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, found something else ({error})") from error


def write_json(path: Path, value: object, indent: int | None = 1) -> None:
    """Write JSON, as `replacing` does, and make its folder. `indent=None` writes one line."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
