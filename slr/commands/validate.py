"""Check what would stop a run before it has a folder, and prepare its data."""

import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from slr import factory
from slr.config import schema
from slr.core.env import command
from slr.core.errors import UserError
from slr.data.manifest import read_manifest
from slr.prepare.dataset import prepare
from slr.training import warm_start
from slr.training.start import decide_hardware, divide, vocabulary_of


def check_all(configs: Sequence[schema.Config], here: bool = True) -> None:
    """Check every job of a command, once for all that ask the same of machine, data and model."""
    for config in configs:
        if config.init:
            warm_start.adapter_file(config)
            warm_start.refuse_other_base(config)
    keys = ("hardware", "data", "dataset", "split", "limit_train", "model", "frames")
    for config in {repr([getattr(config, key) for key in keys]): config for config in configs}.values():
        check(config, here)


def check_apart(configs: Sequence[schema.Config], here: bool) -> None:
    """As `check_all`, in a process that ends: memory that torch takes is left to the jobs."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(check_all, configs, here).result()


def check(config: schema.Config, here: bool) -> None:
    """Check what would stop a run, on this machine if it runs `here`, cheap questions first, and prepare its data.

    Raises:
        UserError: hardware, clips or weights are not there, the clips cannot be divided, or a gloss cannot be spelled.
    """
    from slr.models.hub import locate
    from slr.prepare.folder import read_layout

    manifest = factory.manifest(config)
    if config.dataset.name == "wlasl" and not manifest.is_file():
        words = command("prepare", f"dataset=wlasl dataset.subset={config.dataset.subset}")
        hint = "with dataset.clips=FOLDER if you have <video_id>.mp4"
        raise UserError(f"no prepared WLASL at {manifest.parent}; run: {words} ({hint})")
    if here and config.hardware.device not in ("auto", "cpu"):
        from slr.core import hardware  # torch

        hardware.require(config.hardware.device)
    if isinstance(config.dataset, schema.Folder):
        labels = Path(config.dataset.labels) if config.dataset.labels else None
        read_layout(config.dataset.layout, Path(config.dataset.clips), labels)  # before gigabytes are fetched
    locate(config.model.checkpoint, config.model.version, need_weights=config.model.weights == "pretrained")
    if config.dataset.name != "wlasl":
        prepare(vars(config.dataset), manifest.parent)
    clips = read_manifest(manifest)
    divide(clips, config)
    print("starting …", file=sys.stderr)
    from slr.training import assemble  # seconds: torch, lightning, transformers, which the run needs anyway

    if here:
        config = decide_hardware(config)
        assemble.preflight(config, factory.machine(config))
    factory.spell(config, clips, vocabulary_of(config, clips))
