"""From a checked configuration to what it names: machine, clips, tokenizer, network, batches.

Training, evaluation and `slr.load` build them alike. torch is imported by the functions that need it.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slr.config import schema
from slr.core import distributed
from slr.core.errors import UserError
from slr.data.manifest import Clip, read_manifest
from slr.models import hub

if TYPE_CHECKING:
    from slr.core.hardware import Machine
    from slr.data.batches import ClipData
    from slr.models.internvl import Model
    from slr.models.processor import Inputs


def machine(config: schema.Config, device: str | None = None) -> "Machine":
    """The machine of a run, on `device` where that is another kind than the run's.

    Raises:
        UserError: the device is not here, or cannot do what is asked.
    """
    from slr.core import hardware
    from slr.models import internvl

    words = dataclasses.asdict(config.hardware)
    del words["memory"], words["micro_batch"]  # which the memory plan reads
    if device is not None and device != config.hardware.device:
        words |= {"device": device, "precision": "auto", "tf32": device == "cuda"}
    hardware.require(words["device"])
    full = config.lora.scope == "full"
    quantization = "none" if full else config.model.quantization
    if quantization != "none" and words["device"] not in ("cpu", "cuda"):  # to ask takes seconds
        words["four_bit"] = words["four_bit"] and internvl.quantises(words["device"])
    found = hardware.decide(**words, quantization=quantization)
    if not full:
        return found
    if found.precision in ("bf16-true", "16-true"):
        raise UserError(f"hardware.precision={found.precision}: lora=full trains all weights in 32 bits; use 32-true")
    return dataclasses.replace(found, reasons=(*found.reasons, "quantisation none because 4 bits cannot learn"))


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
    return read_manifest(manifest(config))


def inputs(config: schema.Config) -> "Inputs":
    """Tokens and pixels of the run's checkpoint."""
    from slr.models.processor import load_inputs

    return load_inputs(config.model.checkpoint, config.model.version)


def spell(config: schema.Config, clips: Sequence[Clip], vocabulary: Sequence[str]) -> None:
    """Check that the tokenizer can encode every prompt and every gloss.

    Raises:
        UserError: a prompt or a gloss holds a special token, a gloss cannot be spelled, or two are spelled alike.
    """
    from slr.models.trie import build_trie

    words = inputs(config)
    for prompt in {clip.prompt or config.model.prompt for clip in clips}:
        words.prompt_ids(prompt, config.frames)
    build_trie([words.answer_ids(gloss) for gloss in vocabulary], vocabulary)


def network(config: schema.Config, machine: "Machine") -> "Model":
    """The network with a new adapter, on its device. The adapter's first weights depend on `seed` alone."""
    from slr.models.libraries import import_libraries

    import_libraries()
    import torch

    from slr.models import internvl, lora

    base = (config.model.checkpoint, config.model.version, config.model.weights)
    model = internvl.load_vlm(*base, machine.quantization, machine.dtype, machine.device, config.seed)
    torch.manual_seed(config.seed)
    model = lora.add_lora(model, **dataclasses.asdict(config.lora))
    if config.gradient_checkpointing:
        internvl.checkpoint_layers(model)
    internvl.refuse_other(model, machine.device, machine.dtype, machine.quantization)
    return model


def data(
    config: schema.Config,
    folder: Path,
    parts: dict[str, list[Clip]],
    vocabulary: Sequence[str],
    machine: "Machine",
    inputs: "Inputs",
) -> "ClipData":
    """Batches of the clips of a prepared folder."""
    from slr.data.augment import ColorJitter
    from slr.data.batches import ClipData, Decoded

    jitter = dataclasses.asdict(config.jitter)
    return ClipData(
        parts=parts,
        frames_from=Decoded(folder, inputs),
        vocabulary=vocabulary,
        inputs=inputs,
        prompt=config.model.prompt,
        frames=config.frames,
        sampling=config.sampling,
        jitter=ColorJitter(**jitter) if any(jitter.values()) else None,
        answers=config.objective.name == "token",
        batch=config.batch,
        ranking_batch=machine.ranking_batch(config.batch, config.frames),
        workers=machine.workers,
        pin_memory=machine.device == "cuda",
        seed=config.seed,
        views=None if config.cache.name == "none" else min(config.cache.views, config.epochs),  # one an epoch suffices
        rank=distributed.place().rank,
        world=distributed.place().world,
    )


def base_of(config: schema.Config) -> str:
    """The hash of the base model that a configuration names; see `hub.base_hash`."""
    model = config.model
    return hub.base_hash(model.checkpoint, model.version, model.weights, config.seed)
