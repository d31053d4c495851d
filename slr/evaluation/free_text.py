"""What free texts are worth as names of signs: exact match, and what the beams of a search were."""

from collections.abc import Sequence
from typing import Any

from slr.models.metrics import wilson


def exact_match(texts: Sequence[Sequence[str]], glosses: Sequence[str], vocabulary: Sequence[str]) -> dict[str, Any]:
    """How often a text is the true gloss, letter by letter but for capitals and spaces.

    A measure of the model and of the search together: a search that is not held to the vocabulary spends beams on what
    is no gloss, and finds some glosses twice, so that its top-5 is not comparable with that of a ranking.

    Args:
        texts: of n clips, those of each clip best first.
        glosses: n true ones.
        vocabulary: what counts as a gloss.

    Returns:
        `n`, `beams` (most texts of a clip), `top1` and `top5` with `<metric>_interval` (Wilson's), and of all texts the
        shares `no_gloss` and `doubled`, a gloss that an earlier text of the same clip is already.

    Raises:
        ValueError: no clip, or as many glosses as there are not clips.

    >>> exact_match([["yes", "yes", "yeah"], ["no"]], ["yes", "yes"], ["yes", "no"])["doubled"]
    0.25
    """
    if len(texts) != len(glosses):
        raise ValueError(f"expected as many texts as glosses, found {len(texts)} and {len(glosses)}")
    if not texts:
        raise ValueError("expected at least one clip, found none")
    known = {_plain(gloss) for gloss in vocabulary}
    plain = [[_plain(text) for text in found] for found in texts]
    pairs = [(found, _plain(gloss)) for found, gloss in zip(plain, glosses, strict=True)]
    places = [found.index(true) if true in found else None for found, true in pairs]
    total = max(1, sum(len(found) for found in plain))
    told: dict[str, Any] = {"n": len(texts), "beams": max(len(found) for found in plain)}
    for name, first in (("top1", 1), ("top5", 5)):
        share = sum(place is not None and place < first for place in places) / len(places)
        figure = wilson(share, len(places))
        told |= {name: figure.value, f"{name}_interval": [figure.low, figure.high]}
    doubled = sum(text in known and text in found[:at] for found in plain for at, text in enumerate(found))
    strange = sum(text not in known for found in plain for text in found)
    return told | {"no_gloss": strange / total, "doubled": doubled / total}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
