"""`dataset.layout=asl_citizen`: ASL Citizen as its archive unpacks.

`ASL_Citizen/videos/*.mp4`, and `ASL_Citizen/splits/{train,val,test}.csv` with the columns `Participant ID`,
`Video file`, `Gloss`, `ASL-LEX Code`. Described in Desai et al., "ASL Citizen: A Community-Sourced Dataset for
Advancing Isolated Sign Language Recognition" (NeurIPS 2023, arXiv 2304.05934) and read so by its authors' code
(github.com/microsoft/ASL-citizen-code). Its parts share no signer.
"""

from pathlib import Path

from slr.data.manifest import PARTS
from slr.prepare.labels import ABSENT, ClipRecord
from slr.prepare.layouts.listed import table, videos

SIGNER, VIDEO, GLOSS = "Participant ID", "Video file", "Gloss"


def read(folder: Path, lists: Path | None) -> list[ClipRecord]:
    """The clips of the three lists (in `splits`), in order. File names are no glosses: some contradict them."""
    there = videos(folder / "videos", str)
    return [
        ClipRecord(
            id=row[VIDEO].removesuffix(".mp4"),
            file=there.get(row[VIDEO], ABSENT),
            given=f"videos/{row[VIDEO]}",
            gloss=row[GLOSS],
            signer=row[SIGNER],
            official_part=part,
        )
        for part in PARTS
        for row in table((lists or folder / "splits") / f"{part}.csv", (SIGNER, VIDEO, GLOSS))
    ]
