"""`dataset.layout=lsa64`: LSA64, Argentinian Sign Language, in its raw or its cut version.

`<sign>_<person>_<repetition>.mp4`, three digits each: 64 signs by 10 people, 5 times each. Described, with the table of
the signs' names, at facundoq.github.io/datasets/lsa64 and in Ronchetti et al., "LSA64: An Argentinian Sign Language
Dataset" (CACIC 2016). It has no parts of its own. Two different people bear the number 10, in signs that do not
overlap; under one name they stay on one side of `split=signer`.
"""

import re
from itertools import product
from pathlib import Path

from slr.core.errors import UserError
from slr.prepare.labels import ABSENT, ClipRecord
from slr.prepare.layouts.listed import disambiguate, lines, videos

# By number, from 1 on. Two signs are published as Red.
ENGLISH = (
    "Opaque, Red, Green, Yellow, Bright, Light-blue, Colors, Red, Women, Enemy, Son, Man, Away, Drawer, Born, Learn, "
    "Call, Skimmer, Bitter, Sweet milk, Milk, Water, Food, Argentina, Uruguay, Country, Last name, Where, Mock, "
    "Birthday, Breakfast, Photo, Hungry, Map, Coin, Music, Ship, None, Name, Patience, Perfume, Deaf, Trap, Rice, "
    "Barbecue, Candy, Chewing-gum, Spaghetti, Yogurt, Accept, Thanks, Shut down, Appear, To land, Catch, Help, Dance, "
    "Bathe, Buy, Copy, Run, Realize, Give, Find"
)
NAMES = ENGLISH.split(", ")
PEOPLE, REPETITIONS = 10, 5
VIDEO = re.compile(r"(?:.*/)?(\d{3}_\d{3}_\d{3})\.mp4")


def read(folder: Path, lists: Path | None) -> list[ClipRecord]:
    """Every sign, person and repetition, in this order. Glosses are the English names; those of both Reds say which.

    Args:
        folder: Where the videos lie, at any depth; of one version.
        lists: A file of other names, a line `number|name|…` for each sign, as published; None takes the English.
    """
    there, glosses = videos(folder, lambda path: (match := VIDEO.fullmatch(path)) and match[1]), _glosses(lists)
    listed = []
    for sign, person, repetition in product(glosses, range(1, PEOPLE + 1), range(1, REPETITIONS + 1)):
        name = f"{sign}_{person:03d}_{repetition:03d}"
        listed.append(ClipRecord(name, there.get(name, ABSENT), f"{name}.mp4", glosses[sign], f"{person:03d}"))
    return listed


def _glosses(path: Path | None) -> dict[str, str]:
    """Sign, as three digits -> gloss."""
    numbers = [f"{number:03d}" for number in range(1, len(NAMES) + 1)]
    names = dict(zip(numbers, NAMES, strict=True))
    if path is not None:
        rows = [line.split("|") for _, line in lines(path)]
        names = {row[0].strip().zfill(3): row[1].strip() for row in rows if len(row) > 1 and row[1].strip()}
        if sorted(names) != numbers:
            wanted = f"expected a line number|name for each of the signs 1 to {len(NAMES)} in {path}"
            raise UserError(f"{wanted}, found {len(names)} such lines; leave dataset.labels out for the English names")
    return disambiguate(names, {number: str(int(number)) for number in numbers})
