"""Text for a terminal."""

from collections.abc import Sequence

ABSENT = "–"


def aligned(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Rows as text, each column as wide as its widest cell; numbers to the right, under a title of their own.

    Args:
        rows: the first one has the titles.
        width: characters; columns beyond it follow in further blocks, each of which begins with the first column.

    >>> print(aligned([["name", "n"], ["a", "10"], ["bc", "9"]]))
    name   n
    a     10
    bc     9
    >>> print(aligned([["", "name", "n"], ["1", "ab", "10"]], width=8))
       name
    1  ab
    <BLANKLINE>
        n
    1  10
    """
    first, *others = [_padded(column) for column in zip(*rows, strict=True)]
    blocks, used = [[first]], len(first[0])
    for column in others:
        needed = 2 + len(column[0])
        if width and len(blocks[-1]) > 1 and used + needed > width:
            blocks.append([first])
            used = len(first[0])
        blocks[-1].append(column)
        used += needed
    return "\n\n".join("\n".join("  ".join(row).rstrip() for row in zip(*block, strict=True)) for block in blocks)


def _padded(column: Sequence[str]) -> list[str]:
    width = max(map(len, column))
    to_right = all(cell[:1].isdigit() or cell == ABSENT for cell in column[1:])
    return [cell.rjust(width) if to_right else cell.ljust(width) for cell in column]
