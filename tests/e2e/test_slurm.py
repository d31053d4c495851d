"""Sweeps by Slurm, and single runs in its batch scripts, on a cluster of scripts that really runs them."""

import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import cluster
import pytest
import toy
from entry import ROOT, SMALL, only_run, status
from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

from hydra_plugins.slr_sweeps import slurm
from slr.core.errors import UserError
from slr.core.signals import Stopping

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
    patience = time.monotonic() + 300
    while not file.exists():
        assert time.monotonic() < patience, f"no {file}"
        time.sleep(0.05)


def settled(machines: Path) -> dict[str, str]:
    """How Slurm has every job in the end; a job's result is there a moment before its batch script has ended."""
    patience = time.monotonic() + 300
    while not set((found := cluster.states(machines)).values()) <= set(cluster.ENDED) and time.monotonic() < patience:
        time.sleep(0.05)
    return found


def name_of(job) -> str:
    return (job.folder.root / slurm.QUEUED).read_text()


def when_waiting(job, *words: str) -> threading.Thread:
    """Give a command of Slurm's about a job, once that waits for it."""

    def give():
        wait_for(job.folder.root / "waits")
        subprocess.run([*words, name_of(job)], check=True, timeout=300)

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
    assert settled(machines) == {
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
        "import os, sys, time\nfrom pathlib import Path\nfrom slr.core.run_folder import write_json\n"
        "root = Path(sys.argv[1].partition('=')[2])\n"
        "rank = os.environ['SLURM_PROCID']\n(root / rank).touch()\n"
        "while not (root / str(1 - int(rank))).exists():\n    time.sleep(0.05)\n"
        "rank == '0' and write_json(root / 'result.json', {'status': 'done'})\n"
    )
    monkeypatch.setattr(slurm, "PROGRAM", program)
    jobs = toy.laid_out(tmp_path / "sweep", a="", b="")
    launcher(tasks_per_node=2).work(jobs, silent, Stopping())
    assert {job.status for job in jobs} == {"done"}
    assert set(settled(machines).values()) == {"COMPLETED"}


def test_what_is_missing_is_said_in_a_line(tmp_path, monkeypatch, machines):
    jobs = toy.laid_out(tmp_path / "sweep", a="")
    (machines / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2; exit 1\n")
    with pytest.raises(UserError, match="invalid partition"):
        launcher(partition="nowhere").work(jobs, silent, Stopping())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="srun"):
        launcher().work(jobs, silent, Stopping())


def adapter(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


TINY = (*SMALL, "epochs=2", "batch=8", "frames=2", "hardware.workers=0")
AT_THE_THIRD_STEP = f"{ROOT / 'tests' / 'faults'} FAULT=slr.training.loop:CheckpointCallback.on_train_batch_start:3:"


def trained(*words: str, timeout: float = 1200) -> tuple[int, str, str]:
    """Run train.py as a person does."""
    run = [sys.executable, "train.py", *words]
    result = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    return result.returncode, result.stdout, result.stderr


@pytest.fixture(scope="module")
def data(workplace) -> str:
    return f"data={workplace / 'data'}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data) -> bytes:
    """The adapter of a run that nothing has cut."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    code, _, err = trained(*TINY, data, f"outputs={outputs}")
    assert code == 0, err
    return adapter(only_run(outputs))


@pytest.mark.slow
def test_a_sweep_with_one_failing_and_one_preempted_job_goes_to_its_end(tmp_path, undisturbed, machines, data):
    place = tmp_path / AWKWARD
    words = ["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.array_parallelism=2", *TINY, data]
    words += [f"outputs={place}", "seed=0,1,2"]
    faults = [
        f'test -n "$SLURM_RESTART_COUNT" || test $SLURM_ARRAY_TASK_ID != {job} || '
        f"export PYTHONPATH={AT_THE_THIRD_STEP}{deed}"
        for job, deed in ((0, "preempt"), (1, "raise"))
    ]
    code, out, err = trained(*words, f"hydra.launcher.setup=['{faults[0]}','{faults[1]}']")
    runs = sorted(path.parent for path in place.rglob("result.json"))
    assert [run.name for run in runs] == ["seed-0", "seed-1", "seed-2"]
    assert [status(run) for run in runs] == ["done", "failed", "done"], out + err
    assert code == 1
    assert "RuntimeError: on purpose" in out
    assert "Traceback" not in err
    assert "continuing after step" in (runs[0] / "log.txt").read_text()
    assert (machines / "1000_0" / "restarts").read_text() == "1"
    assert adapter(runs[0]) == undisturbed
    assert settled(machines) == {"1000_0": "COMPLETED", "1000_1": "FAILED", "1000_2": "COMPLETED"}

    code, out, err = trained(*words)
    assert code == 0, out + err
    assert [status(run) for run in runs] == ["done"] * 3
    assert settled(machines)["2000"] == "COMPLETED"  # one job, no array


def documented(command: str, fault: str, log: Path) -> str:
    """The page's batch script, for another command, which a fault meets at its first start."""
    page = (ROOT / "docs" / "several-machines.md").read_text(encoding="utf-8")
    script = page.partition("## Slurm")[2].split("```")[1].lstrip()
    assert script.count("python train.py hardware=cuda frames=8 lora.r=16") == script.count("slurm-%j.log") == 1
    planted = f'test -n "$SLURM_RESTART_COUNT" || export PYTHONPATH={fault}\ncd {ROOT}\nsrun {command}'
    return script.replace("srun python train.py hardware=cuda frames=8 lora.r=16", planted).replace(
        "slurm-%j.log", str(log)
    )


@pytest.mark.slow
def test_a_batch_script_that_is_requeued_goes_on_with_its_run(tmp_path, undisturbed, machines, data):
    words = [sys.executable, "train.py", *TINY, data, f"outputs={tmp_path / AWKWARD}"]
    script, log = tmp_path / "job.sh", tmp_path / "log"
    script.write_text(documented(shlex.join(words), f"{AT_THE_THIRD_STEP}term", log), encoding="utf-8")
    subprocess.run(["sbatch", str(script)], check=True, timeout=300)
    patience = time.monotonic() + 1200
    while cluster.states(machines)["1000"] not in cluster.ENDED and time.monotonic() < patience:
        time.sleep(0.2)
    assert cluster.states(machines)["1000"] == "COMPLETED", log.read_text()
    run = only_run(tmp_path / AWKWARD)
    assert run.name.startswith("slurm-1000_")
    assert status(run) == "done"
    said = log.read_text()
    assert said.count("stopping when this step is saved") == 1
    assert "continuing after step 2" in said
    assert "Traceback" not in said
    assert "SLURM" not in said  # of what Lightning would warn and refuse
    assert adapter(run) == undisturbed
