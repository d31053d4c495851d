"""Text for a terminal."""

import math
import shutil
import sys
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


def folded(rows: Sequence[Row], keep: int, width: float | None = None) -> str:
    """As `aligned`, in several tables where one would be too wide; each begins with the first `keep` columns.

    Args:
        rows: the title's and the others.
        keep: columns that name a row.
        width: characters; None is the terminal's, and without a terminal nothing is too wide.

    >>> print(folded([["run", "top1", "seconds"], ["a", "0.5", "10"]], 1, 12))
    run  top1
    a     0.5
    <BLANKLINE>
    run  seconds
    a         10
    """
    if width is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf
    tables, start = [], keep
    while start < len(rows[0]):
        for end in range(len(rows[0]), start, -1):
            table = aligned([[*row[:keep], *row[start:end]] for row in rows])
            if max(map(len, table.splitlines())) <= width:
                break
        tables.append(table)
        start = end
    return "\n\n".join(tables)
