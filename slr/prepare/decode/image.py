"""An untrusted picture file → upright RGB pictures, or the reason why not. Call it in a guarded child only."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from slr.prepare.decode.crop import even
from slr.prepare.decode.sandbox import Unfit
from slr.prepare.decode.video import LONGEST, NO_VIDEO, SMALLEST_SIDE, beginning, resample

# Not EPS, which PIL hands to Ghostscript, nor formats that no camera writes.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MOST_PIXELS = 2**26  # a telephone's largest photographs have 50 million, 150 MB of RGB


def is_picture(path: Path) -> bool:
    """Whether a file begins like a picture's."""
    return path.is_file() and bool(NO_VIDEO["picture"].match(beginning(path)))


def read_pictures(path: Path, fps: int, longest_side: int) -> Iterator[np.ndarray]:
    """The pictures of a file as uint8 (H, W, 3) RGB: of a still picture the one, of an animation `fps` a second.

    Turned as its EXIF data asks, at most `longest_side` wide and high.

    Raises:
        Unfit: dimensions, before anything is decoded; too_long, or broken.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # PIL's own alarm too, for sizes that show only as a file is read
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check(*image.size)
            image.draft("RGB", (longest_side, longest_side))  # a JPEG need not be decoded in its full size
            yield from resample(_timed(image, longest_side), fps)
    except (Unfit, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unfit("dimensions", f"{error}") from error
    except Exception as error:  # whatever PIL raises on garbage is about this file
        raise Unfit("broken", f"{error} ({type(error).__name__})") from error


def _check(width: int, height: int) -> None:
    if min(width, height) < SMALLEST_SIDE or width * height > MOST_PIXELS:
        allowed = f"pictures from {SMALLEST_SIDE} a side up to {MOST_PIXELS:,} pixels"
        raise Unfit("dimensions", f"{width}×{height}, allowed are {allowed}")


def _timed(image, longest_side: int) -> Iterator[tuple[float, float, np.ndarray]]:  # noqa: ANN001
    """Time and duration of each picture in seconds."""
    from PIL import ImageOps, ImageSequence

    now, size = 0.0, None
    for frame in ImageSequence.Iterator(image):
        _check(*frame.size)  # pages of a TIFF have sizes of their own
        upright = ImageOps.exif_transpose(frame).convert("RGB")
        if size is None:
            scale = min(1.0, longest_side / max(upright.size))
            size = [even(side * scale) for side in upright.size]
        # Browsers show what states less than 0.02 s for 0.1 s; a still picture is a moment.
        stated = float(frame.info.get("duration", 0)) / 1000
        duration = (stated if stated >= 0.02 else 0.1) if getattr(image, "is_animated", False) else 0.0
        if now + duration > LONGEST:
            raise Unfit("too_long", f"it lasts more than {LONGEST:.0f} seconds")
        yield now, duration, np.asarray(upright.resize(size))
        now += duration
