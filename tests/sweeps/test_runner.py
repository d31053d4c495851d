"""Sweeps: with a toy program in place of training, and once with the real one, whatever happens to jobs and parent."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy
from rich.console import Console

from slr.config import compose, schema, sweep_name
from slr.config import jobs as commandline
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.core.run_folder import RunFolder
from slr.core.signals import Stopping
from slr.sweeps import progress_table
from slr.sweeps.runner import Sweep, SweepJob, lay_out

compose.register()
ROOT = Path(__file__).resolve().parents[2]
POSIX = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


@pytest.fixture
def program(tmp_path) -> Path:
    return toy.program(tmp_path)


def silent(jobs) -> None:
    pass


def statuses(jobs) -> dict[str, str]:
    return {job.name: job.status for job in jobs}


@pytest.mark.parametrize("at_once", [1, 3])
def test_every_job_is_tried_and_the_second_call_does_what_is_missing(tmp_path, program, at_once):
    folder = tmp_path / "sweep"
    jobs = toy.laid_out(folder, a="", b="raise", c="exit", d="kill")
    Sweep(jobs, program, at_once, keep_going=True, show=silent).run(Stopping())
    assert statuses(jobs) == {"a": "done", "b": "failed", "c": "failed", "d": "killed"}
    assert [job.reason for job in jobs] == [
        "",
        "RuntimeError: the last line",
        "SystemExit: 3",
        "its process was killed",
    ]
    assert toy.starts(folder) == ["a", "b", "c", "d"]
    Sweep(jobs, program, at_once, keep_going=True, show=silent).run(Stopping())
    assert set(statuses(jobs).values()) == {"done"}
    assert toy.starts(folder) == ["a", "b", "b", "c", "c", "d", "d"]


def test_a_sweep_may_stop_at_the_first_failure(tmp_path, program):
    jobs = toy.laid_out(tmp_path / "sweep", a="", b="raise", c="")
    Sweep(jobs, program, 1, keep_going=False, show=silent).run(Stopping())
    assert statuses(jobs) == {"a": "done", "b": "failed", "c": "waiting"}


def test_a_job_that_ends_before_it_can_say_how_has_failed_with_what_it_printed(tmp_path):
    program = tmp_path / "broken.py"
    program.write_text("import nothing_of_that_name")
    jobs = toy.laid_out(tmp_path / "sweep", a="")
    Sweep(jobs, program, 1, keep_going=True, show=silent).run(Stopping())
    assert statuses(jobs) == {"a": "failed"}
    assert "nothing_of_that_name" in jobs[0].reason


# A sweep of its own process over folders that are there.
DRIVER = """
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
from slr.core.run_folder import RunFolder
from slr.core.signals import listening
from slr.sweeps.runner import SweepJob, Sweep
folder, names = Path(sys.argv[1]), sys.argv[2:]
jobs = [SweepJob(RunFolder(folder / name), name) for name in names]
with listening() as stopping:
    stopping.deferred = True
    Sweep(jobs, Path({program!r}), 1, True, lambda jobs: None).run(stopping)
print(*(job.status for job in jobs))
"""


def drive(program: Path, folder: Path, names: list[str]) -> subprocess.Popen:
    code = DRIVER.format(root=str(ROOT), program=str(program))
    return subprocess.Popen([sys.executable, "-c", code, str(folder), *names], stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


def test_two_processes_on_one_sweep_share_no_job(tmp_path, program):
    folder, names = tmp_path / "sweep", list("abcdef")
    toy.laid_out(folder, **dict.fromkeys(names, ""))
    both = [drive(program, folder, names) for _ in range(2)]
    for one in both:
        assert one.communicate(timeout=300)[0].split() == ["done"] * 6
    assert toy.starts(folder) == names


@POSIX
def test_a_job_ends_saved_when_its_sweep_is_killed_and_the_next_sweep_goes_on(tmp_path, program):
    folder = tmp_path / "sweep"
    jobs = toy.laid_out(folder, a="", b="wait", c="")
    parent = drive(program, folder, ["a", "b", "c"])
    with parent:
        wait_for(folder / "b" / "waits")
        parent.kill()
    deadline = time.monotonic() + 300
    while read_json(jobs[1].folder.result)["status"] != "stopped":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    Sweep(jobs, program, 1, keep_going=True, show=silent).run(Stopping())
    assert set(statuses(jobs).values()) == {"done"}
    assert toy.starts(folder) == ["a", "b", "b", "c"]


@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_sweep_that_is_stopped_lets_its_jobs_save_themselves(tmp_path, program, number, code):
    folder = tmp_path / "sweep"
    jobs = toy.laid_out(folder, a="wait", b="")
    parent = drive(program, folder, ["a", "b"])
    with parent:
        wait_for(folder / "a" / "waits")
        parent.send_signal(number)
        assert parent.wait(timeout=300) == code
    for job in jobs:
        job.look()
    assert statuses(jobs) == {"a": "stopped", "b": "waiting"}


def test_a_sweep_whose_job_another_process_has_waits_for_it(tmp_path, program):
    folder = tmp_path / "sweep"
    [job] = toy.laid_out(folder, a="wait")
    other = subprocess.Popen([sys.executable, str(program), f"resume={folder / 'a'}"])
    wait_for(folder / "a" / "waits")
    seen = []

    def watch(jobs) -> None:
        seen.append(jobs[0].status)
        if jobs[0].status == "elsewhere" and other.poll() is None:
            other.terminate()
            other.wait()

    Sweep([job], program, 1, keep_going=True, show=watch).run(Stopping())
    assert "elsewhere" in seen
    assert job.status == "done"
    assert toy.starts(folder) == ["a", "a"]


def test_a_folder_keeps_the_settings_it_was_laid_out_with(tmp_path):
    one, other = commandline.configurations(["-m", "experiment=demo", "lora.r=2,4"])
    folder = RunFolder(tmp_path / "job")
    lay_out(folder, one, ["lora.r=2"])
    assert schema.from_plain(read_json(folder.config), folder.config) == one
    assert read_json(folder.result) == {"status": "waiting", "overrides": ["lora.r=2"]}
    lay_out(folder, one, ["lora.r=2"])
    with pytest.raises(UserError, match=r"other settings \(lora.r: 2 -> 4\); give this sweep another name"):
        lay_out(folder, other, ["lora.r=4"])
    one.hardware.workers = 7  # another machine makes no other run
    lay_out(folder, one, ["lora.r=2"])


def name_of(*words: str) -> str:
    return next(word for word in sweep_name.named(words) if word.startswith("sweep=")).partition("=")[2]


def test_a_sweep_is_named_after_what_its_jobs_share():
    name = name_of("-m", "experiment=demo", "lora.r=2,4", "frames=1,2")
    assert name.startswith("experiment-demo_")
    assert name_of("-m", "experiment=demo", "frames=1,2", "lora.r=2,4") == name
    assert name_of("-m", "frames=1,2,3", "experiment=demo", "lora.r=range(2,9,2)", "outputs='/elsewhere'") == name
    assert name_of("-m", "experiment=demo", "lora.r=2,4", "frames=1,2", "hardware=cpu") != ""
    others = {
        name_of("-m", "experiment=demo", "lora.r=2,4"),
        name_of("-m", "experiment=demo", "lora.r=2,4", "frames=1,2", "epochs=1"),
        name_of("-m", "lora.r=2,4", "frames=1,2"),
    }
    assert name not in others
    assert len(others) == 3
    schema.FOLDER_NAME.check("sweep", name)
    assert name_of("-m", "lora.r=2,4", "sweep=mine") == "mine"
    assert sweep_name.named(["frames=8"]) == ["frames=8"]


def row(place: Path, status: str, **facts: object) -> SweepJob:
    folder = RunFolder(place / status)
    write_json(folder.result, facts)
    return SweepJob(folder, f"job {status}", tried=status in ("failed", "killed"), status=status)


def test_the_table_has_a_row_for_every_job_and_says_what_is_left(tmp_path):
    jobs = [
        row(tmp_path, "done", seconds=100.0, val={"top1": 0.75}, progress={"step": 9, "steps": 9}),
        row(tmp_path, "failed", seconds=3.0, error="ValueError: that"),
        row(tmp_path, "killed", seconds=3.0),
        row(tmp_path, "running", progress={"step": 4, "steps": 9, "val/top1": 0.5}),
        row(tmp_path, "waiting"),
    ]
    text = io.StringIO()
    Console(file=text, width=120).print(progress_table.table(jobs, at_once=1))
    for job in jobs:
        assert f"{job.name} " in text.getvalue()
    for word in (
        "0.750",
        "9/9",
        "4/9",
        "0.500",
        "ValueError: that",
        "its process was killed",
        "3 of 5 finished (1 done, 1 failed, 1 killed, 1 running, 1 waiting)",
    ):
        assert word in text.getvalue()
    assert progress_table.left(jobs, at_once=1) == ", about 0:03:20 left"  # two of 100 s
    assert progress_table.left(jobs[1:], at_once=1) == ""
    assert progress_table.line(jobs[0]) == "job done: done, step 9/9, val top-1 0.750, 0:01:40"


def test_a_column_that_no_job_fills_is_left_out(tmp_path):
    jobs = [row(tmp_path, "waiting")]
    assert [column.header for column in progress_table.table(jobs, 1).columns] == ["job", "status"]


def test_a_sweep_says_what_disk_it_takes(tmp_path):
    jobs = toy.laid_out(tmp_path, a="", b="")
    write_json(jobs[0].folder.result, {"status": "done"})
    for job in jobs:
        job.look()
        job.disk = 5 * 10**6
    said = progress_table.announce(tmp_path, jobs)
    assert "2 jobs (1 done, 1 waiting)" in said
    assert "about 5 MB of disk to write" in said
    jobs[1].disk = 10**18
    assert "too little" in progress_table.announce(tmp_path, jobs)


SMALL = ["experiment=demo", "dataset.signs=4", "dataset.signers=8", "epochs=2", "batch=8"]


def sweep(workplace: Path, place: Path, fault: str = "") -> subprocess.Popen:
    words = [*SMALL, f"data={workplace / 'data'}", f"outputs={place}", "lora.r=2,4,8", "frames=1,2,3"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "faults"), "FAULT": fault, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "train.py", "-m", *words, "hydra.launcher.at_once=2"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@POSIX
@pytest.mark.slow
def test_a_grid_survives_whatever_happens_to_its_jobs_and_to_itself(workplace, tmp_path):
    """Nine jobs: one raises, one exits, one is killed; then the sweep itself is killed. The same command ends it."""
    place = tmp_path / "grid"  # a name without what separates faults
    step = "slr.training.module:SignModule.training_step:2"
    at = lambda frames, rank: f"resume={place}/synthetic-tiny/sweeps/NAME/frames-{frames}_lora.r-{rank}"  # noqa: E731
    name = name_of("-m", *SMALL, "lora.r=2,4,8", "frames=1,2,3")
    faults = [f"{step}:raise", f"{step}:exit", f"{step}:kill"]
    where = [at(1, 2), at(2, 2), at(3, 2)]
    fault = ",".join(f"{one}:{word.replace('NAME', name)}" for one, word in zip(faults, where, strict=True))
    folders = [
        place / "synthetic-tiny" / "sweeps" / name / f"frames-{f}_lora.r-{r}" for r in (2, 4, 8) for f in (1, 2, 3)
    ]
    first = sweep(workplace, place, fault)
    with first:
        deadline = time.monotonic() + 1200
        while sum(RunFolder(one).adapter.exists() for one in folders) < 2:
            assert time.monotonic() < deadline
            assert first.poll() is None, first.communicate()[0][-3000:]
            time.sleep(0.1)
        first.kill()
    found = [SweepJob(RunFolder(one), one.name) for one in folders]

    def look() -> list[str]:
        for job in found:
            job.look()
        return [job.status for job in found]

    deadline = time.monotonic() + 300
    while "running" in look():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before = {job.name: job.status for job in found}
    assert [job.status for job in found[:3]] == ["failed", "failed", "killed"]
    assert found[0].reason == "RuntimeError: on purpose"
    assert found[1].reason == "SystemExit: 3"
    done = {
        one: RunFolder(one).result.stat().st_mtime_ns
        for one in folders
        if read_json(RunFolder(one).result)["status"] == "done"
    }
    assert 1 <= len(done) <= 5
    second = sweep(workplace, place)
    said = second.communicate(timeout=1200)[0]
    assert second.returncode == 0, said[-3000:]
    assert look() == ["done"] * 9
    assert {one: RunFolder(one).result.stat().st_mtime_ns for one in done} == done, before
    assert said.count("│ done") == 9
    third = sweep(workplace, place)  # nothing is missing: no job is started
    assert "9 of 9 finished (9 done, 0 failed)" in third.communicate(timeout=300)[0]
    assert third.returncode == 0


@POSIX
@pytest.mark.slow
def test_a_sweep_with_a_job_that_fails_ends_with_1_and_a_true_table(workplace):
    place = workplace / "failing"
    words = [*SMALL, f"data={workplace / 'data'}", f"outputs={place}", "lora.r=2,4", "sweep=two"]
    fault = "slr.training.module:SignModule.training_step:2:raise"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "faults"), "FAULT": fault, "HF_HUB_OFFLINE": "1"}
    run = [sys.executable, "train.py", "-m", *words, "hydra.launcher.keep_going=false"]
    result = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "on purpose" in result.stdout
    assert "waiting" in result.stdout
