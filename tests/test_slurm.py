"""Sweeps by Slurm, and single runs in its batch scripts, on a cluster of scripts that really runs them."""

import os
import subprocess
import threading
import time
from pathlib import Path

import cluster
import pytest
import toy
from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

from hydra_plugins.slr_sweeps import slurm
from slr.errors import UserError
from slr.stopping import Stopping

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Slurm knows no Windows")
AWKWARD = "o, it's = ä"


@pytest.fixture(params=["tasks"])
def machines(tmp_path, monkeypatch, request) -> Path:
    """The cluster; who hears its signals is the parameter."""
    folder = tmp_path / "cluster"
    for name, value in cluster.install(folder, request.param).items():
        monkeypatch.setenv(name, value)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    watcher = SlurmInfoWatcher(delay_s=600)  # as it has one of its own in each process
    monkeypatch.setattr(SlurmJob, "watcher", watcher)
    yield folder
    cluster.end(folder)


def launcher(**words) -> slurm.Slurm:
    usual = {"max_num_timeout": 50, "array_parallelism": 2, "nodes": 1, "tasks_per_node": 1, "timeout_min": 60}
    return slurm.Slurm(**usual | words)


def silent(jobs) -> None:
    pass


def wait_for(file: Path) -> None:
    patience = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < patience, f"no {file}"
        time.sleep(0.05)


def name_of(job) -> str:
    return (job.folder.root / slurm.QUEUED).read_text()


def when_waiting(job, *words: str) -> threading.Thread:
    """Give a command of Slurm's about a job, once that waits for it."""

    def give():
        wait_for(job.folder.root / "waits")
        subprocess.run([*words, name_of(job)], check=True, timeout=60)

    thread = threading.Thread(target=give)
    thread.start()
    return thread


@pytest.mark.parametrize("machines", ["tasks", "all"], indirect=True)
def test_every_job_of_an_array_comes_to_its_true_end(tmp_path, monkeypatch, machines):
    monkeypatch.setattr(slurm, "PROGRAM", toy.program(tmp_path))
    folder = tmp_path / AWKWARD
    jobs = toy.laid_out(folder, a="", b="raise", c="kill", d="wait", e="wait")
    threads = [when_waiting(jobs[3], "scancel", "--signal=USR2"), when_waiting(jobs[4], "scancel")]
    launcher().work(jobs, silent, Stopping())
    for thread in threads:
        thread.join(60)
    assert toy.told(jobs) == {
        "a": ("done", ""),
        "b": ("failed", "RuntimeError: the last line"),
        "c": ("killed", "its process was killed"),
        "d": ("done", ""),  # preempted, put into the queue again, gone on with
        "e": ("stopped", "Slurm: CANCELLED by 0"),
    }
    assert toy.starts(folder) == ["a", "b", "c", "d", "d", "e"]
    assert cluster.states(machines) == {
        "1000_0": "COMPLETED",
        "1000_1": "FAILED",
        "1000_2": "FAILED",
        "1000_3": "COMPLETED",
        "1000_4": "CANCELLED",
    }
    launcher().work(jobs, silent, Stopping())  # what is missing, and only that
    assert {job.status for job in jobs} == {"done"}
    assert toy.starts(folder) == ["a", "b", "b", "c", "c", "d", "d", "e", "e"]


def test_a_job_whose_time_is_up_is_put_into_the_queue_as_often_as_is_said(tmp_path, monkeypatch, machines):
    monkeypatch.setattr(slurm, "PROGRAM", toy.program(tmp_path))
    jobs = toy.laid_out(tmp_path / "sweep", a="wait")
    thread = when_waiting(jobs[0], "scancel", "--signal=USR2")
    launcher(max_num_timeout=0, timeout_min=10).work(jobs, silent, Stopping())  # of 10 minutes, submitit takes 0 away
    thread.join(60)
    assert toy.told(jobs) == {"a": ("stopped", "Job not requeued because: timed-out too many times.")}


def test_a_command_that_was_stopped_leaves_its_jobs_to_slurm_and_finds_them_there(tmp_path, monkeypatch, machines):
    monkeypatch.setattr(slurm, "PROGRAM", toy.program(tmp_path))
    jobs = toy.laid_out(tmp_path / "sweep", a="wait", b="", c="")
    stopping = Stopping()

    def stop():
        wait_for(jobs[0].folder.root / "waits")
        stopping.code = 130

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SystemExit) as ended:
        launcher(array_parallelism=1).work(jobs, silent, stopping)
    thread.join(60)
    assert ended.value.code == 130
    again = when_waiting(jobs[0], "scancel", "--signal=USR2")
    launcher().work(jobs, silent, Stopping())
    again.join(60)
    assert {job.status for job in jobs} == {"done"}
    assert toy.starts(tmp_path / "sweep") == ["a", "a", "b", "c"]
    assert len(cluster.states(machines)) == 3  # nothing was submitted twice


def test_of_a_run_of_several_tasks_each_is_one_process(tmp_path, monkeypatch, machines):
    program = tmp_path / "ranks.py"
    program.write_text(
        "import os, sys, time\nfrom pathlib import Path\nfrom slr.run import write_json\n"
        "root = Path(sys.argv[1].partition('=')[2])\n"
        "rank = os.environ['SLURM_PROCID']\n(root / rank).touch()\n"
        "while not (root / str(1 - int(rank))).exists():\n    time.sleep(0.05)\n"
        "rank == '0' and write_json(root / 'result.json', {'status': 'done'})\n"
    )
    monkeypatch.setattr(slurm, "PROGRAM", program)
    jobs = toy.laid_out(tmp_path / "sweep", a="", b="")
    launcher(tasks_per_node=2).work(jobs, silent, Stopping())
    assert {job.status for job in jobs} == {"done"}
    assert set(cluster.states(machines).values()) == {"COMPLETED"}


def test_what_is_missing_is_said_in_a_line(tmp_path, monkeypatch, machines):
    jobs = toy.laid_out(tmp_path / "sweep", a="")
    (machines / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2; exit 1\n")
    with pytest.raises(UserError, match="invalid partition"):
        launcher(partition="nowhere").work(jobs, silent, Stopping())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="srun"):
        launcher().work(jobs, silent, Stopping())
