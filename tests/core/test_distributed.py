"""Several processes of one run: what they exchange, where they listen, and that they end at the same place."""

import contextlib
import gc
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from entry import ROOT

from slr.core import distributed
from slr.core.errors import UserError
from slr.core.signals import Stopping, listening
from slr.training.loop import CheckpointCallback


def test_all_end_at_the_same_place(monkeypatch):
    """What one is asked while it waits for the others' answers, who were not asked, is for the next time."""
    stopping = Stopping()
    keeper = CheckpointCallback(Path(), "val/top1", 0, stopping, lambda at: None)

    def ask_meanwhile(code):
        stopping.code = 143
        return [code, None]

    monkeypatch.setattr(distributed, "gather", ask_meanwhile)
    assert keeper.asked() is None
    assert keeper.asked() == 143


def test_ones_own_signal_that_comes_behind_anothers_stops_nothing_twice(monkeypatch):
    """A scheduler signals all; where another's answer came first, one's own signal must not cut the saving short."""
    with listening() as stopping:
        keeper = CheckpointCallback(Path(), "val/top1", 0, stopping, lambda at: None)
        stopping.deferred = True
        monkeypatch.setattr(distributed, "gather", lambda code: [code, 143])
        assert keeper.asked() == 143
        signal.raise_signal(signal.SIGTERM)  # raises SystemExit where it is taken for a second one
        assert stopping.code == 143


@pytest.fixture
def own(monkeypatch) -> ModuleType:
    """The module as a process of its own has it: this process joins others by it, and not for the other tests."""
    spec = importlib.util.spec_from_file_location("own_distributed", distributed.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "MEETING", timedelta(minutes=1))
    return module


@contextlib.contextmanager
def two(own: ModuleType, monkeypatch, second: Callable[[], None]) -> Iterator[list[int]]:
    """Within it, this process is the first of two; a fork of it, the other one, does `second` and ends.

    Gives the fork's exit code, once it has ended.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "")
    with warnings.catch_warnings(action="ignore"):  # of forking a process with threads
        child = os.fork()
    if not child:
        code = 1
        try:
            gc.disable()  # connections of the process that it is a fork of are not its own
            os.environ["RANK"] = "1"
            own.join("cpu")
            second()
            code = 0
        except SystemExit as end:
            code = end.code
        finally:
            os._exit(code)
    ended: list[int] = []
    try:
        own.join("cpu")
        yield ended
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


FORKS = pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")


@FORKS
def test_two_processes_exchange_values_and_wait_for_each_other(own, monkeypatch, tmp_path):
    order = tmp_path / "order"

    def exchange() -> list[object]:
        rank = own.place().rank
        sums = [torch.full((2, 1), 1.0 + rank), torch.tensor(10.0 * rank)]
        values = own.gather([rank, "ä" * 1000 * rank, {"b": (True, 0.1)}])
        arrays = own.gather((np.arange(3 * rank, dtype=np.float32), np.float64(rank) + np.zeros((2, 1))))
        tensors = own.gather_tensors(torch.arange(2 + rank))
        word = own.on_main(lambda: f"of {rank}")
        own.main_first(lambda: order.write_text((order.read_text() if order.exists() else "") + str(rank)))
        own.all_reduce_sum(sums)
        moment = own.place().moment.isoformat()
        own.assert_same_on_all_ranks("moment", moment)
        with pytest.raises(UserError, match=r"expected the same rank in all processes, .* process 1 than in process 0"):
            own.assert_same_on_all_ranks("rank", rank)
        own.leave()
        lists = [[[array.dtype.name, array.tolist()] for array in row] for row in arrays]
        return [values, lists, [tensor.tolist() for tensor in tensors], word, [one.tolist() for one in sums], moment]

    def second() -> None:
        assert own.place() == own.Rank(1, 2, 2, 1)
        assert not own.is_main()
        (tmp_path / "second.json").write_text(json.dumps(exchange()))

    with two(own, monkeypatch, second) as ended:
        assert own.place() == own.Rank(0, 2, 2, 0)
        first = exchange()
    assert ended == [0]
    assert json.loads((tmp_path / "second.json").read_text()) == first
    values, arrays, tensors, word, sums, _ = first
    assert values == [[rank, "ä" * 1000 * rank, {"b": [True, 0.1]}] for rank in range(2)]
    assert arrays == [[["float32", []], ["float64", [[0], [0]]]], [["float32", [0, 1, 2]], ["float64", [[1], [1]]]]]
    assert (tensors, word, sums) == ([[0, 1], [0, 1, 2]], "of 0", [[[3.0], [3.0]], 10.0])
    assert order.read_text() == "01"


@FORKS
@pytest.mark.parametrize(
    ("error", "stopped", "reason", "code"),
    [
        (ValueError("first\nlast line"), None, "ValueError: last line (process 1)", distributed.LOST),
        (SystemExit(143), 143, None, 143),
    ],
    ids=["failed", "stopped"],
)
def test_what_ends_one_process_ends_the_other_with_its_reason(own, monkeypatch, error, stopped, reason, code):
    def second() -> None:
        with contextlib.suppress(type(error)), own.together():
            raise error
        os._exit(7)

    with two(own, monkeypatch, second) as ended:
        with pytest.raises(own.Lost) as lost, own.together():
            own.gather("what the other never answers")
        assert (lost.value.stopped, lost.value.reason, lost.value.code) == (stopped, reason, code)
    assert ended == [7]


@FORKS
def test_a_process_that_dies_without_a_word_ends_the_other(own, monkeypatch):
    with two(own, monkeypatch, lambda: os._exit(7)):
        with pytest.raises(own.Lost) as lost, own.together():
            own.all_reduce_sum([torch.ones(3)])
        assert (lost.value.reason, lost.value.code) == (None, distributed.LOST)


@FORKS
def test_the_second_error_is_not_reported_and_only_the_main_process_prints(own, monkeypatch, capfd):
    def second() -> None:
        with own.together():
            print("of the second")
            own.gather(None)
            own.gather(None)  # the first one raises meanwhile

    def first() -> None:
        print("of the first")
        own.gather(None)
        raise ZeroDivisionError("on purpose")

    with two(own, monkeypatch, second) as ended:
        with pytest.raises(ZeroDivisionError), own.together():
            first()
        torch.distributed.destroy_process_group()
    assert ended == [distributed.LOST]
    out = capfd.readouterr().out
    assert ("of the first" in out, "of the second" in out) == (True, False)


@FORKS
def test_processes_that_do_not_come_are_waited_for_in_vain(own, monkeypatch):
    monkeypatch.setattr(own, "MEETING", timedelta(milliseconds=200))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UserError, match=f"expected 2 processes to meet at 127.0.0.1:{port}, but they cannot"):
        own.join("cpu")


def test_alone_every_exchange_gives_back_ones_own():
    tensor = torch.tensor([1.0, 2.0])
    distributed.join("cpu")
    distributed.all_reduce_sum([tensor])
    assert tensor.tolist() == [1.0, 2.0]
    assert distributed.gather({"a": (1,)}) == [{"a": (1,)}]
    assert distributed.main_first(lambda: 3) == distributed.on_main(lambda: 3) == 3
    distributed.assert_same_on_all_ranks("value", 1)
    distributed.leave()
    assert distributed.place() == distributed.Rank(0, 1, 1, 0)


# A process without torch: it says which one it is, and does as it is told.
MEMBER = """
import os, signal, sys
rank = os.environ["RANK"]
own = [rank, *(os.environ[name] for name in ("LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "TIED"))]
open(os.path.join(sys.argv[1], rank), "w").write(" ".join(own))
deed = sys.argv[2 + int(rank)]
if deed == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if deed == "ask":
    os.kill(os.getppid(), signal.SIGTERM)
if deed in ("ask", "wait", "stubborn"):
    sys.stdin.read()  # until the one that started it lets go
if deed == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(deed))
"""


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # pipes that are open until this process ends
@pytest.mark.parametrize(
    ("deeds", "code", "word"),
    [
        (("0", "0", "0"), 0, ""),
        (("0", "69", "2"), 2, ""),
        (("0", "5", "wait"), 5, ""),  # asked to end after a while
        (("0", "5", "stubborn"), 5, ""),  # and killed in the end
        (("0", "kill", "0"), 137, "error: process 1 of 3 was killed (SIGKILL)"),
        (("ask", "wait", "wait"), 143, ""),  # the signal is passed on
    ],
)
def test_started_processes_know_their_rank_and_end_together(tmp_path, monkeypatch, capfd, deeds, code, word):
    (tmp_path / "member.py").write_text(MEMBER)
    (tmp_path / "ranks").mkdir()
    command = [sys.executable, "-S", str(tmp_path / "member.py"), str(tmp_path / "ranks"), *deeds]
    monkeypatch.setattr(sys, "orig_argv", command)
    monkeypatch.setattr(distributed, "GRACE", 0.2)
    assert distributed.start(3, "TIED") == code
    if deeds[0] != "ask":
        own = [f"{rank} {rank} 3 127.0.0.1 1" for rank in range(3)]
        assert [(tmp_path / "ranks" / str(rank)).read_text() for rank in range(3)] == own
    err = capfd.readouterr().err
    assert err.startswith(word)
    assert ("error" in err) == bool(word)


# Starts itself twice; each process writes what it got from the other, and on which addresses it listens.
EXCHANGE = """
import json, os, sys
from pathlib import Path
import numpy as np, psutil, torch
from slr.core import distributed

if not distributed.given(os.environ):
    sys.exit(distributed.start(2, "TIED"))
distributed.join("cpu")
rank = distributed.place().rank
values = distributed.gather([rank, "ä" * 1000 * rank, None, {"b": (True, 0.1)}])
arrays = distributed.gather([(np.arange(3 * rank, dtype=np.float32), np.float64(rank) + np.zeros((2, 1)))])
tensors = distributed.gather_tensors(torch.arange(2 + rank))
word = distributed.on_main(lambda: f"of {rank}")
order = Path(sys.argv[1]) / "order"
distributed.main_first(lambda: order.open("a").write(str(rank)))
listening = {c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN}
distributed.leave()
told = [values, [[[a.dtype.name, a.tolist()] for a in row] for [row] in arrays], [t.tolist() for t in tensors], word]
(Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps([told, sorted(listening)]))
"""


@pytest.mark.e2e
def test_values_and_arrays_come_to_all_processes_which_listen_on_loopback_alone(tmp_path):
    (tmp_path / "exchange.py").write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{EXCHANGE}")
    subprocess.run([sys.executable, tmp_path / "exchange.py", str(tmp_path)], check=True, timeout=300)
    (first, one), (second, other) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    values, arrays, tensors, word = first
    assert values == [[rank, "ä" * 1000 * rank, None, {"b": [True, 0.1]}] for rank in range(2)]
    assert arrays == [[["float32", []], ["float64", [[0], [0]]]], [["float32", [0, 1, 2]], ["float64", [[1], [1]]]]]
    assert tensors == [[0, 1], [0, 1, 2]]
    assert word == "of 0"
    assert (tmp_path / "order").read_text() == "01"
    if sys.platform == "linux":
        assert one == other == ["127.0.0.1"]
