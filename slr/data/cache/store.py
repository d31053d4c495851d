"""Many small records in two files: a store that only grows, which one process at a time writes and any may read.

`data.bin` has the records one behind the other, `index.bin` a row of 32 bytes for each, written once the record itself
has reached the disk. A killed writer or a full disk leaves a record without a row, or half a row: no reader looks
there, and the next writer cuts it off. A row that a power cut turned into zeros does not begin where the one before it
ends; it and what follows count as not there.
"""

import hashlib
import io
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slr.core.errors import UserError
from slr.core.locks import exclusive

LAYOUT = 1  # of the two files; who changes it puts its records into another folder
KEY = 16  # bytes of a key's digest: two of a million keys share one with a chance of 1e-27
ROW = np.dtype([("key", f"S{KEY}"), ("start", "<u8"), ("length", "<u8")])
COMMIT_BYTES = 32 * 2**20  # what a killed writer loses at most
COMMIT_SECONDS = 2.0


class Pack:
    """The records that a folder had when it was first asked for one.

    Holds no file open and pickles without what it has read, so that every process opens it for itself.

    Args:
        folder: of the two files; where they are not, there are no records.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: NDArray[np.void] | None = None  # by key
        self._keys = np.empty(0, ROW["key"])

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_rows": None, "_keys": self._keys[:0]}

    def __len__(self) -> int:
        return len(self._index())

    def reopen(self) -> None:
        """Take notice of what others have added since."""
        self._rows = None

    def has(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Which of n keys have a record: bool (n,)."""
        return self._find(keys) >= 0

    def read(self, keys: Sequence[str]) -> list[NDArray[np.uint8]]:
        """The records of some keys, in their order: uint8 (length,) each.

        Raises:
            KeyError: a key has no record.
            UserError: the records cannot be read.
        """
        places = self._find(keys)
        if (places < 0).any():
            raise KeyError(keys[int(np.argmin(places))])
        rows = self._index()[places]
        try:
            # Opened anew each time, for 10 µs: forked workers that share an open file share its position, too.
            with (self.folder / "data.bin").open("rb", buffering=0) as file:
                return [_read_at(file, int(row["start"]), int(row["length"])) for row in rows]
        except OSError as error:
            raise UserError(
                f"expected whole records in {self.folder}, found: {error}; delete that folder, it will be made again"
            ) from error

    def _find(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Places in the index, -1 where there is none: int64 (n,)."""
        rows, wanted = self._index(), _digests(keys)
        places = np.searchsorted(self._keys, wanted)
        places[places == len(rows)] = -1
        return np.where(self._keys[places] == wanted, places, -1) if len(rows) else places

    def _index(self) -> NDArray[np.void]:
        if self._rows is None:
            rows = _whole_rows(self.folder)
            self._rows = rows[np.argsort(rows["key"], kind="stable")]
            self._keys = np.ascontiguousarray(self._rows["key"])  # or every search would copy the column
        return self._rows


class Writer:
    """Adds records to a folder; made by `writing`."""

    def __init__(self, folder: Path) -> None:
        rows = _whole_rows(folder)
        self.folder = folder
        self._known: set[bytes] = set(rows["key"].tolist())
        self._data = _Tail(folder / "data.bin", int(rows["length"].sum()))
        self._index = _Tail(folder / "index.bin", rows.nbytes)
        self._pending: list[tuple[bytes, int, int]] = []  # rows of records that may not have reached the disk
        self._committed_end = self._data.end
        self._committed_at = time.monotonic()

    def append(self, key: str, record: bytes | NDArray[np.uint8]) -> None:
        """Add one record; readers that open the folder find it at once, or a few seconds later.

        Raises:
            ValueError: the key has a record, or this one is empty.
            UserError: it cannot be written; what was whole is kept.
        """
        name, start = bytes(_digests([key])[0]), self._data.end
        if name in self._known or not len(record):
            raise ValueError(f"expected a new key and at least one byte, found {key!r} with {len(record)}")
        with _explained(self.folder):
            self._data.append(bytes(record))
        self._pending.append((name, start, len(record)))
        self._known.add(name)
        waiting = self._data.end - self._committed_end
        if waiting >= COMMIT_BYTES or time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Let readers find every record that was added.

        Raises:
            UserError: it cannot be written.
        """
        if self._pending:
            with _explained(self.folder):
                self._data.sync()
                self._index.append(np.array(self._pending, ROW).tobytes())
                self._index.sync()
        self._pending, self._committed_end, self._committed_at = [], self._data.end, time.monotonic()

    def close(self) -> None:
        """Keep what is whole, and nothing else."""
        try:
            with _explained(self.folder):
                self._data.cut()  # half of a record: on a full disk, room that its predecessors' rows need
            self.commit()
        finally:
            self._data.close()
            self._index.close()


@contextmanager
def writing(folder: Path) -> Iterator[Writer]:
    """Add records to a folder, which is made where there is none, waiting for another process that does.

    Whatever ends the block, the records that are whole are kept.

    Raises:
        UserError: the folder cannot be written, or has no room left.
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


class _Tail:
    """A file that grows from a place up to which it is whole."""

    def __init__(self, path: Path, end: int) -> None:
        path.touch()
        self.end = end
        self._file = path.open("r+b", buffering=0)
        self.cut()

    def append(self, content: bytes) -> None:
        self._file.seek(self.end)  # an attempt that failed may have left a part behind it
        done = 0
        while done < len(content):  # a disk that fills up takes a part first
            done += self._file.write(memoryview(content)[done:])
        self.end += done

    def cut(self) -> None:
        self._file.truncate(self.end)

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"expected to write into {folder}, found: {error}; make room and start again, what was whole is kept"
        ) from error


def _whole_rows(folder: Path) -> NDArray[np.void]:
    """Rows of records that are there in full, in the order of writing."""
    try:
        content = (folder / "index.bin").read_bytes()
        size = (folder / "data.bin").stat().st_size
    except FileNotFoundError:
        return np.empty(0, ROW)
    except OSError as error:
        raise UserError(f"expected to read {folder}, found: {error}") from error
    rows = np.frombuffer(content, ROW, len(content) // ROW.itemsize)
    ends = rows["start"] + rows["length"]
    begins = np.concatenate([np.zeros(1, np.uint64), ends])[: len(rows)]
    whole = (rows["start"] == begins) & (rows["length"] > 0) & (ends <= size)
    return rows if whole.all() else rows[: int(np.argmin(whole))]


def _digests(keys: Sequence[str]) -> NDArray[np.bytes_]:
    return np.frombuffer(b"".join(hashlib.blake2b(key.encode(), digest_size=KEY).digest() for key in keys), ROW["key"])


def _read_at(file: io.FileIO, start: int, length: int) -> NDArray[np.uint8]:
    record = np.empty(length, np.uint8)
    file.seek(start)
    done = 0
    while done < length:
        count = file.readinto(record[done:].data)
        if not count:
            raise OSError(f"{length - done} bytes are missing at {start + done}")
        done += count
    return record
