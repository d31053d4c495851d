"""The words of a command line in Hydra's grammar: paths quoted for it, words parsed by it. Nothing is composed."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString
from hydra.errors import HydraException

from slr.config import schema
from slr.core.errors import UserError

SWEEP = ("-m", "--multirun")
SEARCH = "hydra/sweeper=optuna"
REMOTE = {"hydra/launcher=submitit_slurm", "hydra/launcher=ray"}  # to machines that this one cannot look at
ASKING = ("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info", "-sc", "--shell-completion")


def sweeps(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for a sweep.

    Raises:
        UserError: a search without `-m`.
    """
    if SEARCH in arguments and not any(word in SWEEP for word in arguments):
        raise UserError(f"{SEARCH}: expected -m, since a search makes many runs; type -m {SEARCH} …")
    return any(word in SWEEP for word in arguments)


def asks_only(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask to be shown something (`--help`, `--cfg`, …) rather than for a job.

    Raises:
        UserError: a word with a dash that neither asks nor sweeps; it would start a job that nothing has checked.
    """
    dashed = [word for word in arguments if word.startswith("-")]
    if any(word.partition("=")[0] in ASKING for word in dashed):
        return True
    for word in dashed:
        key, _, value = word.lstrip("-").partition("=")
        if key in schema.key_types():
            value = value or " ".join(arguments).partition(f"{word} ")[2].partition(" ")[0] or "VALUE"
            raise UserError(f"{word}: expected key=value without dashes; type {key}={value}")
        if word not in SWEEP:
            raise UserError(f"{word}: expected key=value, -m for a sweep, or one of {', '.join(ASKING)}")
    return False


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
    """The words as a person types them: what `quote_paths` was given."""
    keys = [word.partition("=")[0] for word in words]
    return [
        f"{key}={str(parse([word])[0].value()).replace(chr(92) + '${', '${')}" if key in schema.PATH_KEYS else word
        for key, word in zip(keys, words, strict=True)
    ]


def quoted(value: str) -> str:
    """A text in quotes, which Hydra's grammar and OmegaConf's interpolation read unchanged."""
    return QuotedString(value.replace("${", "\\${"), Quote.single).with_quotes()


def parse(words: Sequence[str]) -> list[Override]:
    """The words as Hydra understands them.

    Raises:
        UserError: one that it does not.
    """
    parser = OverridesParser.create()
    parsed = []
    for word in words:
        try:
            parsed.append(parser.parse_override(word))
        except HydraException as error:
            spaced = re.search(r"([^\s=]+)(?: = | =|= )([^\s=]+)", " ".join(words))
            hint = f"type {spaced[1]}={spaced[2]}, without spaces" if spaced else f"quote what is special: {error}"
            raise UserError(f"{word}: expected key=value; {hint}") from None
    return parsed


def values(override: Override) -> list[object]:
    """The values that a word gives its key: one, or those of a sweep.

    Raises:
        UserError: values that cannot be listed, such as those of an interval.
    """
    if not override.is_sweep_override():
        return [override.value()]
    if not override.is_discrete_sweep() or isinstance(override.value(), Glob):
        raise UserError(f"{override.input_line}: expected values to try one by one, such as a,b or range(2,9,2)")
    return list(override.sweep_string_iterator())
