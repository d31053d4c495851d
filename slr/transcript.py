"""What a run says, kept in its folder as well."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, TextIO

BAR = re.compile(r"\|.*\| *\d+/(\d+|\?) \[")  # how tqdm paints one


class _Both:
    """A stream that writes a second time into a file: whole lines, but for progress bars."""

    def __init__(self, stream: TextIO, file: IO[str]) -> None:
        self._stream = stream
        self._file = file
        self._line = ""

    def write(self, text: str) -> int:
        *whole, self._line = (self._line + text).split("\n")
        for line in whole:
            left = _left_to_see(line)
            if left or not line:
                self._file.write(left + "\n")
        self._line = self._line.rpartition("\r")[2]
        self._file.flush()
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def __getattr__(self, name: str) -> object:  # isatty, fileno, encoding …: of the stream itself
        return getattr(self._stream, name)


def _left_to_see(line: str) -> str:
    r"""What a line shows in the end, without what a progress bar has painted.

    >>> _left_to_see("10 %\r50 %\r100 %\x1b[A"), _left_to_see("Epoch 0: 50%|##  | 1/2 [00:01<00:01, 1.0it/s]")
    ('100 %', '')
    """
    parts = [part.rstrip() for part in line.replace("\x1b[A", "").split("\r") if part.strip()]
    return next((part for part in reversed(parts) if not BAR.search(part)), "")


@contextmanager
def transcribed(path: Path) -> Iterator[None]:
    """Within it, whatever Python prints or shows on standard error goes to the end of `path` too."""
    with path.open("a", encoding="utf-8") as file:
        out, err = _Both(sys.stdout, file), _Both(sys.stderr, file)
        with redirect_stdout(out), redirect_stderr(err):  # pyright: ignore[reportArgumentType]
            yield
