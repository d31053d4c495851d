"""benchmarks/loader.py: what it promises of the frame cache, and that its films are films."""

from pathlib import Path

import numpy as np
import pytest
from test_benchmarks import rows

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_cached_frames_beside_decoding_and_the_plain_recipe(tmp_path):
    found = rows("loader", tmp_path, "rounds=3", "--cpu-time")
    for size, least in (("480p", 3.5), ("1080p", 7)):  # 6.8 and 44 of processor time by itself; others share its caches
        for way in ("cache=frames", "cache=frames, cache.format=raw"):
            assert found[f"{size}: {way}, beside decoding", "clips/s"]["ratio"] >= least
            row = found[f"{size}: {way}", "clips/s"]
            assert row["ratio"] == pytest.approx(row["ours"] / row["plain"])
            assert row["ours"] < row["floor"]
    assert 0 < found["tiny, 2 workers, cache=frames: waiting for batches", "% of time"]["ours"] < 100


def test_its_films_move_and_are_not_smooth(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from loader import LENGTH, pictures

    frames = np.stack(list(pictures((60, 80), np.random.default_rng(0)))).astype(float)
    assert frames.shape == (LENGTH, 60, 80, 3)
    assert np.abs(np.diff(frames, axis=0)).mean() > 2
    assert 20 < frames.std() < 90
    assert np.abs(np.diff(frames, axis=2)).mean() > 2
