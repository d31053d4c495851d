"""Train a model and evaluate it: `python train.py experiment=demo`; `--help` lists the keys.

A run's configuration is settled once, in `slr.training.start.settle`; after that nothing replaces it.
"""

import dataclasses
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from slr import factory
from slr.commands import validate
from slr.config import app, compose, help, jobs, overrides, schema, search_space, sweep_name
from slr.config.provenance import provenance
from slr.config.saved_run import find_run
from slr.core import checkpoints, distributed, env, tensorboard
from slr.core.errors import UserError
from slr.core.locks import Busy, occupied
from slr.core.run_folder import RunFolder, RunRecord, recorded
from slr.core.signals import Stopping, listening
from slr.data.manifest import Clip
from slr.data.split import PARTS, Split, describe
from slr.models.memory_plan import knobs
from slr.sweeps.runner import BUSY, TIED, end_with_sweep
from slr.training import start, warm_start
from slr.training.console_log import transcribed

if TYPE_CHECKING:
    from slr.core.hardware import Machine
    from slr.data.batches import ClipData
    from slr.training.loop import Pruner
    from slr.training.module import SignModule


def main() -> None:
    """Train what the command line asks for: a run, a sweep, or what a run still lacks."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(help.text())
        return
    env.begin()
    end_with_sweep()
    compose.register()
    if any(word.startswith("resume=") for word in words):
        resume(words)
    else:
        begin(overrides.quote_paths(words))
    distributed.end()


def begin(words: list[str]) -> None:
    """Begin a run or a sweep, all of it checked before, or show what is asked for."""
    if overrides.asks_only(words):
        app.run_hydra(words, run)
    elif overrides.sweeps(words):
        words = sweep_name.named(words)
        validate.check_apart(jobs.configurations(words), here=overrides.REMOTE.isdisjoint(words))
        app.run_hydra(words, run)
    else:
        app.run_one(words, _check, run)


def _check(config: schema.Config) -> None:
    join(config)
    with distributed.together():
        distributed.on_main(lambda: validate.check_all([config]))


def resume(words: Sequence[str]) -> None:
    """Continue one run in its own folder, with its own configuration."""
    path, changes = jobs.resumption(words)
    folder, config = find_run(path)
    changed, lines = jobs.changed(config, changes)
    join(config)
    if (count := distributed.place().world) != config.trainer.devices:
        lines.append(f"processes: {config.trainer.devices} -> {count}; dropout is drawn otherwise, digits differ")
    for line in lines if distributed.is_main() else []:
        print(line)
    try:
        run(changed, folder, folder.facts.get("overrides", []), goes_on=True)
    except Busy as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(BUSY) from None


def join(config: schema.Config) -> None:
    """With `trainer=ddp`, become one of several processes; where nobody has started them, start them and wait.

    Raises:
        UserError: several were started for a run of one.
        SystemExit: the processes have ended.
    """
    started = distributed.given(os.environ)
    if config.trainer.name == "single" and started and started[1] > 1:
        raise UserError(f"trainer=single: expected one process, found {started[1]} started; use trainer=ddp")
    if started:
        distributed.join(start.decide_hardware(config).hardware.device)
    elif config.trainer.devices > 1:
        raise SystemExit(distributed.start(config.trainer.devices, TIED))


def run(config: schema.Config, folder: RunFolder, typed: Sequence[str], goes_on: bool = False) -> float:
    """Begin or continue a run in its folder; returns the validation top-1 that a sweep ranks by.

    With `goes_on`, `config` is the run's own, apart from hardware and epochs; `typed` are the overrides.

    Raises:
        UserError: another process works in the folder, or it holds a run of other settings.
    """
    if config.trainer.devices > 1 and not distributed.given(os.environ):
        raise UserError("trainer=ddp: expected processes of this job's own; in a sweep, use hydra/launcher=processes")
    with distributed.together(), held(folder), listening() as stopping:
        result, longer = distributed.on_main(lambda: start.earlier(config, folder, goes_on))
        if result.get("status") in ("done", "pruned") and not longer:
            print(f"{result['status']} already: {folder.root}")
        else:
            with recorded(folder, typed, stopping) as record:
                train(config, folder, goes_on, record, stopping)
            result = record.content
            report = env.command("evaluate", shlex.quote(f"run={folder.root}"))
            print(f"run: {folder.root}\nto write report.html: {report}")
        distributed.on_main(lambda: checkpoints.tidy(folder.checkpoints, config.checkpoint.keep))
        return float(result["val"]["top1"])


@contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """Lock a run's folder and write log.txt; of several processes, the main one does."""
    if not distributed.is_main():
        yield
        return
    with occupied(folder.root), transcribed(folder.transcript):
        yield


def train(config: schema.Config, folder: RunFolder, goes_on: bool, record: RunRecord, stopping: Stopping) -> None:
    """One run: configuration, data, model, training, evaluation."""
    from slr.core.hardware import memory_advice
    from slr.training import assemble

    config, machine = start.settle(config, folder, goes_on)
    clips = factory.clips(config)
    split, vocabulary = distributed.main_first(lambda: start.divided(config, folder, clips))
    print(describe(clips, split))
    if config.init:
        initial = warm_start.written_down(folder)
        print(initial.describe())
        record.update({"init": dataclasses.asdict(initial)})
    base = distributed.on_main(lambda: factory.base_of(config))
    record.update(provenance(config, base, factory.manifest(config), split.hash, vocabulary))

    parts = {part: split.select(clips, part) for part in PARTS}
    advice = knobs(config.frames, config.gradient_checkpointing, config.cache.name == "features")
    with memory_advice(machine.device, advice):
        inputs = factory.inputs(config)
        data = factory.data(config, factory.prepared(config), parts, vocabulary, machine, inputs)
        module = assemble.recognizer(config, vocabulary, machine, inputs)
        print(module.describe())
        if config.lora.scope == "none":
            tensorboard.cut_back(folder.root, 0, validated=True)  # of a run that was stopped while it was evaluated
        elif not fit(config, folder, machine, module, data, record, stopping):
            record.update({"status": "pruned", "val": module.restore(folder.checkpoint("best"))})
            return
        finish(config, folder, machine, module, clips, split, record)


def fit(
    config: schema.Config,
    folder: RunFolder,
    machine: "Machine",
    module: "SignModule",
    data: "ClipData",
    record: RunRecord,
    stopping: Stopping,
) -> bool:
    """Train, in as large micro-batches as memory allows, from the newest checkpoint if there is one.

    Returns:
        whether to the end; False where the search that the run is a trial of has pruned it.
    """
    from slr.core.hardware import memory_peak
    from slr.core.units import format_bytes
    from slr.data.datamodule import SignDataModule
    from slr.training import assemble
    from slr.training.module import place_of

    plan = assemble.plan(config, machine, module, data.parts["train"])
    module.micro_batch = plan.micro_batch
    print(plan.describe())
    newest = distributed.on_main(lambda: str(checkpoints.newest(folder.checkpoints) or ""))
    saved = Path(newest) if newest else None
    place = place_of(saved)
    behind = place.step // -(-len(data.parts["train"]) // config.batch)
    if behind > config.epochs:
        raise UserError(f"epochs={config.epochs}: expected at least {behind}, which this run has trained already")
    distributed.on_main(lambda: start.write_config(config, folder, plan.micro_batch))
    assemble.fill_cache(config, machine, module, data)
    data.steps_behind = place.step
    if saved:
        print(f"continuing after step {place.step}")
    elif config.init:
        module.begin_with(warm_start.the_same(config, folder))
    pruner = pruner_of(folder)
    trainer = assemble.trainer(
        config, folder, machine, stopping, lambda at: record.update({"progress": at}), place, pruner
    )
    trainer.fit(module, datamodule=SignDataModule(data), ckpt_path=saved, weights_only=True)
    stopping.raise_if_asked()
    peak = memory_peak(machine.device)
    if peak is not None:
        print(f"memory: {format_bytes(peak)} at the peak, {format_bytes(plan.peak)} estimated")
        peak = max(peak, record.content.get("memory", {}).get("measured") or 0)  # of all processes of this run
    record.update({"memory": {"estimated": plan.peak, "measured": peak}})
    return not (pruner and pruner.pruned)


def pruner_of(folder: RunFolder) -> "Pruner | None":
    """What reports a trial's validations to its search; None where the run is no trial."""
    number = search_space.trial_number(folder.root)
    if number is None:
        return None
    search_space.require_optuna()
    from slr.sweeps import optuna_study
    from slr.training import loop

    return loop.Pruner(optuna_study.Report(folder.root, number))


def finish(
    config: schema.Config,
    folder: RunFolder,
    machine: "Machine",
    module: "SignModule",
    clips: Sequence[Clip],
    split: Split,
    record: RunRecord,
) -> None:
    """Restore the best checkpoint, export its adapter, calibrate, rank the test part, write and print the results.

    The record gets `val`, the metrics that chose the checkpoint (without training, those of the model as it is), and
    `test`, the summary.
    """
    from slr.evaluation import evaluate
    from slr.evaluation.results import table, write_evaluation
    from slr.models import lora
    from slr.predict import calibration
    from slr.predict.predictor import ClipPredictor

    checkpoint = None if config.lora.scope == "none" else "best"
    val = module.restore(folder.checkpoint(checkpoint)) if checkpoint else {}
    if config.lora.scope == "language":
        distributed.on_main(lambda: lora.save_adapter(cast(Any, module.network), folder.adapter))
    ranker = ClipPredictor(module, config, machine)
    fitted = evaluate.calibrate(ranker, split.select(clips, "train"), split.select(clips, "val"))

    def score(part: str) -> dict[str, Any]:
        context = evaluate.context(config, clips, split, part, checkpoint, fitted)
        return evaluate.score(ranker, split.select(clips, part), context)

    results = score("test")
    test = results["summary"]
    print(table(results))
    record.update({"val": val or score("val")["summary"], "test": test})
    step = record.content.get("progress", {}).get("step", 0)
    if distributed.is_main():
        calibration.write(folder.calibration, fitted)
        write_evaluation(folder.evaluation, results)
        tensorboard.add_results(folder.root, "test", {name: test[name] for name in ("top1", "top5", "mrr")}, step)
