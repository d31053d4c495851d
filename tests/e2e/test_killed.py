"""Runs that are killed or stopped, as commands that a person types again: the numbers are an undisturbed run's."""

import json
import os
import re
import shlex
import shutil
import signal
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from entry import ONE_FRAME, SMALL, command, ended, only_run, scalars, started, status

from slr.core import checkpoints
from slr.core.files import read_json
from slr.core.locks import exclusive, occupied
from slr.training.module import place_of

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs kill -9 and groups of processes")
STEP, VALIDATION = (f"slr.training.module:SignModule.{name}_step" for name in ("training", "validation"))
KILLED = -signal.SIGKILL
# 24 clips train in 6 steps an epoch, each one saved; 4 are for validation, ranked two by two.
SHORT = (*SMALL, "epochs=4", "batch=4", "checkpoint.every=0", "hardware.frames_at_once=16")


def same_run(one: Path, other: Path) -> None:
    """Weights, optimiser, rankings, metrics and curves, all to the last bit."""
    for name in ("best", "last"):
        first, second = (torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True) for run in (one, other))
        assert first["state_dict"].keys() == second["state_dict"].keys()
        assert all(torch.equal(first["state_dict"][key], second["state_dict"][key]) for key in first["state_dict"])
        assert repr(first["optimizer_states"]) == repr(second["optimizer_states"])
        assert first["global_step"] == second["global_step"]
    for name in ("adapter/adapter_model.safetensors", "evaluation/evaluation_results.json", "split.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    results = [read_json(run / "result.json") for run in (one, other)]
    assert [result["status"] for result in results] == ["done", "done"]
    for key in ("val", "test", "progress"):
        assert results[0][key] == results[1][key]
    assert scalars(one) == scalars(other)


def whole_curves(run: Path, epochs: int) -> None:
    """Each step once, each validation once, none missing."""
    found = scalars(run)
    steps = [step for step, _ in found["train/loss"]]
    assert steps == list(range(len(steps)))
    per_epoch = len(steps) // epochs
    ends = [per_epoch * (epoch + 1) - 1 for epoch in range(epochs)]
    assert [step for step, _ in found["val/loss"]] == ends
    assert [step for step, _ in found["val/top1"]] == ends
    assert [step for step, _ in found["test/top1"]] == [len(steps)]


def left(run: Path) -> tuple[int, bool]:
    """The place of the newest whole state of a killed run: steps, and whether the last epoch's validation is behind."""
    folder = run / "checkpoints"
    for name in (checkpoints.LAST, checkpoints.PREVIOUS):
        if (folder / name).is_file() and checkpoints.is_whole(folder / name):
            place = place_of(folder / name)
            return place.step, place.validated
    return 0, True


BEST = "_replace_with_copy"  # which a validation that is the best so far calls


def drawn(seed: int) -> list[tuple[str, str]]:
    """Ten moments to die in, in the order of the run, at least two of each kind; and what brings each of them about."""
    rng = np.random.default_rng(seed)
    kinds = ["in a step", "while saving", "while validating", "between epochs"]
    counts = np.array([2, 2, 2, 2]) + rng.multinomial(2, [0.3, 0.5, 0.2, 0.0])
    moments = []
    for kind, count in zip(kinds, counts, strict=True):
        epochs = rng.permutation([0, 1]) if kind == "between epochs" else rng.integers(0, 3, count)
        for epoch in epochs.tolist():
            cause = fault(kind, rng)
            in_epoch = 3 if kind == "between epochs" else 2 if kind == "while validating" or BEST in cause else 1
            moments.append((epoch, in_epoch, float(rng.random()), kind, cause))
    return [(kind, cause) for *_, kind, cause in sorted(moments)]


def fault(kind: str, rng: np.random.Generator) -> str:
    """What the process dies of; counted from its start."""
    if kind == "in a step":
        return f"{STEP}:{rng.integers(3, 10)}:kill"
    if kind == "while validating":
        return f"{VALIDATION}:{rng.integers(1, 9)}:kill"
    if kind == "between epochs":
        return "slr.training.loop:CheckpointCallback.on_train_epoch_end:1:kill"
    return str(
        rng.choice(
            [
                # The first is the hash of what it goes on from.
                f"slr.core.checkpoints:sha256:{rng.integers(2, 4)}:kill",
                f"slr.core.checkpoints:write_whole:{rng.integers(1, 3)}:kill",
                "slr.core.checkpoints:os.replace:7:kill",  # of one that goes on, the last of its first saving
                f"slr.core.checkpoints:{BEST}:1:kill",
            ]
        )
    )


@pytest.mark.parametrize("seed", range(20))
def test_moments_are_of_every_kind(seed):
    kinds = [kind for kind, _ in drawn(seed)]
    assert len(kinds) == 10
    assert min(map(kinds.count, ("in a step", "while saving", "while validating", "between epochs"))) == 2


def by_resuming(words: list[str], outputs: Path) -> list[str]:
    """The first time as it was typed, then in the run's own folder."""
    return [f"resume={only_run(outputs)}"] if outputs.exists() else words


def by_repeating(words: list[str], outputs: Path) -> list[str]:
    """A sweep of one job, by the same command each time."""
    return ["-m", *words, "sweep=of-one"]


WAYS = {"resume": by_resuming, "sweep": by_repeating}  # the words to begin and to go on with


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "workers", "seed", "kills"), [("resume", 0, 0, 10), ("resume", 2, 3, 5), ("sweep", 1, 8, 5)]
)
def test_the_demo_killed_again_and_again_gives_the_same_numbers(one_frame, workplace, way, workers, seed, kills):
    calm = one_frame
    outputs = workplace / f"killed, {way} {workers}"
    words = ["experiment=demo", *ONE_FRAME, f"hardware.workers={workers}", "checkpoint.every=0.005"]
    words += [f"outputs={outputs}", f"data={workplace / 'data'}"]
    epoch = read_json(calm / "result.json")["progress"]["steps"] // 3
    places = []
    for kind, cause in drawn(seed)[:: 10 // kills]:
        code, out, err = ended("train.py", *WAYS[way](words, outputs), fault=cause)
        assert code == (KILLED if way == "resume" else 1), (kind, cause, out[-2000:], err[-2000:])
        run = only_run(outputs)
        places.append((kind, *left(run)))
        _, step, validated = places[-1]
        print(*places[-1], cause)
        assert status(run) == "running"
        if kind == "while saving":
            assert (run / "checkpoints" / checkpoints.PART).is_file()
        elif kind == "while validating":
            assert step % epoch or not validated
        elif kind == "between epochs":
            assert (step % epoch, validated) == (0, True)
    steps = [step for _, step, _ in places]
    assert steps == sorted(steps)  # nothing that was saved was lost again
    command("train.py", *WAYS[way](words, outputs))
    run = only_run(outputs)
    same_run(run, calm)
    whole_curves(run, epochs=3)


@pytest.fixture(scope="session")
def calm(workplace) -> Path:
    """A small run that nobody disturbs."""
    outputs = workplace / "calm"
    outputs.mkdir(exist_ok=True)
    with exclusive(outputs):
        if not list(outputs.rglob("result.json")):
            command("train.py", *SHORT, f"outputs={outputs}", f"data={workplace / 'data'}")
    return only_run(outputs)


@POSIX
def test_a_run_that_is_stopped_saves_itself_and_goes_on(calm, workplace):
    """By SIGTERM to all its processes, by Ctrl-C while it validates, before its first state, and after its last one."""
    outputs = workplace / "stopped"
    words = [*SHORT, "hardware.workers=2", f"outputs={outputs}", f"data={workplace / 'data'}"]
    code, _, err = ended("train.py", *words, fault="slr.training.module:SignModule.configure_optimizers:1:kill")
    assert code == KILLED, err
    run = only_run(outputs)
    assert not (run / "checkpoints" / "last.ckpt").exists()

    def go_on(fault: str) -> tuple[int, str, str]:
        with started("train.py", f"resume={run}", fault=fault, start_new_session=True) as process:
            out, err = process.communicate()
        assert "Traceback" not in err
        return process.returncode, out, err

    code, out, err = go_on(f"{STEP}:3:group")
    assert code == 143, err
    assert err.count("stopping when") == 1
    assert err.splitlines()[-1] == f"stopped; to continue: {shlex.join(['slr', 'train', f'resume={run}'])}"
    assert status(run) == "stopped"
    assert left(run) == (3, True)  # with the step in which it was asked
    code, out, err = go_on(f"{VALIDATION}:1:int")
    assert "continuing after step 3" in out
    assert code == 130
    assert status(run) == "stopped"
    assert left(run) == (6, False)
    code, _, err = go_on("slr.training.loop:CheckpointCallback.on_train_end:1:term")
    assert code == 143
    assert status(run) == "stopped"
    assert left(run) == (24, True)
    command("train.py", f"resume={run}")
    same_run(run, calm)
    whole_curves(run, epochs=4)
    said = (run / "log.txt").read_text()
    assert said.count("epoch 1 of 4") == 1
    assert "Epoch 1:" not in said  # no progress bars


def content(run: Path) -> dict[str, str]:
    files = [path for path in run.rglob("*") if path.is_file() and path.name != "log.txt"]
    return {str(path.relative_to(run)): sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_a_finished_run_is_left_alone_or_trains_more_epochs(calm, workplace):
    run = workplace / "finished"
    shutil.copytree(calm, run)
    before = content(run)
    for more in ([], ["epochs=4"], ["epochs=3"]):
        assert "done already" in command("train.py", f"resume={run}", *more)
        assert content(run) == before
    code, _, err = ended("train.py", f"resume={run}", "epochs=5", fault=f"{VALIDATION}:1:kill")
    assert code == KILLED, err
    code, _, err = ended("train.py", f"resume={run}", "epochs=3")
    assert code == 2
    assert "epochs=3: expected at least 5" in err
    command("train.py", f"resume={run}")
    assert read_json(run / "config.json")["epochs"] == 5
    assert read_json(run / "result.json")["progress"]["step"] == 30
    whole_curves(run, epochs=5)
    one, other = scalars(run), scalars(calm)
    assert one["train/loss"][:24] == other["train/loss"]
    assert one["val/loss"][:4] == other["val/loss"]


def one_line(err: str) -> str:
    [line] = [line for line in err.splitlines() if line.strip()]
    return line


def test_what_cannot_be_gone_on_with_costs_one_line(calm, workplace):
    code, _, err = ended("train.py", f"resume={workplace / 'nowhere'}")
    assert code == 2
    assert re.match("error: .*expected the folder of a run", one_line(err))
    code, _, err = ended("train.py", f"resume={calm}", "frames=3")
    assert code == 2
    assert one_line(err).startswith("error: frames=3: a resumed run keeps its settings")
    before = content(calm)
    with occupied(calm):
        code, _, err = ended("train.py", f"resume={calm}", "epochs=9")
    assert code not in (0, 1)
    assert "expected no other process there" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert content(calm) == before


def test_damage_is_noticed_and_the_state_before_is_used(calm, workplace):
    run = workplace / "damaged"
    outputs = workplace / "damaged runs"
    words = [*SHORT, f"outputs={outputs}", f"data={workplace / 'data'}"]
    code, _, err = ended("train.py", *words, fault=f"{STEP}:9:kill")
    assert code == KILLED, err
    run = only_run(outputs)
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1])
    out = command("train.py", f"resume={run}")
    assert f"{last} is damaged" in out
    assert "continuing after step 7" in out
    same_run(run, calm)

    best = run / "checkpoints" / "best.ckpt"
    flipped = bytearray(best.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    best.write_bytes(flipped)
    code, _, err = ended("evaluate.py", f"run={run}")
    assert code == 2
    assert "SHA-256" in one_line(err)


@POSIX
@pytest.mark.slow
def test_features_and_the_closed_set_go_on_exactly(workplace):
    words = [*SHORT, "epochs=2", "cache=features", "cache.views=2", "objective=closed_set"]
    words += [f"data={workplace / 'features to go on'}"]
    command("train.py", *words, f"outputs={workplace / 'features, calm'}")
    outputs = workplace / "features, killed"
    code, _, err = ended("train.py", *words, f"outputs={outputs}", fault=f"{STEP}:9:kill")
    assert code == KILLED, err
    run = only_run(outputs)
    command("train.py", f"resume={run}")
    same_run(run, only_run(workplace / "features, calm"))


@POSIX
def test_an_evaluation_that_was_cut_is_made_again_and_its_results_shown_once(workplace):
    outputs = workplace / "cut evaluation"
    words = [*SMALL, "lora=none", f"outputs={outputs}", f"data={workplace / 'data'}"]
    says_done = "slr.core.run_folder:RunRecord.update:4:kill"
    code, _, err = ended("train.py", *words, fault=says_done)
    assert code == KILLED, err
    run = only_run(outputs)
    before = (run / "evaluation" / "evaluation_results.json").read_bytes()
    shown = scalars(run)
    assert len(shown["test/top1"]) == 1
    assert status(run) == "running"
    command("train.py", f"resume={run}")
    assert (run / "evaluation" / "evaluation_results.json").read_bytes() == before
    assert scalars(run) == shown
    assert json.loads((run / "result.json").read_text())["status"] == "done"
