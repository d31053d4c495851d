"""What `conf/`, the schema and a person's words make together: a checked configuration, or a line on what is wrong."""

import dataclasses
import difflib
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from slr.config import overrides, schema
from slr.core import distributed
from slr.core.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
CONF = PROJECT / "conf"
PAGE = "train"
SHELLS = ("interactive", "bash", "zsh", "fish", "tcsh", "ksh", "sh")  # names of Slurm's jobs at which somebody sits


def register() -> None:
    """Make the schema, the resolvers and the help text known to Hydra."""
    OmegaConf.register_new_resolver("project", lambda name: str(PROJECT / name), replace=True)
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    OmegaConf.register_new_resolver("run_name", lambda typed: run_name(typed, os.environ), replace=True)
    store = ConfigStore.instance()
    store.store("schema", node=schema.Config)
    for name, kind in schema.DATASETS.items():
        store.store(name, group="schema/dataset", node=kind)
    store.store("slr", group="hydra/help", node={"app_name": "slr", "header": HEADER, "footer": "", "template": HELP})


def folder_name(text: str) -> str:
    """A folder name of letters, digits, '.', '_' and '-' for any text, another for every text.

    >>> folder_name("frames-8_lora.r-16")
    'frames-8_lora.r-16'
    >>> folder_name("prompt-What?").startswith("prompt-What-_"), folder_name("a?") == folder_name("a!")
    (True, False)
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", re.sub("['\"]", "", text))[:150]
    return name if name == text and name else f"{name or 'job'}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def run_name(typed: str, environment: Mapping[str, str]) -> str:
    """What a single run's folder is called: after the moment, or after its job where a batch script of Slurm's runs it.

    A job that is put into the queue again gives the same command again, which then finds its folder. A shell that runs
    by Slurm gives many commands, each for a run of its own.

    Args:
        typed: the overrides, by which a script's commands differ.
        environment: of the process.

    >>> run_name("seed-1", {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"})
    'slurm-5_2_seed-1'
    >>> run_name("seed-1", {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "interactive"})[:2]
    '20'
    """
    array = environment.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{environment['SLURM_ARRAY_TASK_ID']}" if array else environment.get("SLURM_JOB_ID")
    if job is None or environment.get("SLURM_JOB_NAME") in SHELLS:
        # Hydra's own `now` would name another folder in each of several processes.
        return distributed.moment().strftime("%Y-%m-%d_%H-%M-%S-%f")
    return "_".join(filter(None, [f"slurm-{job}", folder_name(typed) if typed else ""]))


HEADER = "slr trains a vision-language model to name the sign in a clip."
HELP = """${hydra.help.header}

  python train.py experiment=demo                        drawn signers, a tiny model, minutes on a CPU
  python train.py hardware=cuda frames=8 lora.r=16       WLASL on InternVL3.5-2B
  python train.py -m frames=4,8,16 lora.r=8,16           a sweep
  python train.py -m hydra/sweeper=optuna frames=4,8,16  a search (docs/sweeps.md)
  python train.py --cfg job                              the configuration that would run

Groups (group=option)
{groups}

Values (key=value)
$CONFIG
"""


def groups() -> dict[str, list[str]]:
    """The groups of `conf/` and their options, read from the folder."""
    folders = sorted(path for path in CONF.iterdir() if path.is_dir())
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


HELP = HELP.replace("{groups}", "\n".join(f"  {name}: {', '.join(options)}" for name, options in groups().items()))


def parsed(arguments: Sequence[str]) -> list[Override]:
    """The words among the arguments, each for a key that can be typed.

    Raises:
        UserError: a word that is no override, an unknown key or option, or a key that only a run writes.
    """
    found = overrides.parse([word for word in arguments if not word.startswith("-")])
    for override in found:
        _check_key(override)
    return found


def _check_key(override: Override) -> None:
    """Refuse a key that the schema does not have; Hydra itself lets `+frame=8` pass."""
    key = override.key_or_group
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        return
    if key == "model.commit":
        raise UserError(f"{override.input_line}: a run writes its commit down itself; use model.revision=COMMIT")
    options = groups()
    if key in options and not isinstance(override.value(), dict):
        for value in overrides.values(override):
            if str(value) not in options[key] + ["None"] * (key == "experiment"):
                raise UserError(f"{key}={value}: no such option; choose from {', '.join(options[key])}")
        return
    known = sorted(set(_keys(schema.Config)) | set(options))
    if key not in known:
        near = difflib.get_close_matches(key, known, 1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "python train.py --help lists the keys"
        raise UserError(f"{override.input_line}: unknown key {key!r}; {hint}")


def _keys(kind: type, prefix: str = "") -> list[str]:
    keys = []
    for name, part in schema.fields(kind).items():
        kinds = list(schema.DATASETS.values()) if part is Any else [part]
        keys.append(prefix + name)
        for inner in kinds:
            if dataclasses.is_dataclass(inner):
                keys += _keys(cast(type, inner), f"{prefix}{name}.")
    return keys


def kind_of(key: str) -> type | None:
    """The type of a key's value, or None where the schema has no such key."""
    kinds: list[Any] = [schema.Config]  # schema classes, of which one is chosen, or the type of a value
    for name in key.split("."):
        inner = [schema.fields(cast(type, kind)).get(name) for kind in kinds if dataclasses.is_dataclass(kind)]
        kinds = [part for part in inner if part is not None]
        kinds = list(schema.DATASETS.values()) if kinds == [Any] else kinds
    return kinds[0] if kinds else None


def conf() -> AbstractContextManager[object]:
    """Where `composed` and `configuration` work: with Hydra started on `conf/`."""
    return initialize_config_dir(str(CONF), version_base="1.3")


def configuration(words: list[str]) -> schema.Config:
    """The checked configuration that words ask for, inside `conf`.

    Raises:
        UserError: as `to_typed`, and words that Hydra refuses.
    """
    try:
        return to_typed(composed(words))
    except OmegaConfBaseException as error:
        raise UserError(_one_line(error, words)) from None


def composed(words: list[str], whole: bool = False) -> DictConfig:
    """What Hydra composes inside `conf`, with its own settings where `whole`.

    Raises:
        UserError: words that Hydra refuses.
    """
    try:
        return compose(PAGE, overrides=words, return_hydra_config=whole)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_line(error, words)) from None


def to_typed(config: DictConfig) -> schema.Config:
    """The composed configuration as dataclasses, checked.

    Raises:
        UserError: a value cannot be, or a mandatory one is missing.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{missing[0]} is not given; add {missing[0]}=VALUE")
    return cast(schema.Config, OmegaConf.to_object(config))


def _one_line(error: Exception, words: list[str]) -> str:
    """Hydra's several lines, which begin with the override at fault, as one in the user's words."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    for word in words:
        if any(word in line for line in lines) and isinstance(cause, OmegaConfBaseException):
            expected = _type_name(word) if isinstance(cause, ValidationError) else ""
            found = f"expected {expected}, found {word.partition('=')[2]}" if expected else str(cause).splitlines()[0]
            return f"{word}: {found}"
    return "; ".join(line for line in lines if not line.startswith(("object_type", "full_key", "See ")))


def _type_name(word: str) -> str:
    kind = kind_of(word.lstrip("+~").partition("=")[0])
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(cast(type, kind), "")


def fill_hardware(words: schema.Hardware, kind: str) -> schema.Hardware:
    """`hardware=auto` settled: what it leaves null is as `conf/hardware/<kind>.yaml` says."""
    known = OmegaConf.to_container(OmegaConf.load(CONF / "hardware" / f"{kind}.yaml"))
    typed = {key: value for key, value in dataclasses.asdict(words).items() if value is not None}
    return schema.Hardware(**cast(dict[str, Any], {**cast(dict, known), **typed, "device": kind}))
