"""Where several processes of one run end: all at the same place."""

import signal
from pathlib import Path

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
