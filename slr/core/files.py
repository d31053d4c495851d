"""Files that matter are whole or not there."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from slr.core.errors import UserError


def write_whole(path: Path, text: str, durable: bool = False) -> None:
    """Write UTF-8 text beside `path` and rename it there, so that no reader ever meets half of it.

    Args:
        path: of the file.
        text: all of it.
        durable: have it on the disk before the renaming, so that a loss of power too leaves one or the other.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
