"""Decide configuration, split, vocabulary and base model when a run begins; a run that has begun keeps them."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from slr import factory
from slr.config import compose, schema
from slr.config.provenance import refuse_other_base
from slr.core import distributed
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.core.run_folder import RunFolder
from slr.data import coverage
from slr.data.manifest import Clip
from slr.data.split import PARTS, Split, make_split, read_split, write_split
from slr.training import warm_start

if TYPE_CHECKING:
    from slr.core.hardware import Machine


def earlier(config: schema.Config, folder: RunFolder, goes_on: bool) -> tuple[dict[str, Any], bool]:
    """The folder's `result.json`, and whether the run is now to train more epochs than before.

    Raises:
        UserError: the folder holds a run of other settings, unless `goes_on`, or one on another base model.
    """
    result = folder.facts
    if not folder.is_begun:
        return result, False
    begun = schema.from_plain(read_json(folder.config), folder.config)
    if config.init == begun.init is not None and not goes_on:
        warm_start.the_same(config, folder)
    differing = schema.differences(begun, config)
    if differing and not goes_on:
        raise UserError(
            f"{folder.root} holds a run of other settings ({'; '.join(differing[:4])}); give this one another folder, "
            "with sweep=NAME in a sweep"
        )
    longer = config.epochs > begun.epochs
    hashes = result.get("hashes", {})
    trains = longer or result.get("status") not in ("done", "pruned")
    if trains and (hashes or any(folder.checkpoints.glob("*.ckpt"))):
        refuse_other_base(begun.model, hashes, factory.base_of(begun), str(folder.root))
    return result, longer


def settle(config: schema.Config, folder: RunFolder, goes_on: bool) -> "tuple[schema.Config, Machine]":
    """The configuration that a run is trained with, and its machine: `hardware=auto`, processes and `pinned` decided.

    With `goes_on`, `config` is the run's own.
    """
    from slr.core import hardware

    automatic = config.hardware.device == "auto"
    config = decide_hardware(config if goes_on else agreed(folder, lambda: as_begun(config, folder)))
    machine = factory.machine(config)
    print(machine.describe(hardware.why(machine.kind) if automatic else ""))
    trainer = dataclasses.replace(config.trainer, devices=distributed.place().world)
    config = dataclasses.replace(config, trainer=trainer)
    return agreed(folder, lambda: pinned(config, folder, machine.quantization)), machine


def agreed(folder: RunFolder, decide: Callable[[], schema.Config]) -> schema.Config:
    """The configuration that the main process decides on."""
    return schema.from_plain(distributed.on_main(lambda: schema.to_plain(decide())), folder.config)


def decide_hardware(config: schema.Config) -> schema.Config:
    """The configuration with `hardware=auto` decided."""
    from slr.core.hardware import pick

    kind = pick() if config.hardware.device == "auto" else config.hardware.device
    return dataclasses.replace(config, hardware=compose.fill_hardware(config.hardware, kind))


def as_begun(config: schema.Config, folder: RunFolder) -> schema.Config:
    """The configuration with what a run that has begun keeps; see `pinned`."""
    if not folder.is_begun:
        return config
    written = schema.from_plain(read_json(folder.config), folder.config)
    if written.hardware.four_bit is False:
        config = dataclasses.replace(config, hardware=dataclasses.replace(config.hardware, four_bit=False))
    return dataclasses.replace(config, model=dataclasses.replace(config.model, commit=written.model.commit))


def pinned(config: schema.Config, folder: RunFolder, quantization: str) -> schema.Config:
    """The configuration of a new run, with the hub's commit and whether weights are in 4 bits fixed for later.

    A run that has begun keeps its own.
    """
    from slr.models.hub import commit_of, locate

    if folder.is_begun:
        return config
    commit = warm_start.base_commit(config)
    if commit is None:
        weights = config.model.weights == "pretrained"
        commit = commit_of(locate(config.model.checkpoint, config.model.revision, need_weights=weights))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, commit=commit))
    if config.model.quantization != "auto" or config.lora.scope == "full":  # which has no 4 bits anywhere
        return config
    return dataclasses.replace(config, hardware=dataclasses.replace(config.hardware, four_bit=quantization == "nf4"))


def divided(config: schema.Config, folder: RunFolder, clips: Sequence[Clip]) -> tuple[Split, list[str]]:
    """The run's split and vocabulary: made and written when it begins, read after that."""
    if folder.is_begun:
        return read_split(folder.split, clips), read_json(folder.vocabulary)
    split = divide(clips, config)
    vocabulary = vocabulary_of(config, clips)
    record_beginning(folder, config, clips, split, vocabulary)
    return split, vocabulary


def write_config(config: schema.Config, folder: RunFolder, micro_batch: int | None) -> None:
    """Write the run's configuration with the micro-batch that its memory plan gave.

    A resumed run must not divide its steps in another way because other memory is free.
    """
    hardware = dataclasses.replace(config.hardware, micro_batch=micro_batch)
    write_json(folder.config, schema.to_plain(dataclasses.replace(config, hardware=hardware)))


def vocabulary_of(config: schema.Config, clips: Sequence[Clip]) -> list[str]:
    """The glosses that a run ranks."""
    return coverage.vocabulary(clips, coverage.read_lost(factory.prepared(config)), config.split.rule)


def divide(clips: Sequence[Clip], config: schema.Config) -> Split:
    """The clips divided as the configuration says, near-duplicates known by their pictures."""
    split = config.split
    shares = {part: getattr(split, part) for part in PARTS}
    copies = []
    if config.dataset.name != "synthetic":  # each of whose clips is drawn anew: docs/audit.md
        from slr.data.duplicates.near_duplicates import find_near_duplicates

        copies = find_near_duplicates(factory.prepared(config), clips, os.cpu_count() or 1)
    return make_split(
        clips, split.rule, split.seed, shares, copies, split.coverage, split.drop_leaks, config.limit_train
    )


def record_beginning(
    folder: RunFolder, config: schema.Config, clips: Sequence[Clip], split: Split, vocabulary: list[str]
) -> None:
    """Write what evaluate, resume and `slr.load` need, before anything can fail."""
    if config.init:
        warm_start.refuse_other_base(config)
        write_json(folder.root / warm_start.RECORD, dataclasses.asdict(warm_start.take(config, clips, split)))
    write_config(config, folder, config.hardware.micro_batch)
    write_json(folder.vocabulary, vocabulary)
    write_split(folder.split, split)
