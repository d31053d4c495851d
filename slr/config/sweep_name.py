"""What the runs of a sweep share, what is varied, and the name that follows from both."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, cast

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from slr.config import compose, overrides, schema, search_space
from slr.core.errors import UserError


def axes(words: Sequence[str], composed: DictConfig) -> tuple[list[search_space.Axis], list[str]]:
    """What a search varies, and the words that stay; of a key that is typed twice, the last word counts.

    `composed`, of the words that stay, tells a key's type where the schema does not know it.

    Raises:
        UserError: values that cannot be searched.
    """
    typed = {override.get_key_element(): override for override in overrides.parse(words)}.values()
    varied = [_axis(override, composed) for override in typed if override.is_sweep_override()]
    if not varied:
        raise UserError(f"{overrides.SEARCH}: expected a key to vary, such as 'frames=range(2,17,2)', found none")
    return varied, [override.input_line or "" for override in typed if not override.is_sweep_override()]


def _axis(override: Override, composed: DictConfig) -> search_space.Axis:
    key, line, value = override.get_key_element(), override.input_line, override.value()
    if override.is_hydra_override():
        raise UserError(f"{line}: expected one value, since Hydra's own settings are not searched over")
    tags = value.tags if isinstance(value, Sweep) else set()  # a glob, which `values` refuses, has none
    if tags - {"log"} or (tags and override.is_choice_sweep()):
        raise UserError(f"{line}: expected no tag but log, on an interval or a range, found {', '.join(sorted(tags))}")
    if isinstance(value, IntervalSweep):
        low, high = cast(float, value.start), cast(float, value.end)  # floats, whatever was typed
        if not low < high:
            raise UserError(f"{line}: expected the lower end first, found {low:g} and {high:g}")
        kind = schema.key_types().get(override.key_or_group) or type(OmegaConf.select(composed, override.key_or_group))
        if low.is_integer() and high.is_integer() and kind is int:
            return search_space.Numbers(key, int(low), int(high), 1, "log" in tags)
        return search_space.Numbers(key, low, high, None, "log" in tags)
    if isinstance(value, RangeSweep):
        first, last, step = _grid(value, line)
        return search_space.Numbers(key, first, last, step, "log" in tags)
    return search_space.Choices(key, tuple(dict.fromkeys(map(str, overrides.values(override)))))


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


def named(arguments: Sequence[str]) -> list[str]:
    """The arguments of a sweep, with a name for it, if it has none: after what all its jobs share.

    The same command, or one with another grid over the same keys, finds the sweep's folder again. Its jobs are then
    named after what differs between them.

    Raises:
        UserError: as `configurations`.
    """
    words = list(arguments)
    if not overrides.sweeps(words) or any(word.startswith("sweep=") for word in words):
        return words
    own = [override for override in compose.parsed(words) if not override.key_or_group.startswith("hydra")]
    swept: list[Any] = sorted(override.key_or_group for override in own if override.is_sweep_override())
    kept = [override for override in own if not override.is_sweep_override()]
    fixed = [override.input_line or "" for override in kept]
    composed = compose.composed(fixed)
    if overrides.SEARCH in words:  # over other values of the same keys, it is another search
        varied, _ = axes([override.input_line or "" for override in own], composed)
        swept = [dataclasses.asdict(axis) for axis in varied]
    shared = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False))
    shown = sorted(word for word in fixed if word.partition("=")[0] not in (*schema.PATH_KEYS, "sweep"))
    readable = compose.folder_name("_".join(shown).replace("=", "-"))[:80] if shown else "all"
    for group, _, key in (name.rpartition(".") for name in schema.ASIDE):
        (shared[group] if group else shared).pop(key, None)
    content = json.dumps([shared, swept], sort_keys=True, default=str)
    name = f"{readable}_{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    excluded = sorted({*(override.key_or_group for override in kept), *schema.PATH_KEYS, "sweep"})
    return [*words, f"sweep={name}", f"hydra.job.config.override_dirname.exclude_keys=[{','.join(excluded)}]"]


def shared(composed: DictConfig, apart: Sequence[str]) -> dict[str, Any]:
    """What decides the numbers of all runs of a sweep, `key` or `group.key` -> value, without the keys `apart`."""
    plain = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False))
    return schema.identity(plain, ["hydra", *(key.lstrip("+") for key in apart)])
