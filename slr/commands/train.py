"""One run from its configuration to its evaluation, begun or gone on with: what `train.py` does."""

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from slr import factory
from slr.commands import validate
from slr.config import jobs, schema, search_space
from slr.config.provenance import provenance
from slr.config.saved_run import find_run
from slr.core import checkpoints, distributed, tensorboard
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.core.locks import Busy, occupied
from slr.core.run_folder import RunFolder, RunRecord, recorded
from slr.core.signals import Stopping, listening
from slr.data.manifest import Clip
from slr.data.split import PARTS, Split, describe
from slr.sweeps.runner import BUSY, TIED
from slr.training import start, warm_start
from slr.training.console_log import transcribed

if TYPE_CHECKING:
    from slr.core.hardware import Machine
    from slr.data.datamodule import ClipData
    from slr.training.loop import Pruner
    from slr.training.module import SignModule


def run(config: schema.Config, folder: RunFolder, overrides: Sequence[str], goes_on: bool = False) -> float:
    """Begin a run in its folder, or go on where it ended; returns the validation top-1 that a sweep ranks by.

    Args:
        config: of the run.
        folder: of the run.
        overrides: what was typed.
        goes_on: whether it is the run's own configuration, but for the hardware and epochs.

    Raises:
        UserError: another process is at it, or the folder has a run of other settings.
    """
    if config.trainer.devices > 1 and not distributed.given(os.environ):
        raise UserError("trainer=ddp: expected processes of this job's own; in a sweep, use hydra/launcher=processes")
    with distributed.together(), held(folder), listening() as stopping:
        found, longer = distributed.on_main(lambda: start.earlier(config, folder, goes_on))
        config = config if goes_on else distributed.on_main(lambda: start.as_begun(config, folder))
        if found.get("status") in ("done", "pruned") and not longer:
            print(f"{found['status']} already: {folder.root}")
        else:
            with recorded(folder, overrides, stopping) as record:
                train(config, folder, record, stopping)
            found = record.content
            print(f"run: {folder.root}")
        distributed.on_main(lambda: checkpoints.tidy(folder.checkpoints, config.checkpoint.keep))
        return score(found)


@contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """Be the one at work in a run's folder, and write down what is said; of several, the main process does."""
    if not distributed.is_main():
        yield
        return
    with occupied(folder.root), transcribed(folder.transcript):
        yield


def train(config: schema.Config, folder: RunFolder, record: RunRecord, stopping: Stopping) -> None:
    """One run, from its configuration to its evaluation."""
    from slr.core import hardware
    from slr.training import assemble

    automatic, config = config.hardware.device == "auto", validate.settle(config)
    machine = factory.machine(config)
    print(machine.describe(hardware.why(machine.kind) if automatic else ""))
    config = distributed.on_main(lambda: start.pinned(config, folder, machine.quantization))
    clips = factory.clips(config)
    split, vocabulary = distributed.on_main(lambda: start.divided(config, folder, clips))
    print(describe(clips, split))
    if config.init:
        began = warm_start.written_down(folder)
        print(began.describe())
        record.tell({"init": dataclasses.asdict(began)})
    base = distributed.on_main(lambda: factory.base_of(config))
    record.tell(provenance(config, base, factory.manifest(config), split.hash, vocabulary))

    parts = {part: split.select(clips, part) for part in PARTS}
    with factory.memory_told(config, machine):
        inputs = factory.inputs(config)
        data = factory.data(config, factory.prepared(config), parts, vocabulary, machine, inputs)
        recognizer = assemble.recognizer(config, vocabulary, machine, inputs)
        print(recognizer.describe())
        if config.lora.scope != "none":
            if not fit(config, folder, machine, recognizer, data, record, stopping):
                record.tell({"status": "pruned", "val": recognizer.restore(folder.checkpoint("best"))})
                return
        else:
            tensorboard.cut_back(folder.root, 0, validated=True)  # of a run that was cut while it was evaluated
        finish(config, folder, recognizer, machine, clips, split, record)


def fit(
    config: schema.Config,
    folder: RunFolder,
    machine: "Machine",
    recognizer: "SignModule",
    data: "ClipData",
    record: RunRecord,
    stopping: Stopping,
) -> bool:
    """Train, in as large micro-batches as memory allows, from the newest checkpoint if there is one.

    Returns:
        whether to the end; False where a search, whose trial it is, has given it up.
    """
    from slr.core.hardware import memory_peak
    from slr.core.units import format_bytes
    from slr.training import assemble, loop
    from slr.training.module import place_of

    plan = assemble.plan(config, machine, recognizer, data.parts["train"])
    recognizer.micro_batch = plan.micro_batch
    print(plan.describe())
    # A resumed run must not cut its steps otherwise because other memory is free.
    hardware = dataclasses.replace(config.hardware, micro_batch=plan.micro_batch)
    shared = dataclasses.replace(config.trainer, devices=distributed.place().world)
    config = dataclasses.replace(config, hardware=hardware, trainer=shared)
    saved = distributed.on_main(lambda: checkpoints.newest(folder.checkpoints))
    place = place_of(saved)
    behind = place.step // -(-len(data.parts["train"]) // config.batch)
    if behind > config.epochs:
        raise UserError(f"epochs={config.epochs}: expected at least {behind}, which lie behind this run already")
    distributed.on_main(lambda: write_json(folder.config, schema.to_plain(config)))
    assemble.fill_cache(config, machine, recognizer, data)
    data.steps_behind = place.step
    if saved:
        print(f"going on behind step {place.step}")
    elif config.init:
        recognizer.begin_with(warm_start.the_same(config, folder))
    trainer = assemble.trainer(
        config, folder, machine, stopping, lambda at: record.tell({"progress": at}), place, pruner_of(folder)
    )
    trainer.fit(recognizer, data.train_dataloader(), data.val_dataloader(), ckpt_path=saved, weights_only=True)
    stopping.heed()
    peak = memory_peak(machine.device)
    if peak is not None:
        print(f"memory: {format_bytes(peak)} at the peak, {format_bytes(plan.peak)} estimated")
        peak = max(peak, record.content.get("memory", {}).get("measured") or 0)  # of all processes of this run
    record.tell({"memory": {"estimated": plan.peak, "measured": peak}})
    return not loop.was_pruned(trainer)


def pruner_of(folder: RunFolder) -> "Pruner | None":
    """Of a run that is a search's trial."""
    number = search_space.trial_number(folder.root)
    if number is None:
        return None
    search_space.require_optuna()
    from slr.sweeps import optuna_study
    from slr.training import loop

    return loop.Pruner(optuna_study.Report(folder.root, number))


def score(result: dict[str, Any]) -> float:
    """What a sweep ranks by: the validation top-1."""
    return float(result["val"]["top1"])


def finish(
    config: schema.Config,
    folder: RunFolder,
    recognizer: "SignModule",
    machine: "Machine",
    clips: Sequence[Clip],
    split: Split,
    record: RunRecord,
) -> None:
    """Put the best checkpoint back, export its adapter, calibrate, rank the test part, write and print what that gave.

    The record learns `val`, the metrics that chose the checkpoint (without training, those of the model as it is), and
    `test`, the summary.
    """
    from slr.evaluation import evaluate
    from slr.evaluation.results import table, write_evaluation
    from slr.models import lora
    from slr.predict import calibration
    from slr.predict.predictor import ClipPredictor

    checkpoint = None if config.lora.scope == "none" else "best"
    val = {}
    if checkpoint:
        val = recognizer.restore(folder.checkpoint(checkpoint))
        if config.lora.scope == "language":
            distributed.on_main(lambda: lora.save_adapter(cast(Any, recognizer.network), folder.adapter))
    ranker = ClipPredictor(recognizer, config, machine)
    learned = evaluate.calibrate(ranker, split.select(clips, "train"), split.select(clips, "val"))

    def score(part: str) -> dict[str, Any]:
        found = evaluate.context(config, clips, split, part, checkpoint, learned)
        return evaluate.score(ranker, split.select(clips, part), found)

    results = score("test")
    test = results["summary"]
    print(table(results))
    record.tell({"val": val or score("val")["summary"], "test": test})
    step = record.content.get("progress", {}).get("step", 0)
    if distributed.is_main():
        calibration.write(folder.calibration, learned)
        write_evaluation(folder.evaluation, results)
        tensorboard.add_results(folder.root, "test", {name: test[name] for name in ("top1", "top5", "mrr")}, step)


def resume(words: Sequence[str]) -> None:
    """Go on with one run in its own folder, from its own configuration."""
    path, changes = jobs.resumption(words)
    folder, config = find_run(path)
    changed, told = jobs.changed(config, changes)
    enlist(config)
    if (count := distributed.place().world) != config.trainer.devices:
        told.append(f"processes: {config.trainer.devices} -> {count}; dropout is drawn otherwise, digits differ")
    for line in told if distributed.is_main() else []:
        print(line)
    result = read_json(folder.result) if folder.result.is_file() else {}
    try:
        run(changed, folder, result.get("overrides", []), goes_on=True)
    except Busy as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(BUSY) from None


def enlist(config: schema.Config) -> None:
    """With `trainer=ddp`, be one of several processes; where nobody has started them, start them, and end with them.

    Raises:
        UserError: several were started for a run of one.
        SystemExit: they have ended.
    """
    started = distributed.given(os.environ)
    if config.trainer.name == "single" and started and started[1] > 1:
        raise UserError(f"trainer=single: expected one process, found {started[1]} started; use trainer=ddp")
    if started:
        distributed.join(validate.settle(config).hardware.device)
    elif config.trainer.devices > 1:
        raise SystemExit(distributed.start(config.trainer.devices, TIED))
