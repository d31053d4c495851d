"""Sweeps through Hydra: launchers with a toy program in place of training, and the table that they show."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import toy
from entry import ROOT, SMALL, called
from hydra.core.plugins import Plugins
from safetensors.numpy import load_file

import hydra_plugins.slr_sweeps as launchers
from hydra_plugins.slr_sweeps import ray as with_ray
from slr.commands import validate
from slr.config.saved_run import open_run
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.core.run_folder import RunFolder
from slr.core.signals import Stopping
from slr.sweeps.progress_table import Board
from slr.sweeps.runner import SweepJob

WORDS = ("-m", *SMALL, "lora.r=2,4", "sweep=two")
NAMES = [f"dataset.signers-8_dataset.signs-4_experiment-demo_lora.r-{rank}" for rank in (2, 4)]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where the jobs of `WORDS` lie; their program trains nothing."""
    program = toy.program(tmp_path)
    monkeypatch.setattr(validate, "check_apart", validate.check_all)  # in this process, which has torch
    Plugins.instance()  # Hydra executes these modules once more when it looks for plugins
    monkeypatch.setattr(launchers, "PROGRAM", program)
    monkeypatch.setattr(with_ray, "PROGRAM", program)
    monkeypatch.setenv("COLUMNS", "200")  # of the table
    return tmp_path / "out" / "synthetic-tiny" / "sweeps" / "two"


def swept(folder: Path, data: Path) -> tuple[int, str, str]:
    return called("train.py", *WORDS, f"outputs={folder.parents[2]}", f"data={data}")


def test_a_sweep_tries_every_job_shows_them_and_does_what_is_missing_the_next_time(folder, workplace):
    (folder / NAMES[0]).mkdir(parents=True)
    (folder / NAMES[0] / "deed").write_text("raise")
    code, out, err = swept(folder, workplace / "data")
    assert code == 1
    assert "Traceback" not in err
    assert "Error executing" not in err  # Hydra's own, which has no reason; the table has it
    assert f"sweep: 2 jobs (2 waiting) in {folder}; about " in out
    assert "RuntimeError: the last line" in out
    assert "2 of 2 finished (1 done, 1 failed)" in out
    assert "to do what is missing: run the same command again" in out
    done = RunFolder(folder / NAMES[1]).result.stat().st_mtime_ns
    code, out, err = swept(folder, workplace / "data")
    assert (code, "Traceback" in err) == (0, False), err
    assert f"sweep: 2 jobs (1 failed, 1 done) in {folder}; about " in out
    assert out.count(" 0.500 ") == 2
    assert "2 of 2 finished (2 done, 0 failed)" in out
    assert f"to compare the runs: slr compare {folder}" in out
    assert RunFolder(folder / NAMES[1]).result.stat().st_mtime_ns == done
    assert toy.starts(folder) == [NAMES[0], *NAMES]
    for rank, name in zip((2, 4), NAMES, strict=True):
        job = folder / name
        assert read_json(job / "config.json")["lora"]["r"] == rank
        assert (job / ".hydra" / "config.yaml").is_file()
        assert f"lora.r={rank}" in (job / ".hydra" / "overrides.yaml").read_text()


def test_a_run_is_expected_to_take_two_states_with_two_moments_each_and_its_adapter():
    """And the kept demo, whose adapter lies there to be counted, is such a run."""
    _, config, _ = open_run(ROOT / "tests" / "fixtures" / "demo")
    adapter = load_file(ROOT / "tests" / "fixtures" / "demo" / "adapter" / "adapter_model.safetensors")
    numbers = sum(tensor.size for tensor in adapter.values())
    config.checkpoint.keep = "both"
    assert launchers.disk(config) == 4 * numbers * (2 * 3 + 1)
    config.checkpoint.keep = "best"
    assert launchers.disk(config) == 4 * numbers * (3 + 1)


class FakeRay:
    """Ray as its launcher knows it: tasks run when they are waited for, in this process."""

    class exceptions(SimpleNamespace):
        class RayError(Exception):
            pass

        class TaskCancelledError(RayError):
            pass

    def __init__(self) -> None:
        self.started, self.options, self.cancelled, self.given, self.errors = [], [], [], [], {}

    def is_initialized(self) -> bool:
        return bool(self.started)

    def init(self, **words) -> None:
        self.started.append(words)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0}

    def remote(self, **options):
        self.options.append(options)

        def task(work):
            def begin(*words: str) -> object:
                self.given.append(words)
                return work, words

            return SimpleNamespace(remote=begin)

        return task

    def wait(self, tasks, timeout):
        work, words = task = tasks[0]
        try:
            self.errors[task] = work(*words)
        except RuntimeError as error:
            self.errors[task] = error
        return tasks[:1], tasks[1:]

    def get(self, task) -> None:
        if self.errors[task]:
            raise self.errors[task]

    def cancel(self, task) -> None:
        self.cancelled.append(task)


@pytest.fixture
def ray(monkeypatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


class Shown:
    """A board that calls a function each time something may have changed."""

    def __init__(self, show=lambda jobs: None) -> None:
        self.show = show

    def __call__(self, jobs) -> None:
        self.show(jobs)


def test_ray_gets_the_jobs_that_are_missing_with_its_options(folder, ray, tmp_path):
    jobs = toy.laid_out(tmp_path / "jobs", a="raise", b="", c="")
    write_json(jobs[2].folder.result, {"status": "done"})
    jobs[2].look()
    launcher = with_ray.Ray(init={"address": None, "num_cpus": 4}, remote={"num_cpus": 2, "num_gpus": 0})
    launcher.work(jobs, board := Shown(), Stopping())
    assert toy.told(jobs) == {"a": ("failed", "RuntimeError: the last line"), "b": ("done", ""), "c": ("done", "")}
    assert ray.started[0]["num_cpus"] == 4
    assert ray.options == [{"num_cpus": 2, "num_gpus": 0}]
    assert [given[1] for given in ray.given] == [str(job.folder.root) for job in jobs[:2]]
    launcher.work(jobs, board, Stopping())
    assert [given[1] for given in ray.given[2:]] == [str(jobs[0].folder.root)]
    assert {job.status for job in jobs} == {"done"}
    launcher.work(jobs, board, Stopping())
    assert len(ray.given) == 3
    assert len(ray.started) == 1


def test_ray_that_is_stopped_cancels_the_tasks_that_have_not_ended(folder, ray, tmp_path):
    jobs = toy.laid_out(tmp_path / "jobs", a="", b="")
    stopping = Stopping()

    def stop(jobs) -> None:
        stopping.code = 143

    with pytest.raises(SystemExit) as ended:
        with_ray.Ray(init={"address": None}, remote={"num_cpus": 1}).work(jobs, Shown(stop), stopping)
    assert ended.value.code == 143
    assert [Path(words[1]).name for _, words in ray.cancelled] == ["b"]


def test_a_ray_that_cannot_be_reached_or_is_not_there_is_named(ray, tmp_path, monkeypatch):
    def refuse(**words) -> None:
        raise ConnectionError("nobody there")

    jobs = toy.laid_out(tmp_path / "jobs", a="")
    launcher = with_ray.Ray(init={"address": "auto"}, remote={"num_cpus": 1})
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError, match="expected a Ray to work with: nobody there"):
        launcher.work(jobs, Shown(), Stopping())
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="expected ray, which is not installed; add --extra ray"):
        launcher.work(jobs, Shown(), Stopping())


def job(name: str, status: str, **facts: object) -> SweepJob:
    """A job with the given status and facts, in no folder."""
    known = type("Known", (RunFolder,), {"facts": property(lambda self: facts)})
    return SweepJob(known(Path("/nowhere") / name), name, status=status)


def test_a_board_prints_a_line_for_each_change_and_the_table_in_the_end(capsys):
    board = Board()
    one, two = job("one", "waiting"), job("two", "waiting")
    board([one, two])
    assert capsys.readouterr().out == ""
    one.status = "running"
    board([one, two])
    board([one, two])  # nothing has changed
    assert capsys.readouterr().out == "[0/2] one: running\n"
    one.status = "done"
    board([one, two])
    assert capsys.readouterr().out.startswith("[1/2] one: done")
    board.close([one, two])
    out = capsys.readouterr().out
    assert [line.split()[1:4:2] for line in out.splitlines() if line.startswith("│")] == [
        ["one", "done"],
        ["two", "waiting"],
    ]
    assert out.endswith("to do what is missing: run the same command again\n")
    Board().close([one])
    assert capsys.readouterr().out == ""  # the line of a single job says it all


def test_a_board_on_a_terminal_repaints_one_table(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    board = Board()
    one, two = job("one", "running", progress={"step": 1, "steps": 4}), job("two", "waiting")
    board([one, two])
    assert "1/4" in terminal.getvalue()
    painted = len(terminal.getvalue())
    board([one, two])  # nothing has changed, and it was painted a moment ago
    assert len(terminal.getvalue()) == painted
    one.status = two.status = "done"
    board([one, two])
    assert "2 of 2 finished" in terminal.getvalue()[painted:]
    board.close([one, two])
    assert terminal.getvalue().endswith("to compare the runs: slr compare /nowhere\n")
