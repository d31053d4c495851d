"""Text for a terminal."""

from collections.abc import Sequence

ABSENT = "–"


Row = Sequence[str]


def aligned(rows: Sequence[Row]) -> str:
    """Rows as text, each column as wide as its widest cell; numbers to the right, under a title of their own.

    >>> print(aligned([["name", "n"], ["a", "10"], ["bc", "9"]]))
    name   n
    a     10
    bc     9
    """
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(cell[:1].isdigit() or cell == ABSENT for cell in column[1:]) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
