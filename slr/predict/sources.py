"""Files that somebody brings: found as they were typed, and made into clips as training's were. Knows no torch."""

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
HOURS = 2 * 3600.0  # seconds; the longest recording that is scanned
PATIENCE = Limits(wall=HOURS, cpu=3600)  # half an hour of 1080p takes ten minutes


def find(word: str) -> list[Path]:
    """The files that a word means: itself, all that lie in a folder and are not hidden, or those that a pattern fits.

    A word that is a file or a folder is one, whatever it looks like.

    Raises:
        UserError: it means none.

    >>> find("README.md")
    [PosixPath('README.md')]
    """
    path = Path(word).expanduser()
    if path.is_dir():
        found = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
    elif path.exists():  # a pipe too, which preparation refuses
        found = [path]
    else:
        found = [file for name in glob.glob(str(path), recursive=True) if (file := Path(name)).is_file()]
    if not found:
        what = "no file in that folder" if path.is_dir() else "no file, folder or pattern of that name"
        raise UserError(f"video={word}: expected a video, found {what}; give a file, a folder or 'folder/*.mp4'")
    return sorted(found)


def clips(
    sources: Sequence[Path], gloss: str, longest: float = LONGEST, at_once: int = AT_ONCE
) -> Iterator[tuple[Path, list[Clip | Refusal]]]:
    """Make clips of files, some at once: a folder that is there until the next one, and what became of each file.

    A clip of a prepared data set is taken as it is. Still pictures become clips of one frame.

    Args:
        sources: files that nobody has vouched for.
        gloss: fills the clips' rows.
        longest: seconds; what lasts longer is refused.
        at_once: files.
    """
    for start in range(0, len(sources), at_once):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder), _make(sources[start : start + at_once], Path(folder), gloss, longest)


def _make(sources: Sequence[Path], folder: Path, gloss: str, longest: float) -> list[Clip | Refusal]:
    made: dict[int, Clip | Refusal] = {}
    jobs: dict[int, ClipJob] = {}
    for number, source in enumerate(sources):
        target, path = folder / f"{number}.mp4", source.expanduser().absolute()
        known = _prepared(path)
        if known is not None:
            shutil.copyfile(path, target)
            made[number] = dataclasses.replace(known, id=str(number), file=target.name, gloss=gloss, source=str(source))
        elif path.is_file() and not os.access(path, os.R_OK):
            made[number] = Refusal(source, "unreadable", "this user may not read it")
        else:
            jobs[number] = ClipJob(path, target, pictures=True, longest=longest)
    limits = PATIENCE if longest > LONGEST else None
    workers = min(len(jobs), os.cpu_count() or 1)
    numbers = list(jobs)
    for position, outcome in prepare_clips(list(jobs.values()), workers, limits) if jobs else ():
        number = numbers[position]
        if isinstance(outcome, Prepared):
            made[number] = _clip(number, sources[number], gloss, outcome)
        else:
            made[number] = Refusal(sources[number], outcome.reason, " ".join(outcome.detail.split()))
    return [made[number] for number in range(len(sources))]


def _clip(number: int, source: Path, gloss: str, outcome: Prepared) -> Clip:
    return Clip(
        id=str(number),
        file=f"{number}.mp4",
        gloss=gloss,
        source=str(source),
        source_sha256=outcome.source_sha256,
        signer=None,
        official_part=None,
        prompt=None,
        **dataclasses.asdict(outcome.facts),
    )


def _prepared(path: Path) -> Clip | None:
    """The manifest's row of a file that lies in a prepared data set."""
    listed = path.parents[1] / "manifest.jsonl" if len(path.parents) > 1 else path
    return _rows(listed, listed.stat().st_mtime_ns).get(path) if listed.is_file() and listed != path else None


@lru_cache(maxsize=1)
def _rows(manifest: Path, written: int) -> dict[Path, Clip]:
    """Rows by file; of a manifest as it was `written`, so that another is read anew."""
    return {manifest.parent / row.file: row for row in read_manifest(manifest)}
