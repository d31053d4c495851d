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
from slr.prepare.labels import ABSENT, ClipRecord
from slr.prepare.layouts.listed import disambiguate, lines, table, videos

LISTS = {"train": ["train_labels.csv"], "val": ["validation_labels.csv", "val_labels.csv"], "test": ["test_labels.csv"]}
NAMES = "SignList_ClassId_TR_EN.csv"
VIDEO = re.compile(r"(?:.*/)?(signer\d+_sample\d+)_color\.mp4")
ROW = re.compile(r"(signer(\d+)_sample\d+)\s*,\s*(\d+)")


def read(folder: Path, lists: Path | None) -> list[ClipRecord]:
    """The clips of the three lists, in order; glosses are English, with the Turkish where two classes share one."""
    lists = lists or folder
    there, names = (
        videos(folder, lambda path: (match := VIDEO.fullmatch(path)) and match[1]),
        table(lists / NAMES, ("ClassId", "TR", "EN")),
    )
    english, turkish = ({row["ClassId"]: row[name].replace("_", " ") for row in names} for name in ("EN", "TR"))
    listed, glosses = [], disambiguate(english, turkish)
    for part, files in LISTS.items():
        path = next((lists / name for name in files if (lists / name).is_file()), lists / files[0])
        for number, line in lines(path):
            row = ROW.fullmatch(line)
            if row is None or row[3] not in glosses:
                wanted = f"signerN_sampleM,class with a class of {NAMES}"
                raise UserError(f"expected {wanted} in {path}, line {number}, found {line[:60]!r}")
            sample, signer, label = row.groups()
            file, given = there.get(sample, ABSENT), f"{sample}_color.mp4"
            listed.append(ClipRecord(sample, file, given, glosses[label], signer, part))
    return listed
