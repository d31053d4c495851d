"""Going on: whatever moment a training is cut in, what is left leads to the state that it would have reached."""

import json
import os
import shutil
import sys
import warnings
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from entry import scalars
from lightning import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from slr import factory
from slr.config import compose, jobs, schema
from slr.core import checkpoints, tensorboard
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.core.run_folder import RunFolder, recorded
from slr.core.signals import Stopping
from slr.data.batches import EpochBatches
from slr.training import loop, start
from slr.training.console_log import transcribed
from slr.training.module import place_of, step_seed

compose.register()


class Killed(BaseException):
    """A process dies here, and does nothing more."""


def install(folder, content, best=False):
    (folder / checkpoints.PART).write_bytes(content)
    checkpoints.install(folder, best)


def without_links(*_):
    raise OSError("Operation not supported")


def die_at(monkeypatch, moment):
    """Let the process die at the `moment`-th thing that it does to files; a copy dies half way."""
    operations = count()

    def dead_or(operation, before=lambda *_: None):
        def does(*arguments, **words):
            if next(operations) >= moment:
                before(*arguments)
                raise Killed
            return operation(*arguments, **words)

        return does

    for name in ("replace", "link", "fsync"):
        monkeypatch.setattr(os, name, dead_or(getattr(os, name)))
    monkeypatch.setattr(Path, "unlink", dead_or(Path.unlink))
    half = lambda source, target: target.write_bytes(source.read_bytes()[:3])  # noqa: E731
    monkeypatch.setattr(shutil, "copyfile", dead_or(shutil.copyfile, half))
    return operations


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("best", [True, False])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_whatever_moment_saving_dies_in_a_whole_state_is_left(tmp_path, monkeypatch, before, best, links):
    if not links:
        monkeypatch.setattr(os, "link", without_links)
    moments, finished = count(), False
    while not finished:
        folder = tmp_path / str(moment := next(moments))
        folder.mkdir()
        for number in range(before):
            install(folder, b"old %d" % number, best=number == 0)
        with monkeypatch.context() as patch:
            die_at(patch, moment)
            try:
                install(folder, b"new", best)
                finished = True
            except Killed:
                pass
        found = checkpoints.newest(folder)
        old = b"old %d" % (before - 1) if before else None
        assert (found.read_bytes() if found else None) in {old, b"new"}
        assert not finished or found.read_bytes() == b"new"
        chosen = folder / checkpoints.BEST
        if chosen.exists():
            assert checkpoints.is_whole(chosen)
            assert chosen.read_bytes() in {b"old 0", b"new"}
        assert list(folder.glob("*.part")) == []
        install(folder, b"next")  # and the next process saves as if nothing had happened
        assert checkpoints.newest(folder).read_bytes() == b"next"
    assert moment > 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_state_is_noticed_and_the_one_before_is_used(tmp_path, capsys, damage):
    for content in (b"a" * 999, b"b" * 999, b"c" * 999):
        install(tmp_path, content, best=content[:1] == b"a")

    def spoil(name):
        content = bytearray((tmp_path / name).read_bytes())
        content[500] ^= 4
        (tmp_path / name).write_bytes({"cut": content[:998], "flipped": content, "empty": b""}[damage])

    assert checkpoints.newest(tmp_path).read_bytes() == b"c" * 999
    assert capsys.readouterr().out == ""
    spoil("last.ckpt")
    assert checkpoints.newest(tmp_path).read_bytes() == b"b" * 999
    [line] = capsys.readouterr().out.splitlines()
    assert "last.ckpt is damaged" in line
    spoil("previous.ckpt")
    assert checkpoints.newest(tmp_path).read_bytes() == b"a" * 999  # of the best validation, which lies further back
    assert len(capsys.readouterr().out.splitlines()) == 2
    spoil("best.ckpt")
    with pytest.raises(UserError, match="expected a whole checkpoint") as refused:
        checkpoints.newest(tmp_path)
    assert "\n" not in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_saving_that_fails_again_and_again_does_not_make_whole_states_strangers(tmp_path, monkeypatch):
    install(tmp_path, b"good")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
    for _ in range(40):
        with pytest.raises(OSError, match="No space"):
            install(tmp_path, b"the same step's state each time", best=True)
    monkeypatch.undo()
    assert checkpoints.newest(tmp_path).read_bytes() == b"good"


def test_hashes_that_are_gone_make_no_state_whole(tmp_path):
    install(tmp_path, b"state")
    for content in ("", "[]", "{}", '{"last": 3, "best": []}'):
        (tmp_path / "checksums.json").write_text(content)
        assert not checkpoints.is_whole(tmp_path / "last.ckpt")


@pytest.mark.parametrize(("keep", "left"), [("both", ["best", "last"]), ("best", ["best"])])
def test_a_finished_run_keeps_what_it_was_told_to(tmp_path, keep, left):
    for number in range(3):
        install(tmp_path, b"%d" % number, best=number == 1)
    (tmp_path / checkpoints.PART).touch()
    checkpoints.tidy(tmp_path, keep)
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted([*left, "checksums"])
    found = checkpoints.newest(tmp_path)  # more epochs begin here
    assert found.read_bytes() == (b"2" if keep == "both" else b"1")


def logged(folder, *spans, validation=3, name=""):
    """A file of a process that logged steps, with a validation behind each third one."""
    with SummaryWriter(str(folder), filename_suffix=name) as writer:
        for step in (step for span in spans for step in span):
            if step == 0:
                writer.add_text("settings", "lr 1")
            writer.add_scalar("train/loss", 1 / (1 + step), step)
            if step % validation == validation - 1:
                writer.add_scalar("val/loss", 2 / (1 + step), step)
    return max(folder.glob(tensorboard.PATTERN), key=lambda path: path.stat().st_mtime_ns)


def curve(folder, tag="train/loss"):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)] if tag in events.Tags()["scalars"] else []


def expected(steps, numerator=1):
    return [(step, pytest.approx(numerator / (1 + step))) for step in steps]


def test_curves_of_several_processes_become_one_without_gaps_or_doubled_steps(tmp_path):
    first = logged(tmp_path, range(5), name=".1")
    whole = first.read_bytes()
    first.write_bytes(whole + whole[-40:-7])  # the process died while it wrote its next record
    second = logged(tmp_path, range(3, 8), name=".2")  # one that began two steps further back: its doubled steps
    assert len(curve(tmp_path)) == 10
    tensorboard.cut_back(tmp_path, 7, validated=True)
    [file] = tmp_path.iterdir()
    assert file == min(first, second)  # by name, in which a process numbers its writers: 10 comes before 9
    assert curve(tmp_path) == expected(range(7))
    assert curve(tmp_path, "val/loss") == expected([2, 5], 2)
    assert "settings/text_summary" in EventAccumulator(str(tmp_path)).Reload().Tags()["tensors"]
    logged(tmp_path, range(7, 9), name=".3")
    assert sorted(curve(tmp_path)) == expected(range(9))  # files are read by name, and the tenth writer's comes first


@pytest.mark.parametrize(("validated", "left"), [(True, [2, 5]), (False, [2])])
def test_a_validation_that_is_going_to_be_repeated_is_taken_out(tmp_path, validated, left):
    logged(tmp_path, range(8))
    tensorboard.cut_back(tmp_path, 6, validated)
    assert curve(tmp_path) == expected(range(6))
    assert curve(tmp_path, "val/loss") == expected(left, 2)


def test_from_the_beginning_no_curve_is_left(tmp_path):
    tensorboard.cut_back(tmp_path, 0, validated=True)
    tensorboard.cut_back(tmp_path, 7, validated=True)  # nor is there one
    logged(tmp_path, range(4))
    (tmp_path / "result.json").touch()
    tensorboard.cut_back(tmp_path, 0, validated=True)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_cutting_that_dies_doubles_nothing(tmp_path, monkeypatch):
    finished = False
    for moment in count():
        folder = tmp_path / str(moment)
        for number in range(3):
            logged(folder, range(3 * number, 3 * number + 3), name=f".{number}")
        with monkeypatch.context() as patch:
            die_at(patch, moment)
            try:
                tensorboard.cut_back(folder, 9, validated=True)
                finished = True
            except Killed:
                pass
        tensorboard.cut_back(folder, 8, validated=True)
        assert curve(folder) == expected(range(8))
        if finished:
            break
    assert moment == 3


class Keys(Dataset):
    def __getitem__(self, key):
        return torch.tensor(key)


class Learner(LightningModule):
    """Two numbers that follow the keys of the batches that are seen, and a validation that follows the numbers."""

    def __init__(self, scores):
        super().__init__()
        self.automatic_optimization = False
        self.scores = scores
        self.seen, self.validated = [], []
        self.weights = torch.nn.Parameter(torch.ones(2))

    def training_step(self, batch, index):
        self.seen.append((self.global_step, index, self.current_epoch, batch.tolist()))
        torch.manual_seed(step_seed(0, self.global_step, 0))
        keys = torch.nn.functional.dropout(batch.float(), 0.3)
        loss = ((keys * self.weights).sum(1) - 1).square().mean()
        self.manual_backward(loss)
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        self.log("train/loss", loss, prog_bar=True)

    def validation_step(self, batch, index):
        self.validated.append((self.global_step, index, self.current_epoch))

    def on_validation_epoch_end(self):
        self.log("val/loss", self.scores[self.current_epoch])
        self.log("val/top1", self.weights.sum())
        self.log("val/mrr", self.weights.prod())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9)]


class Undisturbed:
    """A training of 10 clips in batches of 4 that saves as often as it can, and copies of its folder at each saving."""

    def __init__(self, folder, workers, scores, patience, epochs=4):
        self.workers, self.scores, self.patience, self.epochs = workers, scores, patience, epochs
        self.snapshots = folder / "snapshots"
        self.snapshots.mkdir()
        self.folder = folder / "calm"
        self.place = 0
        self.learner, self.trainer = self.fit(self.folder, self.snapshot)

    def snapshot(self):
        shutil.copytree(self.folder, self.snapshots / f"{self.place:02}")
        self.place += 1

    def fit(self, folder, saved=lambda: None):
        keeper_folder = folder / "checkpoints"
        found = checkpoints.newest(keeper_folder)
        self.begun = place = place_of(found)
        tensorboard.cut_back(folder, place.step, place.validated)
        batches = EpochBatches(10, 4, seed=3)
        batches.start_at(place.step)
        words = {"num_workers": self.workers, "persistent_workers": self.workers > 0, "generator": torch.Generator()}
        train = DataLoader(Keys(), batch_sampler=batches, **words)
        val = DataLoader(Keys(), batch_sampler=[[(0, 1)], [(0, 2)]], **words)
        keeper = loop.CheckpointCallback(keeper_folder, "val/top1", 0, Stopping(), lambda _: saved())
        learner = Learner(self.scores)
        trainer = loop.build_trainer(
            SimpleNamespace(kind="cpu", device="cpu", precision="32-true", mixed=False),
            self.epochs,
            loop.TensorBoardLogger(folder, name="", version="", default_hp_metric=False),
            keeper,
            loop.early_stopping("val/loss", self.patience),
        )
        trainer.fit(learner, train, val, ckpt_path=found, weights_only=True)
        return learner, trainer


def same_state(one, other):
    for name in ("best", "last"):
        first, second = (torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True) for folder in (one, other))
        assert torch.equal(first["state_dict"]["weights"], second["state_dict"]["weights"])
        states = [content["optimizer_states"][0]["state"][0] for content in (first, second)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        assert first["lr_schedulers"] == second["lr_schedulers"]
        for key in ("global_step", "ended", "validated"):
            assert first[key] == second[key]
        assert first.get("MixedPrecision") == second.get("MixedPrecision")
        assert repr(first["callbacks"]) == repr(second["callbacks"])


def best_of(keeper, validations):
    """The number of the validation that a keeper takes for the best of these, each of score, MRR and loss."""
    saved = []  # of each, whether as the best one
    keeper._save = lambda trainer, best: saved.append(best)
    for number, (score, mrr, loss) in enumerate(validations):
        told = {"val/loss": loss, "val/mrr": mrr} | {keeper.monitor: score}
        trainer = SimpleNamespace(callback_metrics=told, current_epoch=number, max_epochs=9)
        keeper.on_validation_end(trainer, SimpleNamespace(print=lambda line: None))
    return max((number for number, best in enumerate(saved) if best), default=None)


def keeper(monitor="val/top1"):
    return loop.CheckpointCallback(Path(), monitor, 0, Stopping(), lambda at: None)


def test_ties_for_the_best_state_are_broken_by_mrr_then_by_loss():
    random = np.random.default_rng(0)
    for _ in range(50):
        validations = [tuple(random.integers(1, 4, 3).tolist()) for _ in range(6)]
        by_score = max(range(6), key=lambda n: (validations[n][0], validations[n][1], -validations[n][2], -n))
        assert best_of(keeper(), validations) == by_score
        losses = [(loss, mrr, loss) for _, mrr, loss in validations]
        assert best_of(keeper("val/loss"), losses) == max(range(6), key=lambda n: (-losses[n][0], losses[n][1], -n))
        first, second = keeper(), keeper()  # which goes on from what the first has saved
        before = best_of(first, validations[:3])
        second.load_state_dict(first.state_dict())
        after = best_of(second, validations[3:])
        assert (before if after is None else 3 + after) == by_score


def test_a_best_state_of_old_without_ties_gives_way_to_a_better_score_alone():
    for monitor, better in (("val/top1", 0.6), ("val/loss", 0.4)):
        old = keeper(monitor)
        old.load_state_dict({"best": 0.5})
        assert best_of(old, [(0.5, 0.9, 0.1), (0.5, 1.0, 0.0)]) is None
        assert best_of(old, [(better, 0.1, 9.0), (better, 0.2, 9.0)]) == 1
    fresh = keeper()
    fresh.load_state_dict({"best": None})  # saved before the first validation
    assert best_of(fresh, [(0.0, 0.1, 9.0)]) == 0


@pytest.mark.parametrize(
    ("monitor", "validations", "warned"),
    [
        ("val/top1", [(0.25, 0.5, 2.0), (0.25, 0.6, 1.0)], "val/top1 was 0.250 after every epoch"),
        ("val/loss", [(2.0, 0.5, 2.0)] * 3, "val/loss was 2.000 after every epoch"),
        ("val/top1", [(0.25, 0.5, 2.0), (0.2, 0.6, 1.0)], None),
        ("val/top1", [(0.25, 0.5, 2.0), (0.3, 0.6, 1.0), (0.3, 0.6, 1.0)], None),
        ("val/top1", [(0.25, 0.5, 2.0)], None),  # one epoch cannot move it
        ("val/top1", [], None),
    ],
)
@pytest.mark.parametrize("resumed_after", [None, 1])
def test_a_score_that_never_moved_is_warned_about_at_the_end(monitor, validations, warned, resumed_after):
    first = last = keeper(monitor)
    best_of(first, validations[:resumed_after])
    if resumed_after:
        last = keeper(monitor)
        last.load_state_dict(first.state_dict())
        best_of(last, validations[resumed_after:])
    lines = []
    last.on_train_end(SimpleNamespace(current_epoch=len(validations)), SimpleNamespace(print=lines.append))
    assert len(lines) == (warned is not None)
    assert not warned or (lines[0].startswith(f"warning: {warned}") and "optimizer.lr" in lines[0])


def goes_on_from_everywhere(calm):
    """From each state that was saved, the training goes on as the undisturbed one did, and ends as it ended."""
    for snapshot in sorted(calm.snapshots.iterdir()):
        learner, trainer = calm.fit(snapshot)
        place = calm.begun
        assert learner.seen == calm.learner.seen[place.step :]
        behind = lambda at, place=place: at[0] > place.step or (at[0] == place.step and not place.validated)  # noqa: E731
        assert learner.validated == [at for at in calm.learner.validated if behind(at)]
        assert torch.equal(learner.weights, calm.learner.weights)
        assert trainer.current_epoch == calm.trainer.current_epoch
        assert scalars(snapshot) == scalars(calm.folder)
        same_state(snapshot, calm.folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_goes_on_from_every_place(tmp_path, workers):
    calm = Undisturbed(tmp_path, workers, scores=[4, 3, 2, 1], patience=2)
    assert len(calm.learner.seen) == 12
    assert len(calm.learner.validated) == 8
    assert calm.place == 12 + 2 * 4
    goes_on_from_everywhere(calm)


def test_early_stopping_counts_every_epoch_and_trains_none_too_many(tmp_path):
    calm = Undisturbed(tmp_path, 0, scores=[2, 1, 3, 3, 0], patience=2, epochs=5)
    assert len(calm.learner.seen) == 4 * 3
    goes_on_from_everywhere(calm)


def test_the_scale_of_16_bit_gradients_goes_on(tmp_path, monkeypatch):
    """As on a card, whose scaler skips steps that overflow; here with the CPU's."""
    lightning = loop.Trainer

    def scaled(**words):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**122, growth_interval=2)
        plugins = [*words["plugins"], MixedPrecision("16-mixed", "cpu", scaler)]
        return lightning(**(words | {"precision": None, "plugins": plugins}))

    monkeypatch.setattr(loop, "Trainer", scaled)
    # Lightning's scheduler does not know that the scaler has skipped the first step.
    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
    calm = Undisturbed(tmp_path, 0, scores=[4, 3, 2, 1], patience=2)
    scale = torch.load(calm.folder / "checkpoints" / "last.ckpt", weights_only=True)["MixedPrecision"]["scale"]
    assert scale != 2.0**122
    goes_on_from_everywhere(calm)


@pytest.mark.parametrize("clips", [1, 7, 8, 9])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_batches_behind_a_step_are_those_of_an_undisturbed_order(clips, batch):
    def epochs(sampler, first):
        found = []
        for epoch in range(first, 4):
            sampler.set_epoch(epoch)
            found += list(sampler)
        return found

    calm = epochs(EpochBatches(clips, batch, 5), 0)
    assert len({json.dumps(one) for one in calm}) == len(calm)
    for step in range(len(calm)):
        sampler = EpochBatches(clips, batch, 5)
        sampler.start_at(step)
        assert next(iter(sampler)) == calm[step]  # before anybody says which epoch it is: workers take it then
        assert epochs(sampler, sampler.epoch) == calm[step:]


def test_every_step_of_every_process_has_numbers_of_its_own():
    places = [(seed, step, process) for seed in range(8) for step in range(64) for process in range(4)]
    seeds = [step_seed(*place) for place in places]
    assert len(set(seeds)) == len(places)
    assert seeds == [step_seed(*place) for place in places]
    first = [np.random.default_rng(seed).random() for seed in seeds]
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4 / np.sqrt(len(first))


class Terminal:
    """What a terminal is, seen by a program."""

    def __init__(self):
        self.shown = ""
        self.encoding = "utf-8"

    def write(self, text):
        self.shown += text
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return True


def test_a_transcript_keeps_lines_and_no_progress_bars(tmp_path, monkeypatch):
    from tqdm import tqdm

    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    (tmp_path / "log.txt").write_text("of the process before\n", encoding="utf-8")
    with transcribed(tmp_path / "log.txt"):
        assert sys.stdout.isatty()
        assert sys.stderr.encoding == "utf-8"
        print("first, with umlauts: ä")
        for place, leave in ((0, True), (0, False), (1, True), (1, False)):
            for _ in tqdm(range(3), desc="Epoch 1", position=place, leave=leave, mininterval=0):
                pass
        print("a warning", file=sys.stderr)
        print("in", "pieces", end="")
        print()
        print()
        print("half a line at the end", end="")
    assert sys.stdout is out
    assert "3/3" in err.shown
    assert out.shown.startswith("first, with umlauts: ä\nin pieces\n\n")
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [
        "of the process before",
        "first, with umlauts: ä",
        "a warning",
        "in pieces",
        "",
        "half a line at the end",
    ]


def test_a_transcript_ends_with_the_error(tmp_path):
    with pytest.raises(ZeroDivisionError), transcribed(tmp_path / "log.txt"):
        print(1 / 0)
    said = (tmp_path / "log.txt").read_text()
    assert said.startswith("Traceback")
    assert said.endswith("ZeroDivisionError: division by zero\n")
    with pytest.raises(UserError), transcribed(tmp_path / "log.txt"):
        raise UserError("expected\nthis")
    assert (tmp_path / "log.txt").read_text() == said + "error: expected this\n"
    with pytest.raises(SystemExit), transcribed(tmp_path / "log.txt"):
        raise SystemExit(143)
    assert (tmp_path / "log.txt").read_text() == said + "error: expected this\n"


@pytest.mark.parametrize("word", ["frames=8", "seed=1", "lora.r=4", "model=tiny", "epoch=3", "-m", "hardwares=1"])
def test_a_resumed_run_keeps_its_settings(word):
    with pytest.raises(UserError, match=f"^{word}: a resumed run keeps its settings, all but hardware and epochs"):
        jobs.resumption(["resume=a folder", word])


def test_resumption_names_a_folder_as_it_is_typed():
    assert jobs.resumption(["epochs=4", "resume=a=1, b's", "hardware=cpu"]) == (
        Path("a=1, b's"),
        ["epochs=4", "hardware=cpu"],
    )
    with pytest.raises(UserError, match="expected the folder of a run"):
        jobs.resumption(["resume="])


@pytest.fixture(scope="module")
def begun():
    config = jobs.configurations(["experiment=demo", "hardware=cpu", "hardware.workers=1"])[0]
    config.hardware.micro_batch = 16  # as `fit` writes it down
    return config


def test_other_hardware_and_epochs_say_what_they_change(begun):
    assert jobs.changed(begun, []) == (begun, [])
    assert jobs.changed(begun, [f"epochs={begun.epochs}", "hardware.workers=1"]) == (begun, [])
    after, told = jobs.changed(begun, ["epochs=7", "hardware.workers=0"])
    assert (after.epochs, after.hardware.workers, after.hardware.micro_batch) == (7, 0, 16)
    assert after.hardware.precision == begun.hardware.precision
    assert [line.partition(";")[0] for line in told] == ["hardware.workers: 1 -> 0", f"epochs: {begun.epochs} -> 7"]
    after, told = jobs.changed(begun, ["hardware=cuda"])
    assert after.hardware.device == "cuda"
    assert after.hardware.micro_batch is None  # planned for the card
    assert "hardware.device: cpu -> cuda" in told[0]


def test_other_memory_has_steps_cut_anew(begun):
    after, told = jobs.changed(begun, ["hardware.memory=2GB"])
    assert (after.hardware.memory, after.hardware.micro_batch) == ("2GB", None)
    assert any("hardware.micro_batch: 16 -> " in line for line in told)
    after, _ = jobs.changed(begun, ["hardware.memory=2GB", "hardware.micro_batch=3"])
    assert after.hardware.micro_batch == 3


@pytest.mark.parametrize("word", ["epochs=one", "epochs=0", "hardware=gpu", "hardware.worker=1", "hardware.workers=-1"])
def test_what_no_run_could_have_is_refused_in_resuming_too(begun, word):
    with pytest.raises(UserError):
        jobs.changed(begun, [word])


def test_what_began_without_four_bits_goes_on_and_is_looked_at_without(begun, tmp_path):
    config = start.pinned(begun, RunFolder(tmp_path), "none")
    written = begin(tmp_path, config)
    after, _ = jobs.changed(config, ["hardware=cpu"])
    asked, _ = jobs.changed(config, ["hardware=cpu", "hardware.four_bit=true"])
    again = start.as_begun(begun, written)
    kinds = [factory.machine(one).quantization for one in (begun, config, after, asked, again)]
    assert kinds == ["nf4", "none", "none", "nf4", "none"]


def test_what_began_in_four_bits_has_them_again_behind_a_machine_without(begun, tmp_path):
    config = start.pinned(begun, RunFolder(tmp_path), "nf4")
    assert config == begun
    written = begin(tmp_path, config)
    assert start.pinned(begun, written, "none") == begun  # on a machine that cannot
    assert start.as_begun(begun, written) == begun


def begin(place: Path, config: schema.Config) -> RunFolder:
    """A folder of a run that has begun."""
    folder = RunFolder(place)
    write_json(folder.config, schema.to_plain(config))
    write_json(folder.vocabulary, [])
    write_json(folder.split, {})
    return folder


def test_a_users_mistake_is_told_though_the_end_was_asked_for_meanwhile(tmp_path):
    stopping = Stopping()
    stopping.code = 143
    with pytest.raises(UserError, match="of its own"), recorded(RunFolder(tmp_path), [], stopping):
        raise UserError("of its own")
    assert read_json(tmp_path / "result.json")["status"] == "failed"
