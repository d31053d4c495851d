"""`dataset.layout=ms_asl`: MS-ASL, whose lists name stretches of YouTube videos.

`MSASL_train.json`, `MSASL_val.json`, `MSASL_test.json`: each a list of objects with `url`, `start_time` and `end_time`
in seconds, `signer_id`, `text` (the class; `clean_text` and `org_text` are what it was cleaned from) and more.
Published at microsoft.com/en-us/download/details.aspx?id=100121 and described in Vaezi Joze and Koller, "MS-ASL: A
Large-Scale Data Set and Benchmark for Understanding American Sign Language" (BMVC 2019, arXiv 1812.01053). The videos
must be downloaded by the user: whole recordings named after their YouTube id, `<id>.mp4` or, as yt-dlp names
them, `<title> [<id>].mp4`. Nothing is fetched.
"""

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from slr.core.errors import UserError
from slr.data.manifest import PARTS
from slr.prepare.decode.video import Cut
from slr.prepare.encode import FPS
from slr.prepare.labels import ABSENT, ClipRecord, parse_json, read_list, require
from slr.prepare.layouts.listed import videos
from slr.prepare.wlasl.urls import distinct, youtube_id

VIDEO = re.compile(r"(?:.*/)?(?:[^/]* \[)?([A-Za-z0-9_-]{11})\]?\.(?i:mp4|webm|mkv|mov|avi|flv)", re.DOTALL)


def read(folder: Path, lists: Path | None) -> list[ClipRecord]:
    """The clips of the three lists, in their order; recordings may lie at any depth."""
    require(folder)
    listed = []
    for part in PARTS:
        path = (lists or folder) / f"MSASL_{part}.json"
        rows = parse_json(read_list(path), path)
        if not isinstance(rows, list):
            raise UserError(f"expected a list of clips in {path}, found {type(rows).__name__}")
        listed += [_listed(row, part, f"entry {number} of {path}") for number, row in enumerate(rows, start=1)]
    wanted = {youtube_id(row.given) for row in listed}
    there = videos(folder, lambda path: name[1] if (name := VIDEO.fullmatch(path)) and name[1] in wanted else None)
    return [replace(row, file=there.get(youtube_id(row.given) or "", ABSENT)) for row in listed]


def _listed(row: Any, part: str, place: str) -> ClipRecord:  # noqa: ANN401
    """An entry, its video not looked for yet."""
    try:
        address, gloss, signer = str(row["url"]).strip(), str(row["text"]).strip(), row["signer_id"]
        start, end = float(row["start_time"]), float(row["end_time"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"expected url, text, signer_id, start_time and end_time in {place}, found {error!r}") from None
    if not gloss or not 0 <= start <= end < float("inf"):
        raise UserError(f"expected a text and start_time before end_time in {place}, found {gloss!r}, {start}, {end}")
    address = address if "://" in address else f"https://{address}"  # some are listed without
    first = round(start * FPS) + 1  # of 25 a second, counted from 1: the pictures that are shown from start to end
    cut = Cut(first, max(first, round(end * FPS)))
    name = youtube_id(address) or PurePosixPath(address).stem
    return ClipRecord(
        id=f"{name}_{cut.first}-{cut.last}",
        file=ABSENT,
        given=address,
        gloss=gloss,
        signer=str(signer),
        official_part=part,
        cut=cut,
        segment=f"{distinct(address)}#{cut.first}-{cut.last}",
    )
