"""What a published data set lists → records of the videos that are there, and a row for each one that is not.

A reader of a layout is a function of two folders, that of the data set and that of its lists (None: where the data set
has them), to one record for each clip, with the file `ABSENT` where its video is not there; `divide` makes the ids
unique. It opens no video. It raises UserError where a folder or a list is not there or not of its layout, or a video is
there twice.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from slr.core.errors import UserError
from slr.data.manifest import Rejected
from slr.prepare.labels import ABSENT, ClipRecord, parse_csv, read_list, require, unique


def divide(listed: Iterable[ClipRecord], folder: Path) -> tuple[list[ClipRecord], list[Rejected]]:
    """Records of the videos that are there, rejections of the others; ids do not depend on which are there.

    Raises:
        UserError: none of the videos is there, or they have fewer than two glosses.
    """
    records: list[ClipRecord] = []
    lost: list[Rejected] = []
    taken: set[str] = set()
    for row in listed:
        record = replace(row, id=unique(row.id, taken), file=row.file.absolute())
        if row.file == ABSENT:
            lost.append(record.rejected("missing", f"it is not in {folder}"))
        else:
            records.append(record)
    glosses = len({record.gloss for record in records})
    if not records:
        packed = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".zip", ".7z", ".rar", ".001")]
        remedy = f"unpack {packed[0].name} and its like first" if packed else "set dataset.clips"
        first = f", such as {lost[0].file}" if lost else ""
        raise UserError(f"expected the listed videos in {folder}{first}, found none of {len(lost)}; {remedy}")
    if glosses < 2:
        raise UserError(f"expected at least two glosses in {folder}, found {glosses}; set dataset.clips")
    return records, lost


def videos(folder: Path, key: Callable[[str], str | None]) -> dict[str, Path]:
    """The files under a folder by their key, links left out.

    Args:
        folder: Where to look, at any depth.
        key: Of a path relative to it with forward slashes; None for a file that is none of the data set's.

    Raises:
        UserError: There is no such folder, or two files have one key.
    """
    require(folder)
    files: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for path in (Path(place, name) for name in sorted(names)):
            own = key(path.relative_to(folder).as_posix())
            if own is None or path.is_symlink():  # a link out of an archive may lead anywhere
                continue
            if own in files:
                raise UserError(f"expected one file for {own} in {folder}, found {files[own]} and {path}; remove one")
            files[own] = path
    return files


def lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a list that are not empty, with their numbers; raises UserError where there is no list."""
    return [(number, line.strip()) for number, line in enumerate(read_list(path).split("\n"), start=1) if line.strip()]


def table(path: Path, columns: Collection[str]) -> list[dict[str, str]]:
    """The rows of a CSV list with a header, values without spaces around them.

    Raises:
        UserError: There is no such file, or one of these columns lacks a value somewhere.
    """
    rows = []
    for number, cells in parse_csv(read_list(path)):
        row = {name: (value or "").strip() for name, value in cells.items() if name is not None}
        empty = [name for name in columns if not row.get(name)]
        if empty:
            there = ", ".join(row)
            raise UserError(f"expected a value for {empty[0]} in {path}, line {number}, found none; columns: {there}")
        rows.append(row)
    return rows


def disambiguate(names: Mapping[str, str], marks: Mapping[str, str]) -> dict[str, str]:
    """Names of classes, with a mark behind each that two classes share: two signs never become one gloss.

    >>> disambiguate({"175": "you", "182": "you", "0": "sister"}, {"175": "sen", "182": "siz", "0": "abla"})
    {'175': 'you (sen)', '182': 'you (siz)', '0': 'sister'}
    """
    times = Counter(names.values())
    return {key: name if times[name] == 1 else f"{name} ({marks[key]})" for key, name in names.items()}
