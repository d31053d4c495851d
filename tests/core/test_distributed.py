"""Several processes of one run: what they exchange, where they listen, and that they end at the same place."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from entry import ROOT

from slr.core import distributed
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
