"""Turn user-supplied paths into clips, prepared as for training. Imports no torch."""

import dataclasses
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from slr.core.errors import UserError
from slr.data.manifest import Clip, read_manifest
from slr.predict.results import Refusal
from slr.prepare.decode.sandbox import Limits
from slr.prepare.decode.video import LONGEST
from slr.prepare.verify import ClipJob, Prepared, prepare_clips

AT_ONCE = 64  # files whose clips lie in a temporary folder together
HOURS = 2 * 3600.0  # seconds; longest recording that is scanned
PATIENCE = Limits(wall=HOURS, cpu=3600)  # half an hour of 1080p takes ten minutes


def find(word: str) -> list[Path]:
    """The files of a path: itself, the visible files of a folder, or those that match a pattern.

    An existing file or folder is never taken for a pattern.

    Raises:
        UserError: there are none.

    >>> find("README.md")
    [PosixPath('README.md')]
    """
    path = Path(word).expanduser()
    if path.is_dir():
        files = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
    elif path.exists():  # a pipe too, which preparation refuses
        files = [path]
    else:
        files = [file for name in glob.glob(str(path), recursive=True) if (file := Path(name)).is_file()]
    if not files:
        what = "no file in that folder" if path.is_dir() else "no file, folder or pattern of that name"
        raise UserError(f"video={word}: expected a video, found {what}; give a file, a folder or 'folder/*.mp4'")
    return sorted(files)


def clips(
    sources: Sequence[Path], longest: float = LONGEST, at_once: int = AT_ONCE
) -> Iterator[tuple[Path, list[Clip | Refusal]]]:
    """Prepare untrusted files, `at_once` together: a folder, which is deleted at the next step, and each file's clip.

    A clip of a prepared data set is copied as it is. Still pictures become clips of one frame. No other has a gloss.

    Args:
        sources: untrusted files.
        longest: seconds; longer files are refused.
        at_once: how many files.
    """
    for start in range(0, len(sources), at_once):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder), _make(sources[start : start + at_once], Path(folder), longest)


def _make(sources: Sequence[Path], folder: Path, longest: float) -> list[Clip | Refusal]:
    made: dict[int, Clip | Refusal] = {}
    jobs: dict[int, ClipJob] = {}
    for number, source in enumerate(sources):
        target, path = folder / f"{number}.mp4", source.expanduser().absolute()
        known = _prepared(path)
        if known is not None:
            shutil.copyfile(path, target)
            made[number] = dataclasses.replace(known, id=str(number), file=target.name, source=str(source))
        elif path.is_file() and not os.access(path, os.R_OK):
            made[number] = Refusal(source, "unreadable", "this user may not read it")
        else:
            jobs[number] = ClipJob(path, target, pictures=True, longest=longest)
    limits = PATIENCE if longest > LONGEST else None
    numbers, workers = list(jobs), min(len(jobs), os.cpu_count() or 1)
    for position, outcome in prepare_clips(list(jobs.values()), workers, limits) if jobs else ():
        source = sources[number := numbers[position]]
        if isinstance(outcome, Prepared):
            origin = {"source": str(source), "source_sha256": outcome.source_sha256}
            unknown = dict.fromkeys(("signer", "official_part", "prompt"))
            facts = dataclasses.asdict(outcome.facts)
            made[number] = Clip(id=str(number), file=f"{number}.mp4", gloss="", **origin, **unknown, **facts)
        else:
            made[number] = Refusal(source, outcome.reason, " ".join(outcome.detail.split()))
    return [made[number] for number in range(len(sources))]


def _prepared(path: Path) -> Clip | None:
    """The manifest's row of a file of a prepared data set."""
    manifest = path.parent.parent / "manifest.jsonl"
    return _rows(manifest, manifest.stat().st_mtime_ns).get(path) if manifest.is_file() else None


@lru_cache(maxsize=1)
def _rows(manifest: Path, written: int) -> dict[Path, Clip]:
    """Rows by file; a manifest that was `written` at another time is read again."""
    return {manifest.parent / row.file: row for row in read_manifest(manifest)}
