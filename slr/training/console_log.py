"""Tee stdout and stderr into a run's log.txt."""

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, TextIO

from slr.core.distributed import Lost
from slr.core.errors import UserError, one_line

BAR = re.compile(r"\|.*\| *\d+/(\d+|\?) \[")  # a progress bar of tqdm's


class _Tee:
    """A stream that also writes into a file: whole lines, without progress bars."""

    def __init__(self, stream: TextIO, file: IO[str], blanks: bool) -> None:
        self._stream = stream
        self._file = file
        self._blanks = blanks
        self._line = ""

    def write(self, text: str) -> int:
        *whole, self._line = (self._line + text).split("\n")
        for line in whole:
            shown = _visible(line)
            if shown or (self._blanks and not line):
                self._file.write(shown + "\n")
        self._line = self._line.rpartition("\r")[2]
        self._file.flush()
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def end(self) -> None:
        """Write a last line without a line break."""
        if text := _visible(self._line):
            self._file.write(text + "\n")

    def __getattr__(self, name: str) -> object:  # isatty, fileno, encoding …: of the stream itself
        return getattr(self._stream, name)


def _visible(line: str) -> str:
    r"""What a line shows in the end, without progress bars.

    >>> _visible("10 %\r50 %\r100 %\x1b[A"), _visible("Epoch 0: 50%|##  | 1/2 [00:01<00:01, 1.0it/s]")
    ('100 %', '')
    """
    parts = [part.rstrip() for part in line.replace("\x1b[A", "\r").split("\r") if part.strip()]
    return next((part for part in reversed(parts) if not BAR.search(part)), "")


@contextmanager
def transcribed(path: Path) -> Iterator[None]:
    """Within it, what Python writes to stdout and stderr is also appended to `path`, and the error that ends it."""
    with path.open("a", encoding="utf-8") as file:
        out, err = _Tee(sys.stdout, file, blanks=True), _Tee(sys.stderr, file, blanks=False)  # a bar writes blank lines
        try:
            with redirect_stdout(out), redirect_stderr(err):  # pyright: ignore[reportArgumentType]
                yield
        except Lost as error:
            file.write(f"error: {error.reason}\n" if error.reason else "")
            raise
        except Exception as error:
            file.write(f"error: {one_line(error)}\n" if isinstance(error, UserError) else traceback.format_exc())
            raise
        finally:
            out.end()
            err.end()
