"""From the words of a command line to checked configurations, before anything is started."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from slr.config import compose, overrides, schema, search_space, sweep_name
from slr.core.errors import UserError


def configurations(arguments: Sequence[str]) -> list[schema.Config]:
    """Compose and check every job that the arguments ask for: one, with `-m` each of the grid, or a search's corners.

    Raises:
        UserError: an unknown key or option, a wrong type, a value that is not allowed, a word that is no override.
    """
    typed = compose.parsed(arguments)
    several = overrides.sweeps(arguments)
    if overrides.SEARCH in arguments:
        jobs = _corners(typed)
    else:
        choices = [
            [f"{override.get_key_element()}={value}" for value in overrides.values(override)]
            if several and override.is_sweep_override()
            else [override.input_line or ""]
            for override in typed
        ]  # frames=4,8 epochs=1: [frames=4, frames=8], [epochs=1]
        jobs = map(list, itertools.product(*choices))
    return [compose.to_typed(compose.composed(words), words) for words in jobs]


def _corners(typed: Sequence[Override]) -> list[list[str]]:
    """The words of a search's trials at the ends of what it varies, its own settings checked as well."""
    search_space.require_optuna()
    fixed = [override.input_line or "" for override in typed if not override.is_sweep_override()]
    composed = compose.composed(fixed, whole=True)
    OmegaConf.to_object(composed.hydra.sweeper)
    varied, fixed = sweep_name.axes([override.input_line or "" for override in typed], composed)
    corners = search_space.corners(varied)
    return [[*fixed, *(f"{axis.key}={value}" for axis, value in zip(varied, at, strict=True))] for at in corners]


RESUME = "slr train resume=FOLDER [hardware=KIND] [hardware.KEY=VALUE] [epochs=N]"


def resumption(words: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder of a run to continue, and the words that change how.

    Raises:
        UserError: a word for a setting that a run keeps.

    >>> resumption(["resume=outputs/a=1, b", "epochs=5"])
    (PosixPath('outputs/a=1, b'), ['epochs=5'])
    """
    folder = next(word for word in words if word.startswith("resume=")).partition("=")[2]
    changes = [word for word in words if not word.startswith("resume=")]
    for word in changes:
        key, equals, _ = word.partition("=")
        if not equals or not (key in ("epochs", "hardware") or key.startswith("hardware.")):
            kept = "a resumed run keeps its settings, all but hardware and epochs"
            raise UserError(f"{word}: {kept}; start a new run for others (usage: {RESUME})")
    if not folder:
        raise UserError(f"resume=: expected the folder of a run; usage: {RESUME}")
    return Path(folder), changes


def changed(config: schema.Config, words: Sequence[str]) -> tuple[schema.Config, list[str]]:
    """A run's configuration with other hardware or epochs, and a line for each of what that changes.

    Raises:
        UserError: as `configurations`.
    """
    if not words:
        return config, []
    fresh = configurations(words)[0]
    typed = {word.partition("=")[0] for word in words}
    hardware = dataclasses.asdict(fresh.hardware if "hardware" in typed else config.hardware)
    if config.hardware.four_bit is False:  # what began without 4 bits continues without
        hardware["four_bit"] = False
    names = {key.partition(".")[2] for key in typed - {"epochs", "hardware"}}
    names |= {"micro_batch"} if "memory" in names else set()  # a step is divided to fit, unless that is typed too
    hardware |= {name: getattr(fresh.hardware, name) for name in names}
    before = dataclasses.asdict(config.hardware)
    differing = [key for key, value in hardware.items() if before[key] != value]
    lines = [f"hardware.{key}: {before[key]} -> {hardware[key]}; last digits may differ" for key in differing]
    epochs = fresh.epochs if "epochs" in typed else config.epochs
    if epochs != config.epochs:
        lines.append(f"epochs: {config.epochs} -> {epochs}; the learning rate follows the new length from here on")
    return dataclasses.replace(config, hardware=schema.Hardware(**hardware), epochs=epochs), lines
