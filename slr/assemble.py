"""From a checked configuration to the parts of a run: the one room below the entry points that reads it.

Training, evaluation and `slr.load` build the same machine, network and data from the same words.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from slr import hardware, schema
from slr.data.augment import ColorJitter
from slr.data.datamodule import ClipData
from slr.data.manifest import Clip, read_manifest
from slr.errors import UserError
from slr.hardware import Machine
from slr.model import lora, vlm
from slr.model.inputs import Inputs, load_inputs
from slr.model.trie import build_trie
from slr.recognizer import Recognizer


def machine(config: schema.Config, device: str | None = None) -> Machine:
    """The machine of a run, or the run on another kind of device than it was configured for.

    Raises:
        UserError: the device is not here, or cannot do what is asked.
    """
    words = dataclasses.asdict(config.hardware)
    if device is not None and device != config.hardware.device:
        words |= {"device": device, "precision": "auto", "tf32": device == "cuda"}
    return hardware.decide(**words, quantization=config.model.quantization)


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
    return load_inputs(config.model.checkpoint, config.model.revision)


def spell(config: schema.Config, clips: Sequence[Clip]) -> None:
    """See that the model can be asked and can answer.

    Raises:
        UserError: a prompt or a gloss holds a special token, a gloss cannot be spelled, or two are spelled alike.
    """
    words = inputs(config)
    for prompt in {clip.prompt or config.model.prompt for clip in clips}:
        words.prompt_ids(prompt, config.frames)
    glosses = sorted({clip.gloss for clip in clips})
    build_trie([words.answer_ids(gloss) for gloss in glosses], glosses)


def recognizer(config: schema.Config, vocabulary: Sequence[str], machine: Machine, inputs: Inputs) -> Recognizer:
    """The network with a fresh adapter, on its device. The adapter's first weights depend on `seed` alone."""
    network = vlm.load_vlm(
        checkpoint=config.model.checkpoint,
        revision=config.model.revision,
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
        vlm.checkpoint_layers(network)
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
        micro_batch=machine.micro_batch(config.batch, config.frames),
    )


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
        folder=folder,
        vocabulary=vocabulary,
        inputs=inputs,
        prompt=config.model.prompt,
        frames=config.frames,
        sampling=config.sampling,
        jitter=ColorJitter(**dataclasses.asdict(config.jitter)),
        batch=config.batch,
        ranking_batch=machine.micro_batch(config.batch, config.frames),
        workers=machine.workers,
        pin_memory=machine.device == "cuda",
        seed=config.seed,
    )
