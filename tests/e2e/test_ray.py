"""Sweeps by a Ray of this machine."""

import importlib.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import toy
from entry import ROOT, SMALL, status

from hydra_plugins.slr_sweeps import ray as launchers
from slr.core.signals import Stopping

# Not importorskip: what the launcher says to Ray by the environment, Ray reads when it is imported.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
TOKEN = Path.home() / ".ray" / "auth_token"


@pytest.fixture
def launcher(monkeypatch) -> launchers.Ray:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else it writes a token into one's home
    before = TOKEN.exists()
    yield launchers.Ray(init={"address": None, "num_cpus": 2}, remote={"num_cpus": 1, "num_gpus": 0})
    sys.modules["ray"].shutdown()
    assert TOKEN.exists() == before


def test_jobs_come_to_their_true_ends_and_save_themselves_when_stopped(tmp_path, monkeypatch, launcher):
    monkeypatch.setattr(launchers, "PROGRAM", toy.program(tmp_path))
    folder, board = tmp_path / "o, it's = ä", lambda jobs: None
    jobs = toy.laid_out(folder, a="raise", b="", c="kill", d="wait", e="")
    stopping = Stopping()

    def stop():
        patience = time.monotonic() + 300
        while not (folder / "d" / "waits").exists() or any(job.status == "waiting" for job in jobs[:3]):
            if time.monotonic() > patience:
                break
            time.sleep(0.1)
        stopping.code = 143

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SystemExit) as ended:
        launcher.work(jobs, board, stopping)
    thread.join(300)
    assert ended.value.code == 143
    assert toy.told(jobs[:4]) == {
        "a": ("failed", "RuntimeError: the last line"),
        "b": ("done", ""),
        "c": ("killed", "its process was killed"),
        "d": ("stopped", ""),
    }
    launcher.work(jobs, board, Stopping())  # what is missing, and only that
    assert {job.status for job in jobs} == {"done"}
    assert [toy.starts(folder).count(name) for name in "abcd"] == [2, 1, 2, 2]


@pytest.mark.slow
def test_a_sweep_of_four_jobs_one_of_which_fails(tmp_path, workplace):
    fixed = [*SMALL, "epochs=1", "frames=1", "batch=8"]
    named = "_".join(sorted(fixed)).replace("=", "-")
    runs = [tmp_path / "synthetic-tiny" / "sweeps" / "four" / f"{named}_seed-{seed}" for seed in range(4)]
    words = ["-m", "hydra/launcher=ray", "hydra.launcher.init.num_cpus=2", "sweep=four", f"outputs={tmp_path}"]
    words += [*fixed, f"data={workplace / 'data'}", "seed=0,1,2,3"]

    def swept(fault: str) -> tuple[int, str, str]:
        quiet = {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT / "tests" / "faults"), "FAULT": fault}
        command = [sys.executable, "train.py", *words]
        result = subprocess.run(command, cwd=ROOT, env=os.environ | quiet, capture_output=True, text=True, timeout=1200)
        return result.returncode, result.stdout, result.stderr

    code, out, err = swept(f"slr.training.loop:CheckpointCallback.on_train_batch_start:2:raise:resume={runs[1]}")
    assert [status(run) for run in runs] == ["done", "failed", "done", "done"], out + err
    assert code == 1
    assert "RuntimeError: on purpose" in out
    assert "Traceback" not in err
    before = [(run / "result.json").stat().st_mtime for run in runs]
    code, out, err = swept("")
    assert code == 0, out + err
    assert [status(run) for run in runs] == ["done"] * 4
    changed = [(run / "result.json").stat().st_mtime for run in runs]
    assert [one != other for one, other in zip(before, changed, strict=True)] == [False, True, False, False]
    assert "usage" not in out + err  # statistics that Ray would send
