"""A labels file → one record for each video that it names."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slr.core.errors import UserError
from slr.data.manifest import PARTS, Rejected
from slr.prepare.decode.video import WHOLE, Cut

ABSENT = Path(os.devnull)  # in place of a file that is listed and not there
FILE, GLOSS, SIGNER = ("file", "video_path"), ("gloss",), ("signer", "signer_id")


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """One video that a list names."""

    id: str  # unique, and safe as a file name anywhere
    file: Path
    given: str  # the file as the list names it
    gloss: str
    signer: str | None = None
    official_part: str | None = None
    cut: Cut = WHOLE
    prompt: str | None = None
    segment: str | None = None  # recording and range, where several records may name the same
    address: str | None = None  # where the recording lies in the network

    def rejected(self, reason: str, detail: str) -> Rejected:
        """The row of rejected.jsonl that says why it is no clip."""
        return Rejected(self.id, self.given, self.gloss, reason, detail, self.official_part, self.segment)


def read_labels(labels: Path, clips: Path) -> list[ClipRecord]:
    """Read a labels file and check that every video is there, without opening any.

    Args:
        labels: A JSON list of records, a JSON object of id → record, or CSV with a header. A record has `file` or
            `video_path`, `gloss`, and may have `signer` or `signer_id`, `split` and `prompt`; the rest is ignored.
        clips: The folder that relative paths start from.

    Raises:
        UserError: Something is missing or ambiguous, or there are fewer than two glosses.
    """
    require(clips)
    taken: set[str] = set()
    rows = enumerate(_rows(labels), start=1)
    records = [_record(key, row, clips, f"record {number} of {labels}", taken) for number, (key, row) in rows]
    missing = [record.file for record in records if not record.file.exists()]
    if missing:
        count = f"{len(missing)} of {len(records)}"
        raise UserError(f"expected every video that {labels} names, found {count} missing, the first {missing[0]}")
    glosses = {record.gloss for record in records}
    if len(glosses) < 2:
        raise UserError(f"expected at least two glosses in {labels}, found {len(glosses)} in {len(records)} records")
    return records


def _rows(labels: Path) -> Iterable[tuple[str | None, dict[str, Any]]]:
    text = read_list(labels)
    if not text.lstrip().startswith(("[", "{")):
        lines = list(parse_csv(text))
        for number, row in lines:
            if None in row:
                cells = f"{len(row) - 1} cells in {labels}, line {number}"
                raise UserError(f"expected {cells}, found more; quote values that hold separators")
        return [(None, row) for _, row in lines]
    content = parse_json(text, labels)
    rows = list(content.items()) if isinstance(content, dict) else [(None, row) for row in content]
    for number, (_, row) in enumerate(rows, start=1):
        if not isinstance(row, dict):
            what = f"{type(row).__name__} {str(row)[:40]!r} as number {number}"
            raise UserError(f"expected records in {labels}, found {what}")
    return rows


def _record(key: str | None, row: dict[str, Any], clips: Path, place: str, taken: set[str]) -> ClipRecord:
    given, gloss = _value(row, FILE, place), _value(row, GLOSS, place)
    if given is None or gloss is None:
        fields = f"{given!r} and {gloss!r} in the fields {', '.join(map(str, row))}"
        raise UserError(f"expected a value for {' or '.join(FILE)} and for gloss in {place}, found {fields}")
    part = _value(row, ("split",), place)
    if part is not None and part not in PARTS:
        raise UserError(f"expected split train, val or test in {place}, found {part!r}")
    return ClipRecord(
        id=unique(key or Path(given).stem, taken),
        file=clips.absolute() / given,
        given=given,
        gloss=gloss,
        signer=_value(row, SIGNER, place),
        official_part=part,
        prompt=_value(row, ("prompt",), place),
    )


def _value(row: dict[str, Any], names: tuple[str, ...], place: str) -> str | None:
    """The first of these fields that is not empty, as text; None where there is none."""
    for value in (row[name] for name in names if name in row):
        if isinstance(value, list | dict | bool):
            raise UserError(f"expected text for {' or '.join(names)} in {place}, found {value!r}")
        if value is not None and str(value).strip():
            return str(value).strip()
    return None


def read_list(path: Path) -> str:
    """The text of a list; raises UserError where there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"expected UTF-8 text at {path}, cannot read it ({error}); set dataset.labels") from None


def parse_json(text: str, path: Path) -> Any:  # noqa: ANN401
    """The content of a JSON list; raises UserError where it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"expected JSON in {path}, found {error}") from None


def parse_csv(text: str) -> Iterator[tuple[int, dict[Any, Any]]]:
    """Line number and row of CSV with a header, without spaces around values; what has no column is under None."""
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)  # many spreadsheets write semicolons
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    for row in reader:
        yield reader.line_num, {name and name.strip(): value for name, value in row.items()}


def require(folder: Path) -> None:
    """Refuse a folder of videos that does not exist."""
    if not folder.is_dir():
        raise UserError(f"expected the folder of the videos at {folder}, found none; set dataset.clips")


def unique(name: str, taken: set[str]) -> str:
    """A name that is not among `taken`, and is from then on, of characters that every file system takes.

    Names that differ in case only count as one.

    >>> taken = {"gr_e_1"}
    >>> unique("../Größe, 1", taken), sorted(taken)
    ('Gr_e_1-2', ['gr_e_1', 'gr_e_1-2'])
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:100] or "clip"
    candidate, number = safe, 1
    while candidate.casefold() in taken:
        number += 1
        candidate = f"{safe}-{number}"
    taken.add(candidate.casefold())
    return candidate
