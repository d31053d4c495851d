"""The manifest: one JSON line for each verified clip of a prepared data set, and the same for rejected videos.

A prepared data set is a folder: `manifest.jsonl`, `rejected.jsonl`, `clips/<id>.mp4` and `source.json`, which says
what it was made from. Training opens only files that a manifest names.
"""

import dataclasses
import json
import typing
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from slr.core.errors import UserError
from slr.core.files import write_whole

PARTS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True, slots=True)
class Clip:
    """One verified video of one sign.

    >>> clip = Clip("07", "clips/07.mp4", "hello", 35, 25.0, 160, 160, "ab", "/raw/07.mov", "cd", "anna", "train", None)
    >>> clip.frames / clip.fps  # seconds
    1.4
    """

    id: str  # unique in the manifest
    file: str  # the prepared file, relative to the manifest's folder, with forward slashes
    gloss: str
    frames: int  # as decoded, never as a header says
    fps: float
    width: int  # pixels
    height: int  # pixels
    sha256: str  # of the prepared file
    source: str  # where it came from, as it was given
    source_sha256: str  # of the file it was made from: equal for identical files under two names
    signer: str | None
    official_part: str | None  # the data set's own split: train, val or test
    prompt: str | None  # the clip's own question, which wins over the run's
    segment: str | None = None  # recording and range: equal where a data set gives one stretch of video several glosses

    def __post_init__(self) -> None:
        path = PurePosixPath(self.file)
        # A drive or a backslash leaves the folder on Windows only, where a manifest may be copied to.
        windows = "\\" in self.file or PureWindowsPath(self.file).drive
        if not self.file or path.is_absolute() or ".." in path.parts or windows:
            raise UserError(f"expected a file inside the manifest's folder for clip {self.id!r}, found {self.file!r}")
        if self.official_part not in (None, *PARTS):
            raise UserError(f"clip {self.id}: expected official_part train, val or test, found {self.official_part!r}")
        if self.frames < 1:
            raise UserError(f"expected at least 1 frame in clip {self.id!r}, found {self.frames}")


@dataclasses.dataclass(frozen=True, slots=True)
class Rejected:
    """One listed video that did not become a clip, and why."""

    id: str  # the id it would have had
    file: str  # as it was given
    gloss: str
    reason: str  # a code, for counting
    detail: str  # a sentence, for reading
    official_part: str | None = None  # as of a clip
    segment: str | None = None


Row = typing.TypeVar("Row", Clip, Rejected)


def read_manifest(path: Path) -> list[Clip]:
    """The clips of a manifest in the file's order.

    Raises:
        UserError: it is missing, malformed or has an id twice, or a clip's file leaves its folder through a link.
    """
    clips = _read_rows(path, Clip)
    _refuse_links(path.parent, clips)
    name, count = Counter(clip.id for clip in clips).most_common(1)[0] if clips else ("", 0)
    if count > 1:
        raise UserError(f"expected unique clip ids in {path}, found {name!r} more than once; prepare it again")
    return clips


def write_manifest(path: Path, rows: Iterable[Clip] | Iterable[Rejected]) -> None:
    """Write clips, or rejected videos, as JSON Lines, whole or not at all."""
    lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in rows]
    # A path that is not Unicode holds lone surrogates, which become JSON's own escapes for them.
    write_whole(path, "".join(lines).encode("utf-8", "backslashreplace").decode("utf-8"))


write_rejected = write_manifest


def read_rejected(path: Path) -> list[Rejected]:
    """Rejected videos in the file's order; raises UserError for a missing or malformed file."""
    return _read_rows(path, Rejected)


def _read_rows(path: Path, kind: type[Row]) -> list[Row]:
    try:
        # Not splitlines(): a gloss may hold U+2028, which JSON leaves as it is and splitlines() takes for a new line.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a manifest, found none readable ({error}); prepare the data") from None
    types = typing.get_type_hints(kind)  # once, since it is as slow as reading a row
    return [_read_row(line, kind, types, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line]


def _read_row(line: str, kind: type[Row], types: dict[str, typing.Any], place: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"expected one JSON object in {place}, found {error}; prepare the data again") from None
    required = {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    if not isinstance(row, dict) or not required <= row.keys() <= types.keys():
        found = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"expected the keys {', '.join(types)} in {place}, found {found}; prepare the data again")
    for name, value in row.items():
        if not isinstance(value, int | float if types[name] is float else types[name]):
            raise UserError(f"expected another type for {name} in {place}, found {value!r}; prepare the data again")
    return kind(**row)


def _refuse_links(folder: Path, clips: list[Clip]) -> None:
    """Raise UserError if a clip's file, or a folder on the way to it, is a link that may leave the folder."""
    parents = {PurePosixPath(clip.file).parent for clip in clips}
    inside = {parent: (folder / parent).resolve().is_relative_to(folder.resolve()) for parent in parents}
    for clip in clips:
        if not inside[PurePosixPath(clip.file).parent] or (folder / clip.file).is_symlink():
            raise UserError(f"expected the file of clip {clip.id!r} in {folder}, found a link, which may lead anywhere")
