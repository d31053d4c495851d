"""Numbers as a person writes and reads them: bytes and counts."""

import re

from slr.core.errors import UserError

GB = 10**9


def parse_bytes(text: str) -> int:
    """Bytes of a size as a person writes it.

    Raises:
        UserError: it is not a size.

    >>> parse_bytes("8GB"), parse_bytes("1.5 GiB"), parse_bytes("600 MB")
    (8000000000, 1610612736, 600000000)
    """
    match = re.fullmatch(r"\s*(\d+|\d*\.\d+)\s*(GiB|GB|MiB|MB)\s*", text, re.IGNORECASE)
    units = {"gb": GB, "gib": 2**30, "mb": 10**6, "mib": 2**20}
    size = int(float(match[1]) * units[match[2].lower()]) if match else 0
    if size <= 0:
        raise UserError(f"hardware.memory={text}: expected a size such as 8GB or 7.5GiB")
    return size


def format_bytes(size: float) -> str:
    """A number of bytes.

    >>> format_bytes(2_615_000_000), format_bytes(31_000_000)
    ('2.6 GB', '31 MB')
    """
    return f"{size / GB:.1f} GB" if size >= 0.1 * GB else f"{size / 10**6:.0f} MB"


def counted(number: int, noun: str) -> str:
    """A number of things in words.

    >>> counted(1, "file"), counted(2, "file")
    ('1 file', '2 files')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
