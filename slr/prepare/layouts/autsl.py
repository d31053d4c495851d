"""`dataset.layout=autsl`: AUTSL, Turkish Sign Language, as its archives unpack.

`signer<N>_sample<M>_color.mp4` (and `_depth.mp4`, which is not read) in a folder for each part, and three lists
without a header, `signer<N>_sample<M>,<class>`: `train_labels.csv`, `validation_labels.csv`, `test_labels.csv`.
`SignList_ClassId_TR_EN.csv` names the classes with the columns `ClassId,TR,EN`. Described in Sincan and Keles, "AUTSL:
A Large Scale Multi-Modal Turkish Sign Language Dataset and Baseline Methods" (IEEE Access 8, 2020) and at
chalearnlap.cvc.uab.es/dataset/40/description. Its parts share no signer.
"""

import re
from pathlib import Path

from slr.core.errors import UserError
from slr.prepare.layouts.listed import Listed, table, text, told_apart, videos

LISTS = {"train": ["train_labels.csv"], "val": ["validation_labels.csv", "val_labels.csv"], "test": ["test_labels.csv"]}
NAMES = "SignList_ClassId_TR_EN.csv"
VIDEO = re.compile(r"(?:.*/)?(signer\d+_sample\d+)_color\.mp4")
ROW = re.compile(r"(signer(\d+)_sample\d+)\s*,\s*(\d+)")


def read(folder: Path, lists: Path | None) -> list[Listed]:
    """What the three lists name, in their order; glosses are the English names, where two share one with the Turkish.

    Args:
        folder: Where the videos lie, at any depth.
        lists: The folder of the lists and of the table of names; None is `folder`.

    Raises:
        UserError: A list or the table is not there, or not of this layout.
    """
    there = videos(folder, _sample)
    glosses = _glosses((lists or folder) / NAMES)
    listed = []
    for part in LISTS:
        path = _list(lists or folder, part)
        for number, line in enumerate(text(path).split("\n"), start=1):
            if not line.strip():
                continue
            row = ROW.fullmatch(line.strip())
            if row is None or row[3] not in glosses:
                raise UserError(
                    f"expected signerN_sampleM,class with a class of {NAMES} in {path}, line {number}, found "
                    f"{line.strip()[:60]!r}"
                )
            sample, signer, label = row.groups()
            given = f"{sample}_color.mp4"
            listed.append(Listed(sample, given, there.get(sample), glosses[label], signer, part))
    return listed


def _sample(path: str) -> str | None:
    found = VIDEO.fullmatch(path)
    return found and found[1]


def _glosses(path: Path) -> dict[str, str]:
    rows = table(path, ("ClassId", "TR", "EN"))
    english, turkish = ({row["ClassId"]: row[name].replace("_", " ") for row in rows} for name in ("EN", "TR"))
    return told_apart(english, turkish)


def _list(folder: Path, part: str) -> Path:
    """The list of a part; its usual name where there is none, for the error."""
    paths = [folder / name for name in LISTS[part]]
    return next((path for path in paths if path.is_file()), paths[0])
