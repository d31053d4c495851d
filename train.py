"""Train a vision-language model to name signs: `python train.py experiment=demo`."""

import dataclasses
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from prepare_data import prepare
from slr import commandline, schema
from slr.data.manifest import Clip, read_manifest
from slr.data.split import PARTS, Split, describe, make_split, write_split
from slr.errors import UserError, explained
from slr.run import RunFolder, provenance, recorded, write_json

if TYPE_CHECKING:
    from lightning import Trainer
    from lightning.pytorch.loggers import TensorBoardLogger

    from slr.data.datamodule import ClipData
    from slr.hardware import Machine
    from slr.recognizer import Recognizer


def train(config: schema.Config, folder: RunFolder, overrides: Sequence[str]) -> float:
    """One run, from its configuration to its evaluation; returns the validation top-1 that a sweep ranks by."""
    from slr import assemble

    with recorded(folder, overrides) as result:
        config = settle(config)
        machine = assemble.machine(config)
        print(machine.describe())

        clips = assemble.clips(config)
        split = divide(clips, config)
        vocabulary = sorted({clip.gloss for clip in clips})
        record(folder, config, split, vocabulary)
        print(describe(clips, split))
        result |= provenance(config, assemble.manifest(config), split.hash)

        parts = {part: split.select(clips, part) for part in PARTS}
        with assemble.memory_told(config, machine):
            inputs = assemble.inputs(config)
            data = assemble.data(config, assemble.prepared(config), parts, vocabulary, machine, inputs)
            recognizer = assemble.recognizer(config, vocabulary, machine, inputs)
            print(recognizer.describe())
            if config.lora.scope != "none":
                result["memory"] = fit(config, folder, machine, recognizer, data)
            result |= finish(config, folder, recognizer, machine, parts)
    print(f"run: {folder.root}")
    return result["val"]["top1"]


def fit(
    config: schema.Config, folder: RunFolder, machine: "Machine", recognizer: "Recognizer", data: "ClipData"
) -> dict[str, int | None]:
    """Train, in as large micro-batches as memory allows; the bytes at the peak, `estimated` before and `measured`."""
    from slr import assemble
    from slr.hardware import memory_peak
    from slr.memory import shown

    plan = assemble.plan(config, machine, recognizer, data.parts["train"])
    recognizer.micro_batch = plan.micro_batch
    print(plan.describe())
    assemble.fill_cache(config, machine, recognizer, data)
    build_trainer(config, folder, machine).fit(recognizer, data)
    peak = memory_peak(machine.device)
    if peak is not None:
        print(f"memory: {shown(peak)} at the peak, {shown(plan.peak)} estimated")
    return {"estimated": plan.peak, "measured": peak}


def divide(clips: Sequence[Clip], config: schema.Config) -> Split:
    """The clips divided as the configuration says, near-duplicates known by their pictures."""
    split = config.split
    shares = {part: getattr(split, part) for part in PARTS}
    copies = []
    if config.dataset.name != "synthetic":  # every drawn clip is a drawing of its own: docs/audit.md
        from slr.data.fingerprint import look_for_copies

        copies = look_for_copies(Path(config.data) / config.dataset.place, clips, os.cpu_count() or 1)
    return make_split(clips, split.rule, split.seed, shares, copies, split.coverage, split.drop_leaks)


def record(folder: RunFolder, config: schema.Config, split: Split, vocabulary: list[str]) -> None:
    """Write what evaluate, resume and `slr.load` need, before anything can fail."""
    write_json(folder.config, schema.to_plain(config))
    write_json(folder.vocabulary, vocabulary)
    write_split(folder.split, split)


def build_trainer(config: schema.Config, folder: RunFolder, machine: "Machine") -> "Trainer":
    """Lightning's loop, with early stopping, two checkpoints and TensorBoard."""
    import logging

    from lightning import Trainer
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
    from lightning.pytorch.loggers import TensorBoardLogger

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # what it would say is said above
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec", FutureWarning)  # Lightning 2.6 with torch 2.15
    warnings.filterwarnings("ignore", ".*does not have many workers")  # hardware.workers was chosen
    keep = {"dirpath": folder.checkpoints, "enable_version_counter": False}
    mode = {True: "min", False: "max"}
    best, patience = config.checkpoint.monitor, config.early_stopping
    logger = TensorBoardLogger(folder.root, name="", version="", default_hp_metric=False)
    show_settings(logger, config)
    trainer = Trainer(
        accelerator=machine.device,
        devices=config.trainer.devices,
        precision=machine.precision,  # pyright: ignore[reportArgumentType]
        max_epochs=config.epochs,
        logger=logger,
        callbacks=[
            ModelCheckpoint(filename="best", monitor=best, mode=mode[best == "val/loss"], **keep),
            ModelCheckpoint(filename="last", **keep),
            EarlyStopping(patience.monitor, mode=mode[patience.monitor == "val/loss"], patience=patience.patience),
            TQDMProgressBar(),
        ],
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,  # the census says more
    )
    if trainer.strategy.root_device.type != machine.device:
        raise UserError(f"hardware={machine.device}: Lightning would train on {trainer.strategy.root_device} instead")
    return trainer


def show_settings(logger: "TensorBoardLogger", config: schema.Config) -> None:
    """Put the run among TensorBoard's HParams, judged by the validation metrics that it will log."""
    from torch.utils.tensorboard.summary import hparams

    settings = flat(schema.to_plain(config))
    for place in (*schema.PATH_KEYS, "sweep"):  # they say nothing of the run, and would come first
        settings.pop(place.replace(".", "/"), None)
    for summary in hparams(settings, {"val/top1": 0.0, "val/top5": 0.0, "val/loss": 0.0}):
        logger.experiment.file_writer.add_summary(summary)


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, bool | str | float]:
    """Nested settings as `group/key`, with lists and None as text: what TensorBoard can show."""
    rows: dict[str, bool | str | float] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            rows |= flat(value, f"{prefix}{key}/")
        else:
            rows[prefix + key] = value if isinstance(value, bool | str | int | float) else str(value)
    return rows


def finish(
    config: schema.Config,
    folder: RunFolder,
    recognizer: "Recognizer",
    machine: "Machine",
    parts: dict[str, list[Clip]],
) -> dict[str, Any]:
    """Put the best checkpoint back, export its adapter, rank the test part, and write and print what that gave.

    Returns:
        `val`: the metrics that chose the checkpoint, without training those of the model as it is. `test`: the summary.
    """
    from slr import predict
    from slr.model import lora
    from slr.report.evaluation import evaluation, table

    ranker = predict.SignRecognizer(recognizer, config, machine)

    def rank(part: str) -> dict[str, Any]:
        ranked = ranker.rank_clips(parts[part], f"ranking {part}")
        return evaluation(parts[part], ranker.vocabulary, ranked, {"part": part, "checkpoint": checkpoint})

    checkpoint = None if config.lora.scope == "none" else "best"
    if checkpoint is None:
        val = rank("val")["summary"]
    else:
        val = recognizer.restore(folder.checkpoint("best"))
        lora.save_adapter(cast(Any, recognizer.network), folder.adapter)
    results = rank("test")
    write_json(folder.evaluation / "evaluation_results.json", results, indent=None)
    print(table(results["summary"]))
    return {"val": val, "test": results["summary"]}


def check(config: schema.Config) -> None:
    """Find what would stop the run while it has no folder yet, and prepare its data. Cheap questions come first.

    Raises:
        UserError: hardware, clips or weights are not there, the clips cannot be divided, or a gloss cannot be spelled.
    """
    from slr.model.checkpoint import locate
    from slr.prepare.labels import read_labels

    manifest = Path(config.data) / config.dataset.place / "manifest.jsonl"
    if config.dataset.name == "wlasl" and not manifest.is_file():
        raise UserError(
            f"no prepared WLASL at {manifest.parent}; run: python prepare_data.py dataset=wlasl "
            f"dataset.subset={config.dataset.subset} (with dataset.clips=FOLDER if you have <video_id>.mp4)"
        )
    if config.hardware.device == "cuda":
        require_cuda()
    if isinstance(config.dataset, schema.Folder):
        read_labels(Path(config.dataset.labels), Path(config.dataset.clips))  # before gigabytes are fetched
    locate(config.model.checkpoint, config.model.revision, need_weights=config.model.weights == "pretrained")
    if config.dataset.name != "wlasl":
        prepare(config.dataset, Path(config.data))
    clips = read_manifest(manifest)
    divide(clips, config)
    print("starting …", file=sys.stderr)
    from slr import assemble  # seconds: torch, lightning, transformers, which the run needs anyway

    assemble.machine(settle(config))
    assemble.spell(config, clips)


def require_cuda() -> None:
    """Refuse `hardware=cuda` where there is none."""
    from slr.hardware import require  # torch

    require("cuda")


def settle(config: schema.Config) -> schema.Config:
    """The configuration with `hardware=auto` decided."""
    from slr.hardware import pick

    kind = pick() if config.hardware.device == "auto" else config.hardware.device
    return dataclasses.replace(config, hardware=commandline.fill_hardware(config.hardware, kind))


@hydra.main(config_path="conf", config_name=commandline.PAGE, version_base="1.3")
def job(config: DictConfig) -> float:
    """What Hydra calls once for each run."""
    context = HydraConfig.get()
    folder = RunFolder(Path(context.runtime.output_dir))

    def run() -> float:
        return train(commandline.to_typed(config), folder, list(context.overrides.task))

    # In a sweep, Hydra must see the error itself: an exit would end the jobs that wait.
    return run() if context.mode == RunMode.MULTIRUN else explained(run)


def main() -> None:
    """Check everything that was typed, then hand over to Hydra."""
    commandline.register()
    words = commandline.quote_paths(sys.argv[1:])
    if not commandline.asks_only(words):
        for config in commandline.configurations(words):
            check(config)
    sys.argv[1:] = words
    job()


if __name__ == "__main__":
    explained(main)
