"""From a checked configuration to the parts of a run: the one room below the entry points that builds from it.

Training, evaluation and `slr.load` build the same machine, network and data from the same words.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from slr.config import schema, search_space
from slr.core import distributed, hardware, tensorboard
from slr.core.errors import UserError
from slr.core.hardware import Machine
from slr.core.run_folder import RunFolder
from slr.core.signals import Stopping
from slr.data.augment import ColorJitter
from slr.data.cache import features
from slr.data.cache import frames as frame_cache
from slr.data.cache.store import Pack
from slr.data.datamodule import ClipData, Decoded
from slr.data.manifest import Clip, read_manifest
from slr.models import internvl, lora, memory_plan
from slr.models.processor import Inputs, load_inputs
from slr.models.trie import build_trie
from slr.training.module import Place, Recognizer

if TYPE_CHECKING:
    from slr.training.loop import Pruner, TensorBoardLogger, Trainer


def machine(config: schema.Config, device: str | None = None) -> Machine:
    """The machine of a run, or the run on another kind of device than it was configured for.

    Raises:
        UserError: the device is not here, or cannot do what is asked.
    """
    words = dataclasses.asdict(config.hardware)
    if device is not None and device != config.hardware.device:
        words |= {"device": device, "precision": "auto", "tf32": device == "cuda"}
    hardware.require(words["device"])
    full = config.lora.scope == "full"
    quantization = "none" if full else config.model.quantization
    if quantization != "none" and words["device"] not in ("cpu", "cuda"):  # seconds, to ask
        words["four_bit"] = words["four_bit"] and internvl.quantises(words["device"])
    found = hardware.decide(**words, quantization=quantization)
    if full and found.precision in ("bf16-true", "16-true"):
        raise UserError(f"hardware.precision={found.precision}: with lora=full all learns, in 32 bits; use 32-true")
    if full:
        found = dataclasses.replace(found, reasons=(*found.reasons, "quantisation none because 4 bits cannot learn"))
    return found


def prepared(config: schema.Config) -> Path:
    """The folder of the run's prepared data set."""
    return Path(config.data) / config.dataset.place


def manifest(config: schema.Config) -> Path:
    """The list of the run's prepared clips."""
    return prepared(config) / "manifest.jsonl"


def clips(config: schema.Config) -> list[Clip]:
    """The prepared clips of the run's data set.

    Raises:
        UserError: it is not prepared.
    """
    listed = manifest(config)
    if not listed.is_file():
        raise UserError(f"no prepared clips at {listed.parent}; prepare_data.py makes them")
    return read_manifest(listed)


def inputs(config: schema.Config) -> Inputs:
    """Tokens and pixels of the run's checkpoint."""
    return load_inputs(config.model.checkpoint, config.model.version)


def spell(config: schema.Config, clips: Sequence[Clip], vocabulary: Sequence[str]) -> None:
    """See that the model can be asked of every clip and can answer with every gloss.

    Raises:
        UserError: a prompt or a gloss holds a special token, a gloss cannot be spelled, or two are spelled alike.
    """
    words = inputs(config)
    for prompt in {clip.prompt or config.model.prompt for clip in clips}:
        words.prompt_ids(prompt, config.frames)
    build_trie([words.answer_ids(gloss) for gloss in vocabulary], vocabulary)


def recognizer(config: schema.Config, vocabulary: Sequence[str], machine: Machine, inputs: Inputs) -> Recognizer:
    """The network with a fresh adapter, on its device. The adapter's first weights depend on `seed` alone."""
    network = internvl.load_vlm(
        checkpoint=config.model.checkpoint,
        revision=config.model.version,
        weights=config.model.weights,
        quantization=machine.quantization,
        dtype=machine.dtype,
        device=machine.device,
        seed=config.seed,
    )
    torch.manual_seed(config.seed)
    network = lora.add_lora(
        network,
        scope=config.lora.scope,
        r=config.lora.r,
        alpha=config.lora.alpha,
        dropout=config.lora.dropout,
        targets=config.lora.targets,
    )
    if config.gradient_checkpointing:
        internvl.checkpoint_layers(network)
    internvl.refuse_other(network, machine.device, machine.dtype, machine.quantization)
    return Recognizer(
        network=network,
        inputs=inputs,
        vocabulary=vocabulary,
        lr=config.optimizer.lr,
        weight_decay=config.optimizer.weight_decay,
        warmup_steps=config.optimizer.warmup_steps,
        clip_norm=config.optimizer.clip_norm,
        objective=config.objective.name,
        label_smoothing=config.objective.label_smoothing,
        micro_batch=1,  # until `plan` has said how many fit
        seed=config.seed,
    )


TRIED = ("a", "book", "ice cream")  # glosses that a preflight ranks


def preflight(config: schema.Config, machine: Machine) -> None:
    """Try a training's operators, with the tiny model, on a kind of device that is seldom tried; cpu and cuda are not.

    Raises:
        UserError: one is missing, or computes something else than on the CPU.
    """
    if machine.kind in ("cpu", "cuda"):
        return
    from slr.training.preflight import preflight, refuse_other_dropout

    small = dataclasses.replace(config.model, checkpoint="tiny", revision=None, commit=None, weights="pretrained")
    tried = dataclasses.replace(config, model=small, lora=dataclasses.replace(config.lora, dropout=0.0))
    words = load_inputs("tiny", None)

    def build(device: str) -> Recognizer:
        return recognizer(tried, TRIED, dataclasses.replace(machine, device=device), words).to(device)

    exact = machine.precision == "32-true" and machine.quantization == "none"
    left = preflight(build, machine.kind, machine.device, exact)
    if left:
        print(f"hardware={machine.kind} leaves {len(left)} operators to the CPU, which takes time: {', '.join(left)}")
    if config.gradient_checkpointing and config.lora.dropout and config.lora.scope == "language":
        refuse_other_dropout(machine.kind, machine.device)


def plan(config: schema.Config, machine: Machine, recognizer: Recognizer, clips: Sequence[Clip]) -> memory_plan.Plan:
    """How many clips a training step computes at once, from the memory that there is now that the weights are in it.

    Of several processes, each computes its share of the step, all in the same way, by the one that has the least room.

    Args:
        clips: of the training part, whose longest prompt counts.

    Raises:
        UserError: not one clip fits.
    """
    words = recognizer.inputs
    longest = max(len(words.prompt_ids(clip.prompt or config.model.prompt, config.frames)) for clip in clips)
    answer = (
        len(recognizer.trie.token) if config.objective.name == "closed_set" else int(recognizer.answer_lengths.max())
    )
    shape = internvl.shape(recognizer.network)
    work = memory_plan.Work(
        frames=config.frames,
        tokens=longest + answer,
        number=4 if machine.precision == "32-true" else 2,
        rank=config.lora.r,
        checkpointed=config.gradient_checkpointing,
        cached=config.cache.name == "features",
    )
    room, taken = min(distributed.gather(_room(machine)))
    return memory_plan.plan(
        budget=room + taken,
        baseline=taken,
        trainable=sum(p.numel() for p in recognizer.network.parameters() if p.requires_grad),
        shape=shape,
        work=work,
        batch=-(-config.batch // distributed.place().world),
        micro_batch=machine.micro_batch,
        disk=len(clips) * config.frames * words.tokens_per_frame * shape.hidden * 2,
    )


def _room(machine: Machine) -> tuple[int, int]:
    """Bytes that this process may still take, of the processors' memory its part, and those that it has taken."""
    beside = distributed.place().beside if machine.device == "cpu" else 1
    taken = hardware.memory_taken(machine.device)
    if machine.memory:
        return machine.memory // beside - taken, taken
    return hardware.memory_free(machine.device) // beside, taken


def fill_cache(config: schema.Config, machine: Machine, recognizer: Recognizer, data: ClipData) -> None:
    """Have `data` take from a cache what `cache` asks for; the chief computes what is not there yet."""
    if config.cache.name == "frames":
        kept = frame_cache.FrameCache(Path(config.data) / "cache", recognizer.inputs, config.cache.format)
        everything = os.cpu_count() or 1  # nothing trains meanwhile
        distributed.once(lambda: frame_cache.fill(kept, data.frames_from, data.frames_wanted(), workers=everything))
        data.frames_from = kept
    if config.cache.name == "features":
        data.features_from = lookup = _feature_cache(config, machine, recognizer)
        wanted = [data.training_set(), data.ranking_set(data.parts["val"], lookup)]
        how = {"precision": machine.autocast, "batch": data.ranking_batch, "workers": machine.workers}
        distributed.once(lambda: features.fill(lookup, wanted, compute=recognizer.encode, **how))
        recognizer.train()  # Lightning warns of a tower that was left in evaluation mode


def _feature_cache(config: schema.Config, machine: Machine, recognizer: Recognizer) -> features.FeatureCache:
    inputs, core = recognizer.inputs, internvl.bare(recognizer.network).model
    settings = [inputs.image_size, inputs.mean, inputs.std, machine.device, machine.precision, config.cache.dtype]
    weights = [*core.vision_tower.state_dict().values(), *core.multi_modal_projector.state_dict().values()]
    folder = Path(config.data) / "cache" / f"features-{features.recipe(weights, settings)}"
    tokens = config.frames * inputs.tokens_per_frame
    return features.FeatureCache(Pack(folder), tokens, internvl.shape(recognizer.network).hidden, config.cache.dtype)


def memory_told(config: schema.Config, machine: Machine) -> AbstractContextManager[None]:
    """Within it, an end for want of memory names the settings of this run that would help."""
    cached = config.cache.name == "features"
    return hardware.memory_told(machine.device, memory_plan.knobs(config.frames, config.gradient_checkpointing, cached))


def data(
    config: schema.Config,
    folder: Path,
    parts: dict[str, list[Clip]],
    vocabulary: Sequence[str],
    machine: Machine,
    inputs: Inputs,
) -> ClipData:
    """Batches of the clips of a prepared folder."""
    return ClipData(
        parts=parts,
        frames_from=Decoded(folder, inputs),
        vocabulary=vocabulary,
        inputs=inputs,
        prompt=config.model.prompt,
        frames=config.frames,
        sampling=config.sampling,
        jitter=ColorJitter(**strengths) if any((strengths := dataclasses.asdict(config.jitter)).values()) else None,
        answers=config.objective.name == "token",
        batch=config.batch,
        ranking_batch=machine.ranking_batch(config.batch, config.frames),
        workers=machine.workers,
        pin_memory=machine.device == "cuda",
        seed=config.seed,
        # Not more views than epochs: nobody would see them.
        views=None if config.cache.name == "none" else min(config.cache.views, config.epochs),
        rank=distributed.place().rank,
        world=distributed.place().world,
    )


def trainer(
    config: schema.Config,
    folder: RunFolder,
    machine: Machine,
    stopping: Stopping,
    tell: Callable[[Mapping[str, Any]], None],
    place: Place,
) -> "Trainer":
    """Lightning's loop with what it keeps in the run's folder, whose curves are cut back to where it begins.

    Args:
        config, folder, machine: of the run.
        stopping: what a signal has asked for.
        tell: called with the training's progress whenever that has been saved.
        place: in the training, where this process begins.
    """
    from slr.training import loop

    logger = _logger(config, folder, place) if distributed.chief() else None
    keeper = loop.Keeper(folder.checkpoints, config.checkpoint.monitor, config.checkpoint.every, stopping, tell)
    patience = loop.early_stopping(config.early_stopping.monitor, config.early_stopping.patience)
    return loop.build_trainer(machine, config.epochs, logger, keeper, patience, _pruner(folder))


def _pruner(folder: RunFolder) -> "Pruner | None":
    """Of a run that is a search's trial."""
    number = search_space.trial_number(folder.root)
    if number is None:
        return None
    search_space.require_optuna()
    from slr.sweeps import optuna_study
    from slr.training import loop

    return loop.Pruner(optuna_study.Report(folder.root, number))


def _logger(config: schema.Config, folder: RunFolder, place: Place) -> "TensorBoardLogger":
    from slr.training import loop

    tensorboard.cut_back(folder.root, place.step, place.validated)
    logger = loop.TensorBoardLogger(folder.root, name="", version="", default_hp_metric=False)
    if place.step == 0:
        settings = schema.to_plain(config)
        for key in (*schema.PATH_KEYS, "sweep"):  # they say nothing of the run, and would come first
            group, _, name = key.rpartition(".")
            (settings[group] if group else settings).pop(name, None)
        tensorboard.show_settings(logger.experiment, settings)
    return logger
