"""A run's checkpoints: installing a new one, finding the newest whole one, removing what is not needed.

`last.ckpt` is the newest state and `previous.ckpt` the one before; `best.ckpt` is the state of the best validation.
`checksums.json` has the SHA-256 of each. It is written before a file takes its place, so that whenever a process is
killed, some file has a known hash.
"""

import json
import os
import shutil
from pathlib import Path

from slr.core.errors import UserError
from slr.core.files import replacing, sha256, write_whole

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
PART = "saving.part"
HASHES = "checksums.json"
REMEMBERED = 16  # hashes of each kind, those of files that a killed process did not install included


def install(folder: Path, best: bool) -> None:
    """Make `PART`, freshly written in `folder`, the last checkpoint, and the best one too where `best`.

    Raises:
        OSError: the disk is full or gone; the old files are still there.
    """
    part = folder / PART
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    known, digest = _known(folder), sha256(part)
    for kind in ["last", "best"] if best else ["last"]:
        known[kind] = list(dict.fromkeys([digest, *known[kind]]))[:REMEMBERED]
    write_whole(folder / HASHES, json.dumps(known) + "\n", durable=True)
    if best:
        _replace_with_copy(part, folder / BEST)
    if (folder / LAST).exists():
        os.replace(folder / LAST, folder / PREVIOUS)
    os.replace(part, folder / LAST)


def newest(folder: Path) -> Path | None:
    """The newest whole state in `folder`, the best one included, or None if there is none. Prints which are damaged.

    Raises:
        UserError: all are damaged.
    """
    _remove_parts(folder)
    states = [folder / name for name in (LAST, PREVIOUS, BEST) if (folder / name).is_file()]
    for path in states:
        if is_whole(path):
            return path
        print(f"{path} is damaged: its SHA-256 is not in {HASHES}; using the checkpoint before it")
    if states:
        raise UserError(f"expected a whole checkpoint in {folder}, found only damaged ones; delete {folder} to restart")
    return None


def is_whole(path: Path) -> bool:
    """Whether a checkpoint has a hash that `install` recorded in its folder."""
    known = _known(path.parent)
    return sha256(path) in known["last"] + known["best"]


def tidy(folder: Path, keep: str) -> None:
    """Remove what a finished run does not keep: `both` keeps best and last, `best` the best alone."""
    for name in [PREVIOUS] + [LAST] * (keep == "best"):
        (folder / name).unlink(missing_ok=True)
    _remove_parts(folder)


def _remove_parts(folder: Path) -> None:
    """Remove the unfinished files of a killed process."""
    for part in folder.glob("*.part"):
        part.unlink(missing_ok=True)


def _known(folder: Path) -> dict[str, list[str]]:
    try:
        content = json.loads((folder / HASHES).read_text(encoding="utf-8"))
        return {kind: [str(digest) for digest in content[kind]] for kind in ("last", "best")}
    except (OSError, ValueError, KeyError, TypeError):
        return {"last": [], "best": []}


def _replace_with_copy(source: Path, target: Path) -> None:
    with replacing(target) as part:
        try:
            os.link(source, part)  # the same bytes once: the other name becomes `last`, then `previous`
        except OSError:  # a file system without links
            shutil.copyfile(source, part)
