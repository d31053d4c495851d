"""The store of records, held against a dictionary of the same records."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from slr.core.errors import UserError
from slr.data.cache.store import ROW, Pack, writing

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs kill -9 and limits on file sizes")
# Writes records that can be told from their keys until it is killed: `first` and every `step`th after it.
WRITE = """
import itertools, pathlib, sys
from slr.data.cache.store import writing
sys.path.insert(0, sys.argv[1])
from test_store import record
folder, first, step, last = pathlib.Path(sys.argv[2]), *map(int, sys.argv[3:6])
with writing(folder) as writer:
    for number in range(first, last, step):
        writer.append(f"key {number}", record(number))
        if number % 50 < step:
            writer.commit()
            print(number, flush=True)
"""


def record(number):
    return np.random.default_rng(number).bytes(1 + number * 37 % 5000)


def start(folder, first=0, step=1, last=10**9, **options):
    words = [str(Path(__file__).parent), str(folder), str(first), str(step), str(last)]
    return subprocess.Popen(
        [sys.executable, "-c", WRITE, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def fill(folder, numbers):
    with writing(folder) as writer:
        for number in numbers:
            writer.append(f"key {number}", record(number))


def content(folder, numbers):
    """Which of the numbers are there; those that are must be as they were written."""
    pack = Pack(folder)
    there = [number for number, found in zip(numbers, pack.has([f"key {n}" for n in numbers]), strict=True) if found]
    for number, found in zip(there, pack.read([f"key {n}" for n in there]), strict=True):
        assert found.tobytes() == record(number)
    assert len(pack) >= len(there)
    return there


class Records:
    """A data set of one pack, for a loader's workers."""

    def __init__(self, pack):
        self.pack = pack

    def __len__(self):
        return 40

    def __getitem__(self, number):
        return self.pack.read([f"key {number}"])[0]


def test_records_come_back_in_the_order_asked_for(tmp_path):
    numbers = list(range(200))
    fill(tmp_path / "new" / "folder", numbers)
    pack = Pack(tmp_path / "new" / "folder")
    wanted = [7, 3, 199, 7, 0]
    assert [found.tobytes() for found in pack.read([f"key {n}" for n in wanted])] == [record(n) for n in wanted]
    assert pack.has(["key 5", "key 200", "", "key 199"]).tolist() == [True, False, False, True]
    assert content(tmp_path / "new" / "folder", numbers) == numbers
    with pytest.raises(UserError, match="no record of key 200; delete that folder"):
        pack.read(["key 1", "key 200"])


def test_no_folder_is_no_records(tmp_path):
    pack = Pack(tmp_path / "none")
    assert len(pack) == 0
    assert not pack.has(["a", "b"]).any()


def test_what_is_added_later_is_seen_on_reopening(tmp_path):
    fill(tmp_path, [1])
    pack = Pack(tmp_path)
    assert pack.has(["key 1", "key 2"]).tolist() == [True, False]
    fill(tmp_path, [2])
    assert not pack.has(["key 2"]).any()
    pack.reopen()
    assert pack.has(["key 1", "key 2"]).all()


def test_workers_open_it_for_themselves(tmp_path):
    fill(tmp_path, range(40))
    pack = Pack(tmp_path)
    pack.read(["key 1"])  # opened here before the workers are made
    assert len(pickle.dumps(pack)) < 1000
    assert pickle.loads(pickle.dumps(pack)).has(["key 1"]).all()
    for context in ("fork", "spawn") if os.name == "posix" else ("spawn",):
        records: list = list(DataLoader(Records(pack), None, num_workers=2, multiprocessing_context=context))
        assert [np.asarray(found).tobytes() for found in records] == [record(number) for number in range(40)]


@pytest.mark.parametrize("index_cut", [0, 1, 17, 31, 32, 70])
@pytest.mark.parametrize("data_cut", [0, 1, 300])
def test_a_torn_tail_is_ignored_and_overwritten(tmp_path, index_cut, data_cut):
    fill(tmp_path, range(30))
    for name, cut in (("index.bin", index_cut), ("data.bin", data_cut)):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    lengths = [len(record(number)) for number in range(30)]
    rows = (30 * ROW.itemsize - index_cut) // ROW.itemsize
    whole = [n for n in range(30) if n < rows and sum(lengths[: n + 1]) <= sum(lengths) - data_cut]
    assert content(tmp_path, range(30)) == whole
    fill(tmp_path, [number for number in range(60) if number not in whole])
    assert content(tmp_path, range(60)) == list(range(60))
    assert (tmp_path / "data.bin").stat().st_size == sum(len(record(number)) for number in range(60))


@pytest.mark.parametrize("junk", [bytes(96), bytes(33), b"\xff" * 64, b"half a row"])
def test_what_is_no_row_ends_the_index(tmp_path, junk):
    """A power cut may leave zeros where rows were written; what comes behind them was never seen by anybody."""
    fill(tmp_path, range(10))
    with (tmp_path / "index.bin").open("ab") as index:
        index.write(junk)
    with (tmp_path / "data.bin").open("ab") as data:
        data.write(bytes(1000))
    assert content(tmp_path, range(20)) == list(range(10))
    assert len(Pack(tmp_path)) == 10
    fill(tmp_path, range(10, 20))
    assert content(tmp_path, range(20)) == list(range(20))
    assert len(Pack(tmp_path)) == 20


@POSIX
def test_readers_beside_a_writer_that_is_killed_see_whole_records(tmp_path):
    told = []
    for _ in range(3):
        writer = start(tmp_path, first=len(told))
        assert writer.stdout is not None
        until = len(told) + 400
        while len(told) < until:
            told = list(range(int(writer.stdout.readline()) + 1))
            assert content(tmp_path, told[-120:]) == told[-120:]  # what was committed is found at once
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        told = content(tmp_path, range(len(told) + 10_000))
        assert told == list(range(len(told)))  # no hole


@POSIX
def test_two_processes_write_one_after_the_other(tmp_path):
    writers = [start(tmp_path, first, 2, 1000) for first in (0, 1)]
    said = [writer.communicate(timeout=300)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert sum("Waiting for another process" in words for words in said) <= 1
    assert content(tmp_path, range(1000)) == list(range(1000))


@POSIX
def test_a_full_disk_is_one_line_and_keeps_what_was_whole(tmp_path):
    import resource

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    writer = start(tmp_path, preexec_fn=limit)
    _, said = writer.communicate(timeout=300)
    assert writer.returncode == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith(f"slr.core.errors.UserError: expected to write into {tmp_path}, found: ")
    assert "whole records are kept" in last
    lengths = np.cumsum([len(record(number)) for number in range(200)])
    kept = list(range(int((lengths <= 100_000).sum())))
    assert len(kept) > 30
    assert content(tmp_path, range(200)) == kept
    assert (tmp_path / "data.bin").stat().st_size == lengths[len(kept) - 1]
    fill(tmp_path, range(len(kept), 200))
    assert content(tmp_path, range(200)) == list(range(200))


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"expected to write into .*file/inside, found"),
        writing(tmp_path / "file/inside"),
    ):
        pass


def test_a_lost_data_file_is_one_line(tmp_path):
    fill(tmp_path, range(3))
    pack = Pack(tmp_path)
    assert len(pack) == 3
    (tmp_path / "data.bin").write_bytes(b"")
    with pytest.raises(UserError, match="expected whole records"):
        pack.read(["key 2"])


def test_opening_the_frames_of_twenty_thousand_clips_takes_less_than_a_second(tmp_path):
    """8 frames each; what is written is the two files as they are laid out, which takes less time than writing."""
    rng = np.random.default_rng(0)
    rows = np.zeros(160_000, ROW)
    rows["key"] = np.frombuffer(rng.bytes(16 * len(rows)), ROW["key"])
    rows["length"] = rng.integers(1, 100_000, len(rows))
    rows["start"][1:] = np.cumsum(rows["length"])[:-1]
    (tmp_path / "index.bin").write_bytes(rows.tobytes())
    with (tmp_path / "data.bin").open("wb") as file:
        file.truncate(int(rows["length"].sum()))  # a hole: no room is taken
    started = time.process_time()
    assert len(Pack(tmp_path)) == len(rows)
    assert time.process_time() - started < 1
