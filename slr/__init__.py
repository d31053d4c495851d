"""slr: sign-language recognition with vision-language models.

>>> import slr
>>> callable(slr.load)
True
"""

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slr.predict.recognizer import SignRecognizer


def load(
    path: str | PathLike[str], checkpoint: str = "best", device: str | None = None, base: str | None = None
) -> "SignRecognizer":
    """A trained recognizer, ready to rank clips; see `slr.predict.recognizer.load`."""
    from slr.models.libraries import import_libraries

    import_libraries("slr.predict.recognizer")  # seconds
    from slr.predict import recognizer

    return recognizer.load(path, checkpoint, device, base)
