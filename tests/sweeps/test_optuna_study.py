"""The search: a toy program whose processes fail, die and share a study; pruning by hand; the real training."""

import csv
import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from entry import SMALL, ended, status
from hydra.core.utils import JobReturn, JobStatus
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from searches import OPTUNA, axis

from hydra_plugins import slr_optuna
from slr.config import compose, jobs, overrides, search_space
from slr.core.files import read_json, write_json
from slr.core.run_folder import RunFolder
from slr.sweeps.optuna_study import Report, Search
from slr.sweeps.runner import lay_out

compose.register()
ROOT = Path(__file__).resolve().parents[2]
POSIX = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
SPACE = ("x=interval(0,1)", "n=range(1,6)", "c=a,b")

# A job in the search's own process, which does as DEED says of its trial's number, once.
TOY = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import os, signal, time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from slr.core.errors import UserError
from slr.core.run_folder import write_json

QUIET = [{{"override hydra/job_logging": "none"}}, {{"override hydra/hydra_logging": "none"}}, "_self_"]

@dataclass
class Page:
    defaults: list[Any] = field(default_factory=lambda: QUIET)
    x: float = 0.5
    n: int = 1
    c: str = "a"
    seed: int = 0

    def __post_init__(self):
        if (self.seed, self.c) == (99, "b"):
            raise UserError("c=b: expected another for this seed")

ConfigStore.instance().store("toy", Page)

@hydra.main(config_path=None, config_name="toy", version_base="1.3")
def toy(config):
    folder = Path(HydraConfig.get().runtime.output_dir)
    number = folder.name.partition("-")[2]
    with (folder.parent / "starts").open("a") as starts:
        starts.write(f"{{number}} {{config.x!r}} {{config.n}} {{config.c}}\\n")
    time.sleep(float(os.environ.get("TAKES", 0)))
    deed, _, numbers = os.environ.get("DEED", "").partition(":")
    if (numbers == "any" or number in numbers.split(",")) and not (folder / "deed").exists():
        (folder / "deed").touch()
        if deed == "raise":
            raise RuntimeError("first\\nthe last line")
        if deed == "nan":
            return float("nan")
        if deed == "prune":
            from slr.sweeps.optuna_study import Report
            assert not Report(folder, int(number))(1, 0.125)
            write_json(folder / "result.json", {{"status": "pruned"}})
            return 0.5
        os.kill(os.getpid(), signal.SIGTERM if deed == "term" else signal.SIGKILL)
        time.sleep(60)
    return (config.c == "b") - (config.x - 0.3) ** 2 - abs(config.n - 4)

toy()
"""


@pytest.fixture
def toy(tmp_path) -> Path:
    path = tmp_path / "toy.py"
    path.write_text(TOY)
    return path


def begun(toy: Path, *words: str, name: str = "sweep", trials: int = 12, deed: str = "", takes: float = 0):
    command = [sys.executable, str(toy), "-m", OPTUNA, f"hydra.sweeper.n_trials={trials}", f"hydra.sweep.dir={name}"]
    return subprocess.Popen(
        [*command, *(words or SPACE)],
        cwd=toy.parent,
        env=os.environ | {"DEED": deed, "TAKES": str(takes)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    with process:
        out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def search(toy: Path, *words: str, **options) -> tuple[int, str, str]:
    return finished(begun(toy, *words, **options))


def trials(folder: Path) -> list[FrozenTrial]:
    """As Optuna alone reads them."""
    journal = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return optuna.load_study(study_name="slr", storage=journal).trials


def settings(trial: FrozenTrial) -> tuple:
    return tuple(trial.params.values())


def starts(folder: Path) -> list[tuple[str, ...]]:
    return [tuple(line.split()) for line in (folder / "starts").read_text().splitlines()]


def as_started(trial: FrozenTrial) -> tuple[str, ...]:
    return tuple(map(str, (trial.number, *settings(trial))))


@pytest.mark.e2e
@POSIX
def test_twelve_trials_cut_after_five_are_twelve_different_ones_when_continued(toy):
    folder = toy.parent / "sweep"
    code, _, _ = search(toy, deed="kill:5")
    assert code == -signal.SIGKILL
    assert [trial.state for trial in trials(folder)] == [TrialState.COMPLETE] * 5 + [TrialState.RUNNING]

    code, out, err = search(toy)
    assert (code, err) == (0, "")
    found = trials(folder)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 12
    assert len({settings(trial) for trial in found}) == 12
    # The sixth was begun twice, with the same settings; every other once.
    assert sorted(starts(folder)) == sorted([as_started(trial) for trial in found] + [as_started(found[5])])

    best = max(found, key=lambda trial: trial.value)
    x, n, c = settings(best)
    assert best.value == (c == "b") - (x - 0.3) ** 2 - abs(n - 4)
    assert f"best: trial {best.number}, {best.value:.4g}: x={x} n={n} c={c}" in out
    assert str(folder / f"trial-{best.number}") in out
    assert f"slr train -m x={x} n={n} c={c} seed=1,2,3" in out

    # As if nothing had happened: the next suggestion depends on the trials before it alone.
    assert search(toy, name="other")[0] == 0
    assert [settings(trial) for trial in trials(toy.parent / "other")] == [settings(trial) for trial in found]

    # Once more, there is nothing left to do; with more trials, there is.
    assert search(toy)[:2] == (0, out.replace("search: 6 of", "search: 12 of").replace(trial_lines(out), ""))
    assert search(toy, trials=13)[0] == 0
    assert len({settings(trial) for trial in trials(folder)}) == 13
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(float(row["x"]), row["n"], row["c"]) for row in rows] == [
        (trial.params["x"], str(trial.params["n"]), trial.params["c"]) for trial in trials(folder)
    ]
    assert {row["status"] for row in rows} == {"done"}


def trial_lines(out: str) -> str:
    return "".join(f"{line}\n" for line in out.splitlines() if line.startswith("trial "))


@POSIX
def test_a_search_that_is_asked_to_end_goes_on_as_well(toy):
    assert search(toy, trials=2, deed="term:1")[0] == 143
    [_, cut] = trials(toy.parent / "sweep")
    assert cut.state == TrialState.RUNNING
    assert search(toy, trials=2)[0] == 0
    [_, again] = trials(toy.parent / "sweep")
    assert (again.state, settings(again)) == (TrialState.COMPLETE, settings(cut))


@pytest.mark.e2e
def test_half_a_line_in_the_journal_is_cut_off(toy):
    folder = toy.parent / "sweep"
    assert search(toy, trials=2)[0] == 0
    whole = (folder / "study.journal").read_bytes()
    (folder / "study.journal").write_bytes(whole + whole.splitlines()[-1][:40])
    assert search(toy, trials=4)[::2] == (0, "")
    assert (folder / "study.journal").read_bytes().startswith(whole)
    assert [trial.state for trial in trials(folder)] == [TrialState.COMPLETE] * 4


def test_failed_jobs_are_failed_trials_and_the_study_goes_on(toy):
    code, out, err = search(toy, trials=5, deed="raise:1,3")
    assert (code, err) == (0, "")
    states = [trial.state.name for trial in trials(toy.parent / "sweep")]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "FAIL", "COMPLETE"]
    assert out.count("trial 3: failed: RuntimeError: first the last line") == 2  # when it did, and at the end
    assert "5 trials: 3 done, 2 failed" in out
    with (toy.parent / "sweep" / "trials.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["done", "failed", "done", "failed", "done"]
    # They have ended: nothing is begun anew.
    assert search(toy, trials=5)[0] == 0
    assert len(starts(toy.parent / "sweep")) == 5


@pytest.mark.e2e
def test_settings_that_cannot_be_together_are_a_failed_trial(toy):
    code, out, err = search(toy, "n=1,2", "c=a,b", "seed=99", trials=9)
    assert (code, err) == (0, "")
    assert {trial.params["c"]: trial.state.name for trial in trials(toy.parent / "sweep")} == {
        "a": "COMPLETE",
        "b": "FAIL",
    }
    assert out.count("failed: c=b: expected another for this seed") == 4  # two trials, when they failed and at the end
    assert len(starts(toy.parent / "sweep")) == 2


@pytest.mark.parametrize(
    ("written", "told"),
    [("failed", "failed"), ("", "failed"), ("running", "cut"), ("stopped", "cut"), ("waiting", "cut")],
)
def test_only_a_run_that_failed_is_a_failed_trial(tmp_path, written, told):
    study = Search(tmp_path, [axis("n=range(9)", {"n": 1})], {}, "maximize", 0, NEVER)
    with study.at_work():
        number = study.claim(1)
        if written:
            write_json(tmp_path / "trial-0" / "result.json", {"status": written, "error": "ValueError: no"})
        slr_optuna.tell(study, number, JobReturn(status=JobStatus.FAILED))
        [trial] = study.trials
        assert study.status(trial) == told
    assert trial.user_attrs.get("reason") == (
        {"failed": "ValueError: no"}.get(written, "its process has failed") if told == "failed" else None
    )


@pytest.mark.e2e
def test_a_search_without_any_value_has_failed(toy):
    code, out, err = search(toy, trials=2, deed="nan:any")
    assert (code, err) == (1, "")
    assert "expected a finite number from the run, found nan" in out
    assert {trial.state for trial in trials(toy.parent / "sweep")} == {TrialState.FAIL}


@pytest.mark.e2e
def test_a_pruned_run_is_a_pruned_trial_of_its_last_value(toy):
    assert search(toy, trials=3, deed="prune:1")[0] == 0
    pruned = trials(toy.parent / "sweep")[1]
    assert (pruned.state, pruned.value, pruned.intermediate_values) == (TrialState.PRUNED, 0.125, {1: 0.125})


@pytest.mark.e2e
def test_nothing_is_tried_twice_and_a_space_that_was_tried_is_the_end(toy):
    code, out, _ = search(toy, "n=range(1,4)", "c=a,b", trials=50)
    assert code == 0
    assert "the whole space was tried, in 6 trials" in out
    assert {settings(trial) for trial in trials(toy.parent / "sweep")} == set(itertools.product((1, 2, 3), "ab"))
    assert len(starts(toy.parent / "sweep")) == 6


@pytest.mark.e2e
def test_trials_that_are_asked_for_together(toy):
    assert search(toy, *SPACE, "hydra.sweeper.at_once=4", trials=6)[0] == 0
    found = trials(toy.parent / "sweep")
    assert len({settings(trial) for trial in found}) == 6
    begins, ends = [trial.datetime_start for trial in found], [trial.datetime_complete for trial in found]
    assert max(begins[:4]) < min(ends)
    assert begins[4] > max(ends[:4])


@pytest.mark.e2e
def test_another_space_or_other_settings_under_one_name_are_refused(toy):
    assert search(toy, trials=1)[0] == 0
    for words, message in [
        (["x=interval(0,2)", *SPACE[1:]], "holds a search over x=0.0…1.0; n=1…5 by 1; c=a,b; give this one another"),
        ([*SPACE, "seed=3"], "holds a search with seed=0; give this one another name"),
        ([*SPACE, "hydra.sweeper.direction=minimize"], "holds a search with hydra.sweeper.direction=maximize"),
    ]:
        code, _, err = search(toy, *words)
        assert (code, len(err.splitlines())) == (2, 1)
        assert message in err
    assert len(trials(toy.parent / "sweep")) == 1


@pytest.mark.e2e
@POSIX
@pytest.mark.parametrize("deed", ["", "kill:any"])
def test_two_processes_share_a_study_and_one_finishes_what_the_other_leaves(toy, deed):
    folder = toy.parent / "sweep"
    first = begun(toy, trials=8, deed=deed, takes=0.3)
    if deed:
        wait_for(folder / "starts")  # else the other one may have made all trials when this one comes
    second = begun(toy, trials=8, takes=0.3)
    codes = [finished(process)[0] for process in (first, second)]
    assert codes == [-signal.SIGKILL if deed else 0, 0]
    found = trials(folder)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 8
    assert len({settings(trial) for trial in found}) == 8
    twice = [line for line in starts(folder) if starts(folder).count(line) == 2]
    assert len(twice) == (2 if deed else 0)
    assert set(starts(folder)) == {as_started(trial) for trial in found}


def test_a_trial_whose_run_is_alive_is_left_alone(tmp_path):
    """Of a search that was killed and whose job still saves itself; and one that was cut is not tried twice at once."""
    one, other = (Search(tmp_path, [axis("n=range(9)", {"n": 1})], {}, "maximize", 0, NEVER) for _ in "ab")
    with one.at_work():
        assert one.claim(1) == 0
    holder = "import sys, time; from pathlib import Path; from slr.core.locks import occupied\n"
    holder += "with occupied(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "trial-0")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as alive:
        alive.stdout.readline()
        with other.at_work():
            assert other.claim(1) is None
            assert other.waits
            alive.communicate()
            assert other.claim(1) == 0
            other.tell(0, "cut")
            assert other.claim(1) is None
            assert not other.waits
    third = Search(tmp_path, other.axes, {}, "maximize", 0, NEVER)
    with third.at_work():
        assert third.claim(1) == 0


def pruning_by(pruner: str, startup_trials: int, warmup_epochs: int) -> dict[str, str | int]:
    return {"pruner": pruner, "startup_trials": startup_trials, "warmup_epochs": warmup_epochs}


NEVER = pruning_by("none", 1, 0)


def curve(trial: int, epoch: int) -> float:
    return ((trial * 7) % 5) / 5 + epoch * ((trial * 3) % 4) / 40


@pytest.mark.parametrize("pruning", [pruning_by("median", 3, 2), pruning_by("median", 1, 0), NEVER])
def test_median_pruning_is_as_by_hand(tmp_path, pruning):
    epochs, expected, done = 6, {}, []
    for trial in range(12):
        curves = [curve(trial, epoch) for epoch in range(1, epochs + 1)]
        expected[trial] = epochs
        for epoch in range(pruning["warmup_epochs"] + 1, epochs + 1):
            enough = len(done) >= pruning["startup_trials"] and pruning["pruner"] == "median"
            if enough and max(curves[:epoch]) < statistics.median(other[epoch - 1] for other in done):
                expected[trial] = epoch
                break
        else:
            done.append(curves)
    assert 0 < len(done) <= 12
    assert (len(done) == 12) == (pruning is NEVER)

    found = {}
    study = Search(tmp_path, [axis("n=range(99)", {"n": 1})], {}, "maximize", 0, pruning)
    with study.at_work():
        for _ in range(12):
            number = study.claim(12)
            report = Report(search_space.trial_folder(tmp_path, number), number)
            for epoch in range(1, epochs + 1):
                found[number] = epoch
                if report(epoch, curve(number, epoch)):
                    study.tell(number, "pruned")
                    break
                report(epoch, curve(number, epoch))  # again, as behind a cut
            else:
                study.tell(number, "done", curve(number, epochs))
            assert report(epochs, 5.0) is False  # of a trial that has ended, nobody asks
    assert found == expected
    for trial in trials(tmp_path):
        ended_at = expected[trial.number]
        assert trial.intermediate_values == {epoch: curve(trial.number, epoch) for epoch in range(1, ended_at + 1)}
        assert trial.value == curve(trial.number, ended_at)


def test_a_run_knows_whose_trial_it_is(tmp_path):
    assert search_space.trial_number(tmp_path / "trial-3") is None
    (tmp_path / search_space.JOURNAL).touch()
    assert search_space.trial_number(search_space.trial_folder(tmp_path, 31)) == 31
    assert search_space.trial_number(tmp_path / "frames-8") is None


@POSIX
@pytest.mark.slow
def test_a_run_that_the_search_gives_up_stays_so_when_it_is_killed_before_it_can_say_it(workplace, tmp_path):
    """Of the real training: beside a trial whose curve nobody reaches."""
    study = Search(tmp_path, [axis("frames=1,2")], {}, "maximize", 0, pruning_by("median", 1, 0))
    with study.at_work():
        assert [study.claim(2), study.claim(2)] == [0, 1]
        for epoch in (1, 2, 3):
            Report(tmp_path / "trial-0", 0)(epoch, 2.0)
        study.tell(0, "done", 2.0)
    run = tmp_path / "trial-1"
    words = overrides.quote_paths([*SMALL, "frames=1", "epochs=3", "hardware=cpu", f"data={workplace / 'data'}"])
    [config] = jobs.configurations(words)
    lay_out(RunFolder(run), config, [])
    from slr.prepare.dataset import prepare

    prepare(vars(config.dataset), Path(config.data) / config.dataset.place)
    code, out, _ = ended("train.py", f"resume={run}", fault="slr.training.module:SignModule.restore:1:kill")
    assert code == -signal.SIGKILL
    assert "pruned: val/top1" in out
    assert status(run) == "running"

    code, out, err = ended("train.py", f"resume={run}")
    assert code == 0, err[-3000:]
    result = read_json(run / "result.json")
    assert result["status"] == "pruned"
    assert "test" not in result
    assert not (run / "evaluation").exists()
    [trained] = [trial for trial in trials(tmp_path) if trial.number == 1]
    assert trained.intermediate_values == {1: result["val"]["top1"]}
    assert result["progress"]["step"] * 3 == result["progress"]["steps"]  # one epoch of three
    assert "pruned already" in ended("train.py", f"resume={run}")[1]


@POSIX
@pytest.mark.slow
def test_the_real_search_goes_on_where_a_job_was_killed(workplace, tmp_path):
    outputs = tmp_path / "outputs"
    words = [OPTUNA, "hydra.sweeper.n_trials=3", *SMALL, "epochs=1", "frames=1,2", "hardware=cpu", "sweep=found"]
    words += ["optimizer.lr=tag(log,interval(1e-4,1e-2))", f"outputs={outputs}", f"data={workplace / 'data'}"]
    folder = outputs / "synthetic-tiny" / "sweeps" / "found"
    killed = f"slr.training.loop:CheckpointCallback._write:1:kill:resume={folder / 'trial-1'}"
    code, out, err = ended("train.py", "-m", *words, fault=killed)
    assert code == 1, err[-3000:]
    assert "trial 1: cut" in out
    assert "the same command again continues the trials that were cut" in out
    assert [trial.state.name for trial in trials(folder)] == ["COMPLETE", "RUNNING", "COMPLETE"]

    code, out, err = ended("train.py", "-m", *words)
    assert code == 0, err[-3000:]
    found = trials(folder)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 3
    assert len({settings(trial) for trial in found}) == 3
    for trial in found:
        result = read_json(folder / f"trial-{trial.number}" / "result.json")
        config = read_json(folder / f"trial-{trial.number}" / "config.json")
        assert trial.value == result["val"]["top1"] == trial.intermediate_values[1]
        assert (str(config["frames"]), config["optimizer"]["lr"]) == settings(trial)
    best = max(trial.value for trial in found)
    assert f"{best:.4g}: frames=" in out
