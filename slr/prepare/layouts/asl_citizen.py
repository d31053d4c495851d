"""`dataset.layout=asl_citizen`: ASL Citizen as its archive unpacks.

`ASL_Citizen/videos/*.mp4`, and `ASL_Citizen/splits/{train,val,test}.csv` with the columns `Participant ID`,
`Video file`, `Gloss`, `ASL-LEX Code`. Described in Desai et al., "ASL Citizen: A Community-Sourced Dataset for
Advancing Isolated Sign Language Recognition" (NeurIPS 2023, arXiv 2304.05934) and read so by its authors' code
(github.com/microsoft/ASL-citizen-code). Its parts share no signer.
"""

from pathlib import Path

from slr.data.manifest import PARTS
from slr.prepare.layouts.listed import Listed, table, videos

SIGNER, VIDEO, GLOSS = "Participant ID", "Video file", "Gloss"


def read(folder: Path, lists: Path | None) -> list[Listed]:
    """What the three lists name, in their order. A name of a file tells no gloss: some contradict the list.

    Args:
        folder: `ASL_Citizen`, which holds `videos`.
        lists: The folder of the three lists; None is `splits` in `folder`.

    Raises:
        UserError: A list or the folder of the videos is not there, or not of this layout.
    """
    there = videos(folder / "videos", lambda path: path)
    places = {part: (lists or folder / "splits") / f"{part}.csv" for part in PARTS}
    return [
        Listed(
            name=row[VIDEO].removesuffix(".mp4"),
            given=f"videos/{row[VIDEO]}",
            file=there.get(row[VIDEO]),
            gloss=row[GLOSS],
            signer=row[SIGNER],
            part=part,
        )
        for part, place in places.items()
        for row in table(place, (SIGNER, VIDEO, GLOSS))
    ]
