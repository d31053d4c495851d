"""`dataset.layout=include`: INCLUDE, Indian Sign Language, as its archives unpack.

`<Category>/<number>. <word>/MVI_<number>.MOV` (some `.MP4`, some a folder deeper, two words without a number), the
archives of one category in one folder or each in one of its own, such as `Adjectives_1of8/Adjectives/…`. Published at
zenodo.org/record/4010759 with two lists, `train_include.csv` and `test_include.csv` (columns
`Category,Word,Video,FilePath`); the authors' code (github.com/AI4Bharat/INCLUDE) brings three,
`include_{train,val,test}.txt`, a path a line. Described in Sridhar et al., "INCLUDE: A Large Scale Dataset for Indian
Sign Language Recognition" (ACM Multimedia 2020). Signers are not published.
"""

import re
from pathlib import Path, PurePosixPath

from slr.core.errors import UserError
from slr.prepare.labels import ABSENT, ClipRecord
from slr.prepare.layouts.listed import lines, table, videos

# The authors' three lists come first: the published pair has nothing to choose a checkpoint by.
LISTS = (
    {"train": "include_train.txt", "val": "include_val.txt", "test": "include_test.txt"},
    {"train": "train_include.csv", "test": "test_include.csv"},
)
PLACES = ("", "Train_Test_Split", "train_test_paths")  # in the folder of the data set
ARCHIVE = re.compile(r"[^/]+_\d+of\d+/(?=[^/]+/[^/]+/)")
NUMBER = re.compile(r"\s*(?:\d+|Ex)\.\s*")


def read(folder: Path, lists: Path | None) -> list[ClipRecord]:
    """The clips of the lists, in their order; without lists every video that is there, of no part.

    A gloss is the word in lower case, without its number: as in the authors' code, a word of two categories is one
    sign. Lists and files are compared without the files' extension, which some lists have wrong.
    """
    there = videos(folder, _key)
    listed = _listed(folder, lists)
    if listed is None:
        listed = [(None, path.relative_to(folder).as_posix()) for path in there.values()]
    records = []
    for part, path in listed:
        key = _key(path)
        if key is None:
            raise UserError(f"expected Category/Number. Word/video.MOV in INCLUDE's lists, found {path[:80]!r}")
        word = NUMBER.sub("", key.split("/")[1], count=1).strip().lower()
        records.append(ClipRecord(key.replace("/", "_"), there.get(key, ABSENT), path, word, official_part=part))
    return records


def _key(path: str) -> str | None:
    """Category, word and video, without archive and extension; None for what is no video of the data set.

    >>> _key("Adjectives_1of8/Adjectives/1. loud/MVI_5177.MOV"), _key("Train_Test_Split/a.csv")
    ('Adjectives/1. loud/MVI_5177', None)
    """
    pure = PurePosixPath(ARCHIVE.sub("", path, count=1))
    is_video = len(pure.parts) >= 3 and pure.suffix.lower() in (".mov", ".mp4")
    return str(pure.with_suffix("")) if is_video else None


def _listed(folder: Path, lists: Path | None) -> list[tuple[str, str]] | None:
    """Part and path of every listed video; None where no lists are there and none were asked for."""
    places = [folder / name for name in PLACES] if lists is None else [lists]
    for place in places:
        for names in LISTS:
            if all((place / name).is_file() for name in names.values()):
                return [(part, path) for part, name in names.items() for path in _paths(place / name)]
    if lists is not None:
        wanted = " or ".join(", ".join(names.values()) for names in LISTS)
        raise UserError(f"expected the lists {wanted} in {lists}, found neither; set dataset.labels to their folder")
    return None


def _paths(path: Path) -> list[str]:
    if path.suffix == ".csv":
        return [row["FilePath"] for row in table(path, ("FilePath",))]
    return [line for _, line in lines(path)]
