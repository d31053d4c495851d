"""From the words a person types to checked configurations: what `train.py` and `prepare_data.py` share.

With the entry points, the one room that knows hydra and omegaconf. Everything here happens before Hydra starts a job:
a mistake costs one line and leaves no folder.
"""

import dataclasses
import difflib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from slr import processes, schema, space
from slr.errors import UserError

PROJECT = Path(__file__).resolve().parent.parent
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
        return processes.moment().strftime("%Y-%m-%d_%H-%M-%S-%f")
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


def quote_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments with every path made absolute and quoted for Hydra's grammar, which refuses spaces, commas, '=' …

    >>> quote_paths(["frames=8", "outputs=/a b/it's, =1"])
    ['frames=8', "outputs='/a b/it\\\\'s, =1'"]
    """
    return [_quote_path(argument) for argument in arguments]


def _quote_path(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if key not in schema.PATH_KEYS or not equals or value in ("", "null"):
        return argument
    path = Path(value).expanduser() if value == "~" or value.startswith("~/") else Path(value)
    is_path = path.is_dir() if key == "model.checkpoint" else not value.startswith(("http://", "https://"))
    if is_path:  # a hub name, `tiny` or an address is none
        value = str(path.absolute())
    return f"{key}={quoted(value)}"


def typed(words: Sequence[str]) -> list[str]:
    """The words as a person types them: the other way round than `quote_paths`."""
    paths = [word.partition("=")[0] in schema.PATH_KEYS and "=" in word for word in words]
    return [
        f"{word.partition('=')[0]}={str(_parse([word])[0].value()).replace(chr(92) + '${', '${')}" if is_path else word
        for word, is_path in zip(words, paths, strict=True)
    ]


def quoted(value: str) -> str:
    """A text in quotes, as Hydra's grammar reads any."""
    # Inside quotes the grammar reads \' as a quote, doubles backslashes only before one, and OmegaConf reads ${ }.
    value = re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", value)
    value = re.sub(r"(\\+)$", lambda found: found[1] * 2, value)
    return f"'{value.replace('${', chr(92) + '${')}'"


RESUME = "python train.py resume=FOLDER [hardware=KIND] [hardware.KEY=VALUE] [epochs=N]"


def resumption(words: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder of a run to go on with, and the words that change how.

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
            raise UserError(
                f"{word}: a resumed run keeps its settings, all but hardware and epochs; start a new run for others "
                f"(usage: {RESUME})"
            )
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
    fresh = configurations([word for word in words if word.startswith("hardware")])[0].hardware  # checks the words
    other = any(word.startswith("hardware=") for word in words)
    hardware = dataclasses.asdict(fresh if other else config.hardware)
    if config.hardware.four_bit is False:  # what began without 4 bits goes on without, wherever
        hardware["four_bit"] = False
    for word in words:
        group, dot, key = word.partition("=")[0].partition(".")
        if group == "hardware" and dot:
            hardware[key] = getattr(fresh, key)
    if any(word.startswith("hardware.memory=") for word in words):  # a step is cut to fit, unless that is said too
        hardware["micro_batch"] = fresh.micro_batch
    epochs = configurations([word for word in words if word.startswith("epochs=")] or [f"epochs={config.epochs}"])[
        0
    ].epochs
    after = dataclasses.replace(config, hardware=schema.Hardware(**hardware), epochs=epochs)
    before, now = (dataclasses.asdict(one.hardware) for one in (config, after))
    lines = [
        f"hardware.{key}: {before[key]} -> {now[key]}; last digits may differ" for key in now if before[key] != now[key]
    ]
    if epochs != config.epochs:
        lines.append(f"epochs: {config.epochs} -> {epochs}; the learning rate follows the new length from here on")
    return after, lines


SWEEP = ("-m", "--multirun")
SEARCH = "hydra/sweeper=optuna"
ASKING = ("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info", "-sc", "--shell-completion")


def sweeps(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for a sweep."""
    return any(word in SWEEP for word in arguments)


def elsewhere(arguments: Sequence[str]) -> bool:
    """Whether the arguments send a sweep's jobs to other machines, whose hardware this one cannot look at."""
    return any(word in ("hydra/launcher=submitit_slurm", "hydra/launcher=ray") for word in arguments)


def asks_only(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask to be shown something (`--help`, `--cfg`, …) rather than for a job.

    Raises:
        UserError: a word with a dash that neither asks nor sweeps; it would start a job that nothing has checked.
    """
    dashed = [word for word in arguments if word.startswith("-")]
    if any(word.partition("=")[0] in ASKING for word in dashed):
        return True
    strange = [word for word in dashed if word not in SWEEP]
    if strange:
        raise UserError(f"{strange[0]}: expected key=value, -m for a sweep, or one of {', '.join(ASKING)}")
    return False


def configurations(arguments: Sequence[str]) -> list[schema.Config]:
    """Compose and check every job that the arguments ask for: one, with `-m` each of the grid, or a search's corners.

    Args:
        arguments: the command line without the program's name, paths quoted.

    Raises:
        UserError: an unknown key or option, a wrong type, an impossible value, a word that is no override.
    """
    overrides = _parse([word for word in arguments if not word.startswith("-")])
    for override in overrides:
        _check_key(override)
    if SEARCH in arguments:
        return _corners(arguments)
    choices = [_choices(override) if sweeps(arguments) else [override.input_line or ""] for override in overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return [_compose(list(job)) for job in itertools.product(*choices)]


def _corners(arguments: Sequence[str]) -> list[schema.Config]:
    """A search's trials at the ends of what it varies, its own settings checked as well."""
    if not sweeps(arguments):
        raise UserError(f"{SEARCH}: expected -m, since it makes many runs; python train.py -m {SEARCH} …")
    space.require_optuna()
    words = [word for word in arguments if not word.startswith("-")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = _composed([word for word in words if not _parse([word])[0].is_sweep_override()], whole=True)
        OmegaConf.to_object(composed.hydra.sweeper)
        varied, fixed = axes(words, composed)
        jobs = space.corners(varied)
        return [_compose([*fixed, *map(space.word, varied, values)]) for values in jobs]


def axes(words: Sequence[str], composed: DictConfig) -> tuple[list[space.Axis], list[str]]:
    """What a search varies, and the words that stay as they are; of a key that comes twice, the last word counts.

    Args:
        words: `key=value`, some of them with several values.
        composed: of the words that stay, which tell a key's type where the schema does not know it.

    Raises:
        UserError: a space that is none.
    """
    overrides = {override.get_key_element(): override for override in _parse(words)}.values()
    varied = [_axis(override, composed) for override in overrides if override.is_sweep_override()]
    if not varied:
        raise UserError(f"{SEARCH}: expected a key to vary, such as 'frames=range(2,17,2)', found none")
    return varied, [override.input_line or "" for override in overrides if not override.is_sweep_override()]


def _axis(override: Override, composed: DictConfig) -> space.Axis:
    key, line, value = override.get_key_element(), override.input_line, override.value()
    if override.is_hydra_override():
        raise UserError(f"{line}: expected one value, since Hydra's own settings are not searched over")
    tags = value.tags if isinstance(value, Sweep) else set()  # a glob, which `_values` refuses, has none
    if tags - {"log"} or (tags and override.is_choice_sweep()):
        raise UserError(f"{line}: expected no tag but log, on an interval or a range, found {', '.join(sorted(tags))}")
    if isinstance(value, IntervalSweep):
        low, high = cast(float, value.start), cast(float, value.end)  # floats, whatever was typed
        if not low < high:
            raise UserError(f"{line}: expected the lower end first, found {low:g} and {high:g}")
        if low.is_integer() and high.is_integer() and _is_whole(override.key_or_group, composed):
            return space.Numbers(key, int(low), int(high), 1, "log" in tags)
        return space.Numbers(key, low, high, None, "log" in tags)
    if isinstance(value, RangeSweep):
        first, last, step = _grid(value, line)
        return space.Numbers(key, first, last, step, "log" in tags)
    return space.Choices(key, tuple(dict.fromkeys(map(str, _values(override)))))


def _grid(value: RangeSweep, line: str | None) -> tuple[int | float, int | float, int | float]:
    """The smallest and the largest value of a range, and the step between two; Hydra's ranges exclude their end."""
    try:
        values = value.range()
        count = len(values) if isinstance(values, range) else sum(1 for _ in values)
    except (ValueError, HydraException):
        raise UserError(f"{line}: expected a step other than 0") from None
    if not count:
        raise UserError(f"{line}: expected at least one value, found none; range(start,stop,step) excludes its stop")
    start, step = Decimal(str(value.start)), Decimal(str(value.step))  # floats would be off by their last digits
    ends = sorted([start, start + (count - 1) * step])
    kind = int if isinstance(values, range) else float
    return kind(ends[0]), kind(ends[1]), kind(abs(step))


def _is_whole(key: str, composed: DictConfig) -> bool:
    """Whether a key takes whole numbers."""
    kind = _kind(key)
    return kind is int or (kind is None and type(OmegaConf.select(composed, key)) is int)


def shared(composed: DictConfig, apart: Sequence[str]) -> dict[str, Any]:
    """What decides the numbers of all runs of a sweep, `key` or `group.key` -> value, but for some keys."""
    plain = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False))
    return _flat(_without(plain, ["hydra", *schema.ASIDE, *(key.lstrip("+") for key in apart)]))


def _flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for key, value in plain.items():
        rows |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return rows


def named(arguments: Sequence[str]) -> list[str]:
    """The arguments, with a name for the sweep that they ask for, if it has none: that of what all its jobs share.

    The same command, or one with another grid over the same keys, finds the sweep's folder again. Its jobs are then
    named after what differs between them.

    Raises:
        UserError: as `configurations`.
    """
    words = list(arguments)
    if not any(word in SWEEP for word in words) or any(word.startswith("sweep=") for word in words):
        return words
    overrides = _parse([word for word in words if not word.startswith("-")])
    for override in overrides:
        _check_key(override)
    own = [override for override in overrides if not override.key_or_group.startswith("hydra")]
    fixed = [override.input_line or "" for override in own if not override.is_sweep_override()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = _composed(fixed)
    shared = OmegaConf.to_container(composed, resolve=False)
    swept: list[Any] = sorted(override.key_or_group for override in own if override.is_sweep_override())
    if SEARCH in words:  # over other values of the same keys, it is another search
        varied, _ = axes([override.input_line or "" for override in own], composed)
        swept = [dataclasses.asdict(axis) for axis in varied]
    told = [word for word in fixed if word.partition("=")[0] not in (*schema.PATH_KEYS, "sweep")]
    readable = folder_name("_".join(sorted(told)).replace("=", "-"))[:80] if told else "all"
    content = json.dumps([_without(cast(dict, shared), schema.ASIDE), swept], sort_keys=True, default=str)
    name = f"{readable}_{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    keys = [override.key_or_group for override in own if not override.is_sweep_override()]
    excluded = sorted({*keys, *schema.PATH_KEYS, "sweep"})
    return [*words, f"sweep={name}", f"hydra.job.config.override_dirname.exclude_keys=[{','.join(excluded)}]"]


def _without(plain: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    inner = {
        key: _without(value, _inside(keys, key)) if isinstance(value, dict) else value for key, value in plain.items()
    }
    return {key: value for key, value in inner.items() if key not in keys}


def _inside(keys: Sequence[str], group: str) -> list[str]:
    return [key.partition(".")[2] for key in keys if key.startswith(f"{group}.")]


def _parse(words: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    overrides = []
    for word in words:
        try:
            overrides.append(parser.parse_override(word))
        except HydraException as error:
            raise UserError(
                f"{word}: expected key=value, found something Hydra cannot read; quote it: {error}"
            ) from None
    return overrides


def _choices(override: Override) -> list[str]:
    """What `-m` makes of one word: `frames=4,8` becomes `frames=4` and `frames=8`."""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    return [f"{override.get_key_element()}={value}" for value in _values(override)]


def _check_key(override: Override) -> None:
    """Refuse a key that the schema does not have; Hydra itself lets `+frame=8` pass."""
    key = override.key_or_group
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        return
    if key == "model.commit":
        raise UserError(f"{override.input_line}: a run writes its commit down itself; use model.revision=COMMIT")
    options = groups()
    if key in options and not isinstance(override.value(), dict):
        for value in _values(override):
            if str(value) not in options[key] + ["None"] * (key == "experiment"):
                raise UserError(f"{key}={value}: no such option; choose from {', '.join(options[key])}")
        return
    known = sorted(set(_keys(schema.Config)) | set(options))
    if key not in known:
        near = difflib.get_close_matches(key, known, 1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "python train.py --help lists the keys"
        raise UserError(f"{override.input_line}: unknown key {key!r}; {hint}")


def _values(override: Override) -> list[object]:
    if not override.is_sweep_override():
        return [override.value()]
    if not override.is_discrete_sweep() or isinstance(override.value(), Glob):
        raise UserError(f"{override.input_line}: expected values to try one by one, such as a,b or range(2,9,2)")
    return list(override.sweep_string_iterator())


def _keys(kind: type, prefix: str = "") -> list[str]:
    keys = []
    for name, part in schema.fields(kind).items():
        kinds = list(schema.DATASETS.values()) if part is Any else [part]
        keys.append(prefix + name)
        for inner in kinds:
            if dataclasses.is_dataclass(inner):
                keys += _keys(cast(type, inner), f"{prefix}{name}.")
    return keys


def _compose(words: list[str]) -> schema.Config:
    try:
        return to_typed(_composed(words))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_line(error, words)) from None


def _composed(words: list[str], whole: bool = False) -> DictConfig:
    """What Hydra composes, with its own settings where `whole`."""
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
    kind = _kind(word.lstrip("+~").partition("=")[0])
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(cast(type, kind), "")


def _kind(key: str) -> type | None:
    """The type of a key's value, or None where the schema has no such key."""
    kinds: list[Any] = [schema.Config]  # schema classes, of which one is chosen, or the type of a value
    for name in key.split("."):
        inner = [schema.fields(cast(type, kind)).get(name) for kind in kinds if dataclasses.is_dataclass(kind)]
        kinds = [part for part in inner if part is not None]
        kinds = list(schema.DATASETS.values()) if kinds == [Any] else kinds
    return kinds[0] if kinds else None


def fill_hardware(words: schema.Hardware, kind: str) -> schema.Hardware:
    """`hardware=auto` settled: what it leaves null is as `conf/hardware/<kind>.yaml` says."""
    known = OmegaConf.to_container(OmegaConf.load(CONF / "hardware" / f"{kind}.yaml"))
    typed = {key: value for key, value in dataclasses.asdict(words).items() if value is not None}
    return schema.Hardware(**cast(dict[str, Any], {**cast(dict, known), **typed, "device": kind}))
