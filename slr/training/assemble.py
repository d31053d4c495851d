"""From a checked configuration to the parts of a training: module, memory plan, caches, Lightning's trainer."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slr import factory
from slr.config import schema
from slr.core import distributed, hardware, tensorboard
from slr.core.files import read_json
from slr.core.hardware import Machine
from slr.core.run_folder import RunFolder, flat
from slr.core.signals import Stopping
from slr.core.units import parse_bytes
from slr.data.batches import ClipData
from slr.data.cache import features
from slr.data.cache import frames as frame_cache
from slr.data.cache.store import Pack
from slr.data.manifest import Clip
from slr.models import internvl, memory_plan
from slr.models.processor import Inputs, load_inputs
from slr.training import loop
from slr.training.module import SignModule, TrainingPosition
from slr.training.preflight import refuse_other_dropout, run_preflight

TRIED = ("a", "book", "ice cream")  # glosses that a preflight ranks


def recognizer(config: schema.Config, vocabulary: Sequence[str], machine: Machine, inputs: Inputs) -> SignModule:
    """The network with a new adapter, as a training's module."""
    return SignModule(
        network=factory.network(config, machine),
        inputs=inputs,
        vocabulary=vocabulary,
        **dataclasses.asdict(config.optimizer),
        objective=config.objective.name,
        label_smoothing=config.objective.label_smoothing,
        micro_batch=1,  # until `plan` knows how many fit
        seed=config.seed,
    )


def preflight(config: schema.Config, machine: Machine) -> None:
    """Try a training's operators with the tiny model; cpu and cuda need no trial.

    Raises:
        UserError: an operator is missing, or computes something else than on the CPU.
    """
    if machine.kind in ("cpu", "cuda"):
        return
    small = dataclasses.replace(config.model, checkpoint="tiny", revision=None, commit=None, weights="pretrained")
    tried = dataclasses.replace(config, model=small, lora=dataclasses.replace(config.lora, dropout=0.0))
    inputs = load_inputs("tiny", None)

    def build(device: str) -> SignModule:
        return recognizer(tried, TRIED, dataclasses.replace(machine, device=device), inputs).to(device)

    exact = machine.precision == "32-true" and machine.quantization == "none"
    if left := run_preflight(build, machine.kind, machine.device, exact):
        print(f"hardware={machine.kind} leaves {len(left)} operators to the CPU, which is slow: {', '.join(left)}")
    if config.gradient_checkpointing and config.lora.dropout and config.lora.scope == "language":
        refuse_other_dropout(machine.kind, machine.device)


def plan(config: schema.Config, machine: Machine, recognizer: SignModule, clips: Sequence[Clip]) -> memory_plan.Plan:
    """How many clips a training step computes at once, from the memory that is free now that the weights are loaded.

    Several processes share a step, and all plan for the one that has the least memory.

    Args:
        clips: of the training part, whose longest prompt counts.

    Raises:
        UserError: not one clip fits.
    """
    inputs = recognizer.inputs
    longest = max(len(inputs.prompt_ids(clip.prompt or config.model.prompt, config.frames)) for clip in clips)
    answer = len(recognizer.trie.token) if config.objective.name == "closed_set" else recognizer.answer_lengths.max()
    shape = internvl.shape(recognizer.network)
    work = memory_plan.Work(
        frames=config.frames,
        tokens=longest + int(answer),
        number=4 if machine.precision == "32-true" else 2,
        rank=config.lora.r,
        checkpointed=config.gradient_checkpointing,
        cached=config.cache.name == "features",
    )
    room, taken = min(distributed.gather(_room(machine, config.hardware.memory)))
    return memory_plan.plan(
        budget=room + taken,
        baseline=taken,
        trainable=sum(p.numel() for p in recognizer.network.parameters() if p.requires_grad),
        shape=shape,
        work=work,
        batch=-(-config.batch // distributed.place().world),
        micro_batch=config.hardware.micro_batch,
        disk=len(clips) * config.frames * inputs.tokens_per_frame * shape.hidden * 2,
    )


def _room(machine: Machine, memory: str | None) -> tuple[int, int]:
    """Bytes that this process may still allocate, on a CPU its share of them, and bytes that it has allocated."""
    beside = distributed.place().beside if machine.device == "cpu" else 1
    taken = hardware.memory_taken(machine.device)
    if memory:
        return parse_bytes(memory) // beside - taken, taken
    return hardware.memory_free(machine.device) // beside, taken


def fill_cache(config: schema.Config, machine: Machine, recognizer: SignModule, data: ClipData) -> None:
    """Make `data` read from the cache that `cache` names; the main process computes what is missing in it."""
    if config.cache.name == "frames":
        frames = frame_cache.FrameCache(Path(config.data) / "cache", recognizer.inputs, config.cache.format)
        workers = os.cpu_count() or 1  # all: nothing trains meanwhile
        distributed.on_main(lambda: frame_cache.fill(frames, data.frames_from, data.frames_wanted(), workers=workers))
        data.frames_from = frames
    if config.cache.name == "features":
        data.features_from = cache = _feature_cache(config, machine, recognizer)
        parts = [data.training_set(), data.ranking_set(data.parts["val"], cache)]
        options = {"precision": machine.autocast, "batch": data.ranking_batch, "workers": machine.workers}
        distributed.on_main(lambda: features.fill(cache, parts, compute=recognizer.encode, **options))
        recognizer.train()  # Lightning warns of a vision tower in evaluation mode


def _feature_cache(config: schema.Config, machine: Machine, recognizer: SignModule) -> features.FeatureCache:
    inputs, core = recognizer.inputs, internvl.bare(recognizer.network).model
    settings = [inputs.image_size, inputs.mean, inputs.std, machine.device, machine.precision, config.cache.dtype]
    weights = [*core.vision_tower.state_dict().values(), *core.multi_modal_projector.state_dict().values()]
    folder = Path(config.data) / "cache" / f"features-{features.recipe(weights, settings)}"
    tokens = config.frames * inputs.tokens_per_frame
    return features.FeatureCache(Pack(folder), tokens, internvl.shape(recognizer.network).hidden, config.cache.dtype)


def trainer(
    config: schema.Config,
    folder: RunFolder,
    machine: Machine,
    stopping: Stopping,
    tell: Callable[[Mapping[str, Any]], None],
    place: TrainingPosition,
    pruner: loop.Pruner | None = None,
) -> loop.Trainer:
    """Lightning's trainer with its callbacks; the run's curves are cut back to where this process begins.

    Args:
        config, folder, machine: of the run.
        stopping, tell: as of `CheckpointCallback`.
        place: in the training, where this process begins.
        pruner: of a run that is a search's trial.
    """
    logger = _logger(folder, place) if distributed.is_main() else None
    checkpoint = config.checkpoint
    keeper = loop.CheckpointCallback(folder.checkpoints, checkpoint.monitor, checkpoint.every, stopping, tell)
    patience = loop.early_stopping(config.early_stopping.monitor, config.early_stopping.patience)
    return loop.build_trainer(machine, config.epochs, logger, keeper, patience, pruner)


def _logger(folder: RunFolder, place: TrainingPosition) -> loop.TensorBoardLogger:
    tensorboard.cut_back(folder.root, place.step, place.validated)
    logger = loop.TensorBoardLogger(folder.root, name="", version="", default_hp_metric=False)
    if place.step == 0:
        settings = flat(read_json(folder.config), "/")
        for key in (*schema.PATH_KEYS, "sweep"):  # they say nothing about the run
            settings.pop(key.replace(".", "/"), None)
        tensorboard.show_settings(logger.experiment, settings)
    return logger
