"""Several processes on one run: the same numbers as one, and no way of ending that leaves one of them behind."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import shares
import torch
from entry import ROOT, only_run, scalars, started, status

from slr import factory
from slr.config.saved_run import open_run
from slr.core.files import read_json
from slr.core.run_folder import RunFolder, status_of
from slr.data.split import read_split
from slr.evaluation import evaluate
from slr.models.metrics import METRICS
from slr.predict import calibration
from slr.prepare.encode import write_clip

PATIENCE = 240  # seconds for a command that takes twenty on an idle machine; nothing here may hang
PARTS = {"train": 21, "val": 5, "test": 7}  # of batches of 5, the last one of training has one clip


def spoken(*words: str | Path, fault: str = "") -> tuple[int, str, str]:
    """Run an entry point to its end: exit code, standard output, standard error. It ends in time, with all it began."""
    with started(*words, fault=fault) as process:
        return end(process)


def end(process: subprocess.Popen) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        kill(process)
        process.communicate()
        raise
    return process.returncode, out, err


def kill(process: subprocess.Popen) -> None:
    """Kill a command with all the processes that it has started, as a machine that loses power does."""
    top = psutil.Process(process.pid)
    for one in [top, *top.children(recursive=True)]:
        one.kill()


def nobody_is_left(folder: Path) -> bool:
    """Whether no process that knows the folder is alive, after the seconds that loaders' workers need to notice."""
    deadline = time.monotonic() + 60
    while any(str(folder) in " ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    """A training of two processes on clips of noise, whose parts are of odd numbers."""
    folder = tmp_path_factory.mktemp("ddp")
    (folder / "clips").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for part, count in PARTS.items():
        for number in range(count):
            rows.append({"file": f"{part}{number}.mp4", "gloss": "abcd"[number % 4] * 3, "split": part})
            write_clip(folder / "clips" / rows[-1]["file"], rng.integers(0, 256, (12, 64, 64, 3), dtype=np.uint8))
    labels = folder / "labels.json"
    labels.write_text(json.dumps(rows))
    return [
        *("experiment=demo", "dataset=folder", f"dataset.clips={folder / 'clips'}", f"dataset.labels={labels}"),
        *("split=official", "batch=5", "hardware.frames_at_once=16", "epochs=3", "checkpoint.every=0", "trainer=ddp"),
        *(f"data={folder / 'data'}", f"outputs={folder / 'outputs'}"),
    ]


@pytest.fixture(scope="module")
def calm(words) -> Path:
    """The run that nobody disturbs."""
    code, out, err = spoken("train.py", *words)
    assert code == 0, err[-4000:]
    assert "Traceback" not in err
    assert out.count("top-1 per class") == 1  # one process speaks
    return only_run(Path(words[-1].partition("=")[2]))


def adapters(run: Path) -> dict[str, torch.Tensor]:
    states = {name: torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last")}
    return {f"{name} {key}": tensor for name, state in states.items() for key, tensor in state["state_dict"].items()}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_shares_give_the_numbers_of_the_whole(tmp_path):
    """Gradients without dropout, of a step with one clip too, and metrics, of which one process may have no clip."""
    here = os.environ | {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": "2"}  # as srun starts them
    here |= {"MASTER_PORT": str(free_port()), "PYTHONPATH": str(ROOT)}
    children = [
        subprocess.Popen([sys.executable, shares.__file__, str(tmp_path)], env=here | {"SLURM_PROCID": str(rank)})
        for rank in range(2)
    ]
    whole = shares.measure()
    assert [child.wait(timeout=PATIENCE) for child in children] == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["gathered"] == [0, 1]
        assert found["figures"] == whole["figures"]
        for step, expected in whole["gradients"].items():
            assert found["gradients"][step].keys() == expected.keys()
            ours, theirs = (
                torch.cat([one[name].flatten() for name in expected]) for one in (found["gradients"][step], expected)
            )
            assert (ours - theirs).norm() / theirs.norm() <= 1e-6, step
            assert (ours - theirs).abs().max() <= 1e-5, step


def test_rankings_are_those_of_one_process(calm):
    """The checkpoint that two processes have validated and tested, evaluated by one."""
    import slr

    folder, config, _ = open_run(calm)
    recognizer, clips = slr.load(calm), factory.clips(config)
    result, written = read_json(folder.result), read_json(folder.evaluation / "evaluation_results.json")
    split = read_split(folder.split, clips)
    learned = calibration.read(folder.calibration)
    for part, count in PARTS.items() - {("train", PARTS["train"])}:
        chosen = split.select(clips, part)
        assert result[part]["n"] == len(chosen) == count
        alone = evaluate.score(recognizer, chosen, evaluate.context(config, clips, split, part, "best", learned))
        if part == "test":
            assert alone == written
            assert alone["summary"] == result["test"]
        for name in METRICS:
            assert result[part][name] == pytest.approx(alone["summary"][name], abs=1e-7)


STEP = "slr.training.module:SignModule.training_step"


@contextmanager
def under_way(run: Path, *words: str) -> Iterator[subprocess.Popen]:
    """A command that goes on with a run and is two steps further, in the middle of an epoch."""
    began = read_json(run / "result.json")["progress"]["step"]
    with started(*words) as process:
        deadline = time.monotonic() + PATIENCE
        while read_json(run / "result.json")["progress"]["step"] < began + 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process


def same_end(run: Path, calm: Path) -> bool:
    expected, found = adapters(calm), adapters(run)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert scalars(run) == scalars(calm)
    return read_json(run / "result.json")["test"] == read_json(calm / "result.json")["test"]


def test_a_training_goes_on_exactly_where_it_was_cut(words, calm, tmp_path):
    """After an error of one process, which ends all and is said once; after everything was killed; by torchrun."""
    code, _, err = spoken("train.py", *words[:-1], f"outputs={tmp_path}", fault=f"{STEP}:2:refuse:RANK=1")
    run = only_run(tmp_path)
    assert code == 2, err[-4000:]
    assert [line for line in err.splitlines() if "error" in line.lower()] == ["error: a fault on purpose"]
    assert "Traceback" not in err
    result = read_json(run / "result.json")
    assert (result["status"], result["error"]) == ("failed", "UserError: a fault on purpose (process 1)")
    assert nobody_is_left(tmp_path)

    with under_way(run, "train.py", f"resume={run}") as process:
        kill(process)
        assert end(process)[0] == -9
    assert nobody_is_left(run)
    assert status_of(RunFolder(run)) == "killed"

    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}")
    code, out, err = spoken(*torchrun, "train.py", f"resume={run}")
    assert code == 0, err[-4000:]
    assert "continuing after step" in out
    assert out.count("top-1 per class") == 1
    assert same_end(run, calm)


@pytest.mark.slow
def test_nobody_goes_on_alone(words, calm, tmp_path):
    """One process asked to end, one killed, the command asked, the command killed: all end, and go on exactly."""
    code, _, err = spoken("train.py", *words[:-1], f"outputs={tmp_path}", fault=f"{STEP}:2:term:RANK=1")
    run = only_run(tmp_path)
    assert (code, status(run)) == (143, "stopped"), err[-4000:]
    resume = ("train.py", f"resume={run}")

    code, out, err = spoken(*resume, fault=f"{STEP}:2:kill:RANK=1")
    assert (code, status(run)) == (137, "failed"), err[-4000:]
    assert "continuing after step 2" in out
    assert "process 1 of 2 was killed (SIGKILL)" in err
    assert "Traceback" not in err

    for deed, code in ((subprocess.Popen.terminate, 143), (subprocess.Popen.kill, -9)):
        with under_way(run, *resume) as process:
            deed(process)
            assert end(process)[0] == code
        assert nobody_is_left(run)
        assert status(run) == "stopped"
    code, _, err = spoken(*resume)
    assert code == 0, err[-4000:]
    assert same_end(run, calm)


def test_several_processes_for_a_run_of_one_are_refused(words, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = spoken("train.py", *(word for word in words if word != "trainer=ddp"))
    assert code == 2
    assert "2 started; use trainer=ddp" in err
