"""Score generated texts as names of signs: exact match, and how the beams of a search were spent."""

from collections.abc import Sequence
from typing import Any

from slr.evaluation.results import with_intervals
from slr.models.metrics import wilson


def exact_match(texts: Sequence[Sequence[str]], glosses: Sequence[str], vocabulary: Sequence[str]) -> dict[str, Any]:
    """How often a text is the true gloss, letter by letter but for capitals and spaces.

    This measures the model and the search together: a search that is not restricted to the vocabulary spends beams on
    texts that are no gloss, and finds some glosses twice, so its top-5 is not comparable with that of a ranking.

    Args:
        texts: of n clips, one or more, those of each clip best first.
        glosses: n true ones.
        vocabulary: what counts as a gloss.

    Returns:
        `n`, `beams` (most texts of a clip), `top1` and `top5` with `<metric>_interval` (Wilson's), and of all texts the
        shares `no_gloss` and `doubled`, a gloss that an earlier text of the same clip is already.

    >>> exact_match([["yes", "yes", "yeah"], ["no"]], ["yes", "yes"], ["yes", "no"])["doubled"]
    0.25
    """
    known = {_plain(gloss) for gloss in vocabulary}
    plain = [[_plain(text) for text in own] for own in texts]
    hits = {
        name: [_plain(gloss) in own[:k] for own, gloss in zip(plain, glosses, strict=True)]
        for name, k in (("top1", 1), ("top5", 5))
    }
    shares = {name: wilson(sum(hit) / len(hit), len(hit)) for name, hit in hits.items()}
    total = max(1, sum(map(len, plain)))
    strange = sum(text not in known for own in plain for text in own)
    doubled = sum(text in known and text in own[:at] for own in plain for at, text in enumerate(own))
    counts = {"n": len(texts), "beams": max(map(len, plain))}
    return counts | with_intervals(shares) | {"no_gloss": strange / total, "doubled": doubled / total}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
