"""Many small records in two files that only grow; one process at a time writes them, any number read.

`data.bin` has the records one after another, `index.bin` a row of 32 bytes for each, written after the record itself
is on the disk. A killed writer or a full disk leaves a record without a row, or half a row: readers ignore it, and the
next writer cuts it off. A row that a power cut turned into zeros does not start where the one before it ends; it and
all that follow are ignored.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from slr.core.errors import UserError
from slr.core.locks import exclusive
from slr.core.units import format_bytes

LAYOUT = 1  # of the two files; another layout needs another folder
KEY = 16  # bytes of a key's digest: two of a million keys are equal with a probability of 1e-27
ROW = np.dtype([("key", f"S{KEY}"), ("start", "<u8"), ("length", "<u8")])
COMMIT_SECONDS = 2.0  # what a killed writer loses at most


class Pack:
    """The records that a folder had when it was first read; pickles without them and holds no file open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getstate__(self) -> dict[str, Path]:
        return {"folder": self.folder}

    def __len__(self) -> int:
        return len(self._rows)

    def reopen(self) -> None:
        """Read the index again at the next use."""
        self.__dict__ = self.__getstate__()

    def has(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Which of n keys have a record: bool (n,)."""
        return self._find(keys) >= 0

    def read(self, keys: Sequence[str]) -> list[NDArray[np.uint8]]:
        """The records of some keys, in their order: uint8 (length,) each.

        Raises:
            UserError: a key has no record, or the records cannot be read.
        """
        places = self._find(keys)
        try:
            if (places < 0).any():
                raise OSError(f"no record of {keys[int(np.argmin(places))]}")
            rows = self._rows[places]
            records = [np.empty(length, np.uint8) for length in rows["length"]]
            # Opened anew each time, for 10 µs: forked workers that share an open file also share its position.
            with (self.folder / "data.bin").open("rb") as file:
                for start, record in zip(rows["start"], records, strict=True):
                    file.seek(start)
                    if (count := file.readinto(record.data)) < len(record):
                        raise OSError(f"{len(record) - count} bytes are missing at {start + count}")
        except OSError as error:
            raise UserError(
                f"expected whole records in {self.folder}, found: {error}; delete that folder, it will be made again"
            ) from error
        return records

    def _find(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Places in the rows, -1 where there is none: int64 (n,)."""
        if not len(self._rows):
            return np.full(len(keys), -1)
        wanted = _digests(keys)
        places = np.minimum(np.searchsorted(self._keys, wanted), len(self._rows) - 1)
        return np.where(self._keys[places] == wanted, places, -1)

    @cached_property
    def _rows(self) -> NDArray[np.void]:
        rows = _whole_rows(self.folder)
        return rows[np.argsort(rows["key"], kind="stable")]

    @cached_property
    def _keys(self) -> NDArray[np.bytes_]:
        return np.ascontiguousarray(self._rows["key"])  # or every search would copy the column


class Writer:
    """Adds records to a folder; made by `writing`. Raises UserError where the disk is full."""

    def __init__(self, folder: Path) -> None:
        rows = _whole_rows(folder)
        self.folder = folder
        self._end = int(rows["length"].sum())  # of the whole records
        self._data = _open_at(folder / "data.bin", self._end)
        self._index = _open_at(folder / "index.bin", rows.nbytes)
        self._pending: list[tuple[bytes, int, int]] = []  # rows of records that may not have reached the disk
        self._committed_at = time.monotonic()

    def append(self, key: str, record: bytes) -> None:
        """Add one record, at least one byte under a new key; readers find it a few seconds later."""
        with _explained(self.folder):
            _write(self._data, record)
        self._pending.append((bytes(_digests([key])[0]), self._end, len(record)))
        self._end += len(record)
        if time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Let readers find every record that was added."""
        if self._pending:
            with _explained(self.folder):
                os.fsync(self._data.fileno())
                _write(self._index, np.array(self._pending, ROW).tobytes())
                os.fsync(self._index.fileno())
        self._pending, self._committed_at = [], time.monotonic()

    def close(self) -> None:
        """Commit the whole records and cut off half a record."""
        with self._data, self._index:
            with _explained(self.folder):
                self._data.truncate(self._end)  # on a full disk, room that the rows need
            self.commit()


@contextmanager
def writing(folder: Path) -> Iterator[Writer]:
    """Add records to a folder, which is made if needed; waits for another process that writes there.

    Whole records are kept, however the block ends.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    with exclusive(folder):
        with _explained(folder):
            writer = Writer(folder)
        try:
            yield writer
        finally:
            writer.close()


def require_room(folder: Path, size: float, remedy: str) -> None:
    """Raise UserError, with a remedy, where `size` bytes do not fit on the disk of a folder."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"expected {format_bytes(size)} free in {folder}, found {format_bytes(free)}; make room, or {remedy}"
        )


def _open_at(path: Path, end: int) -> BinaryIO:
    """A file to append to, cut to its first `end` bytes."""
    file = path.open("ab", buffering=0)
    file.truncate(end)
    return file


def _write(file: BinaryIO, content: bytes) -> None:
    left = memoryview(content)
    while left:  # a disk that fills up takes a part first
        left = left[file.write(left) :]


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"expected to write into {folder}, found: {error}; make room and start again, whole records are kept"
        ) from error


def _whole_rows(folder: Path) -> NDArray[np.void]:
    """Rows of whole records, in the order of writing."""
    try:
        content = (folder / "index.bin").read_bytes()
        size = (folder / "data.bin").stat().st_size
    except FileNotFoundError:
        return np.empty(0, ROW)
    except OSError as error:
        raise UserError(f"expected to read {folder}, found: {error}") from error
    rows = np.frombuffer(content, ROW, len(content) // ROW.itemsize)
    ends = rows["start"] + rows["length"]
    starts = np.concatenate([np.zeros(1, np.uint64), ends])[: len(rows)]
    whole = (rows["start"] == starts) & (rows["length"] > 0) & (ends <= size)
    return rows if whole.all() else rows[: int(np.argmin(whole))]


def _digests(keys: Sequence[str]) -> NDArray[np.bytes_]:
    return np.frombuffer(b"".join(hashlib.blake2b(key.encode(), digest_size=KEY).digest() for key in keys), ROW["key"])
