"""Compose `conf/`, the schema and the words of a command line to a checked configuration, or say what is wrong."""

import copy
import dataclasses
import difflib
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException, ValidationError

from slr.config import overrides, schema
from slr.config.help import groups
from slr.core import distributed
from slr.core.env import CONF, PROJECT, command
from slr.core.errors import UserError

PAGE = "train"
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
SHELLS = ("interactive", "bash", "zsh", "fish", "tcsh", "ksh", "sh")  # names of Slurm's interactive jobs


def register() -> None:
    """Register the schema and the resolvers with Hydra."""
    OmegaConf.register_new_resolver("project", lambda name: str(PROJECT / name), replace=True)
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    OmegaConf.register_new_resolver("run_name", lambda typed: run_name(typed, os.environ), replace=True)
    store = ConfigStore.instance()
    store.store("schema", node=schema.Config)
    for name, kind in schema.DATASETS.items():
        store.store(name, group="schema/dataset", node=kind)


def folder_name(text: str) -> str:
    """A folder name of letters, digits, '.', '_' and '-', different for every text.

    >>> folder_name("frames-8_lora.r-16")
    'frames-8_lora.r-16'
    >>> folder_name("prompt-What?").startswith("prompt-What-_"), folder_name("a?") == folder_name("a!")
    (True, False)
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", re.sub("['\"]", "", text))[:150]
    return name if name == text and name else f"{name or 'job'}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def run_name(typed: str, environment: Mapping[str, str]) -> str:
    """Name of a single run's folder: the time, or the Slurm job where a batch script runs it.

    A job that is requeued gives the same command again, which then finds its folder; a script's commands differ by
    the overrides `typed`. In an interactive job, each command is a run of its own.

    >>> run_name("seed-1", {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"})
    'slurm-5_2_seed-1'
    >>> run_name("seed-1", {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "interactive"})[:2]
    '20'
    """
    array = environment.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{environment['SLURM_ARRAY_TASK_ID']}" if array else environment.get("SLURM_JOB_ID")
    if job is None or environment.get("SLURM_JOB_NAME") in SHELLS:
        # Hydra's own `now` differs between the processes of one run.
        return distributed.place().moment.strftime("%Y-%m-%d_%H-%M-%S-%f")
    return "_".join(filter(None, [f"slurm-{job}", folder_name(typed) if typed else ""]))


def parsed(arguments: Sequence[str]) -> list[Override]:
    """The overrides among the arguments, each for a key that can be typed.

    Raises:
        UserError: a word that is no override, an unknown key or option, or a key that only a run writes.
    """
    parsed = overrides.parse([word for word in arguments if not word.startswith("-")])
    for override in parsed:
        _check_key(override)
    return parsed


def _check_key(override: Override) -> None:
    """Refuse a key that the schema does not have; Hydra itself lets `+frame=8` pass."""
    key = override.key_or_group
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        return
    if key == "model.commit":
        raise UserError(f"{override.input_line}: a run writes its commit itself; use model.revision=COMMIT")
    options = groups()
    if key in options and not isinstance(override.value(), dict):
        for value in overrides.values(override):
            if str(value) not in options[key] + ["None"] * (key == "experiment"):
                raise UserError(f"{key}={value}: no such option; choose from {', '.join(options[key])}")
        return
    known = sorted({*schema.key_types(), *options})
    if key not in known:
        inside = [name for name in known if name.endswith(f".{key}")]  # lr of optimizer.lr
        near = inside or difflib.get_close_matches(key, known, 1, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"{command('train', '--help')} lists the keys"
        raise UserError(f"{override.input_line}: unknown key {key!r}; {hint}")


def composed(words: list[str], whole: bool = False) -> DictConfig:
    """What Hydra composes of words, with its own settings where `whole`.

    Raises:
        UserError: words that Hydra refuses.
    """
    try:
        with initialize_config_dir(str(CONF), job_name=PAGE, version_base="1.3"):
            return compose(PAGE, overrides=words, return_hydra_config=whole)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_line(error, words)) from None


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy of a composed configuration without Hydra's own settings."""
    own = copy.deepcopy(config)  # a masked copy would lose the schema's types
    with read_write(own), open_dict(own):
        own.pop("hydra", None)
    return own


def to_typed(config: DictConfig, words: Sequence[str] = ()) -> schema.Config:
    """The composed configuration as dataclasses, checked.

    Raises:
        UserError: a value is not allowed, or a mandatory one is missing.
    """
    own = without_hydra(config)
    if missing := sorted(OmegaConf.missing_keys(own)):
        raise UserError(f"{missing[0]} is not given; add {missing[0]}=VALUE")
    try:
        return cast(schema.Config, OmegaConf.to_object(own))
    except OmegaConfBaseException as error:
        raise UserError(_one_line(error, words)) from None


def _one_line(error: Exception, words: Sequence[str]) -> str:
    """Hydra's several lines, which begin with the override at fault, as one in the user's words."""
    cause = error.__cause__
    word = next((word for word in words if word in str(error)), None)
    if word and isinstance(cause, OmegaConfBaseException):
        key, _, value = word.lstrip("+~").partition("=")
        kind = KINDS.get(schema.key_types().get(key, object))
        wrong = isinstance(cause, ValidationError) and kind
        return f"{word}: expected {kind}, found {value}" if wrong else f"{word}: {str(cause).splitlines()[0]}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(line for line in lines if not line.startswith(("object_type", "full_key", "See ")))


def fill_hardware(words: schema.Hardware, kind: str) -> schema.Hardware:
    """`hardware=auto` decided: what it leaves null is as `conf/hardware/<kind>.yaml` says."""
    known = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(CONF / "hardware" / f"{kind}.yaml")))
    known |= {key: value for key, value in dataclasses.asdict(words).items() if value is not None}
    known["device"] = kind
    return schema.Hardware(**known)
