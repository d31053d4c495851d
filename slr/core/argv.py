"""`key=value` words of a command: declared once as a dataclass, from which come parsing, defaults, usage and help."""

import contextlib
import dataclasses
import difflib
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from slr.core.errors import UserError


class Arguments:
    """What a command takes: a frozen dataclass of fields `Annotated[type, Option(…)]`; its docstring begins the help.

    Types are str, Path, int, float, bool (yes or no), or a tuple of one of these (values with commas between); each may
    be `| None`. `__` in a field's name is a dot in the key. Fields without an `Option` cannot be typed.
    """

    command: ClassVar[str]  # how it is called, for the usage
    word: ClassVar[str] = "key=value"  # what a word without `=` should have been


Kind = TypeVar("Kind", bound=Arguments)


@dataclass(frozen=True)
class Option:
    """What a key means, and which values it takes."""

    meaning: str  # for the help
    choices: Collection[str] = ()  # allowed values; a mapping also says what each means
    least: float = 0
    most: float = math.inf
    shown: str = ""  # stands in the help for the default; where that is None, this word means None when typed


@dataclass(frozen=True)
class _Field:
    """A field as its dataclass declares it; `kind` is the type of one value, and `many` says whether it is a tuple."""

    name: str
    option: Option
    kind: type
    many: bool
    default: Any

    def parse(self, key: str, text: str) -> object:
        if self.default is None and text in ("", self.option.shown):
            return None
        if self.many:
            return tuple(self._one(key, part.strip()) for part in text.strip("[]").split(","))
        return self._one(key, text)

    def _one(self, key: str, text: str) -> object:
        choices = ("yes", "no") if self.kind is bool else self.option.choices
        if choices and text not in choices:
            raise UserError(f"{key}={text}: expected {'some' if self.many else 'one'} of {', '.join(choices)}")
        if self.kind is Path and not text:
            raise UserError(f"{key}=: expected a path, found nothing")
        if self.kind not in (int, float):
            return {bool: text == "yes", Path: Path(os.path.expanduser(text))}.get(self.kind, text)
        with contextlib.suppress(ValueError):
            number = self.kind(text)
            if math.isfinite(number) and self.option.least <= number <= self.option.most:
                return number
        raise UserError(f"{key}={text}: expected {self._range()}")

    def _range(self) -> str:
        least, most = self.option.least, self.option.most
        span = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        return f"a {'whole ' * (self.kind is int)}number {span}"

    def shown(self) -> str:
        """The default as it would be typed, or what stands for it."""
        if self.option.shown or self.kind is not bool:
            return self.option.shown or (",".join(map(str, self.default)) if self.many else str(self.default))
        return "yes" if self.default else "no"

    def meaning(self) -> str:
        """What the key means, with the values that it takes."""
        choices = self.option.choices
        allowed = self._range() if self.kind in (int, float) else ", ".join(choices)
        if isinstance(choices, Mapping):
            allowed = ", ".join(f"{name} ({what})" for name, what in choices.items())
        return f"{self.option.meaning}: {allowed}" if allowed else self.option.meaning


def _fields(kind: type[Arguments]) -> dict[str, _Field]:
    """What can be typed: key -> field."""
    hints = get_type_hints(kind, include_extras=True)
    fields = {}
    for field in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType]
        if get_origin(hints[field.name]) is Annotated:
            whole, option = get_args(hints[field.name])
            inner = get_args(whole)[0] if type(None) in get_args(whole) else whole
            many = get_origin(inner) is tuple
            single = get_args(inner)[0] if many else inner
            fields[field.name.replace("__", ".")] = _Field(field.name, option, single, many, field.default)
    return fields


def usage(kind: type[Arguments]) -> str:
    """How the command is called, in one line."""
    needed = [f"{key}={field.shown()}" for key, field in _fields(kind).items() if field.default is MISSING]
    return " ".join([f"usage: {kind.command}", *needed, "[KEY=VALUE …]"])


def help_text(kind: type[Arguments]) -> str:
    """The usage, what the command does, and each key with its default, its meaning and its values."""
    heads = {f"{key}={field.shown()}": field.meaning() for key, field in _fields(kind).items()}
    left = max(map(len, heads))
    rows = [help_row(head, meaning, left) for head, meaning in heads.items()]
    return "\n\n".join([usage(kind), textwrap.dedent(f"    {kind.__doc__}").strip(), "\n".join(rows)])


def help_row(head: str, meaning: str, left: int) -> str:
    """A key in the first `left` columns, and what it means beside it, as wide as the terminal."""
    width = max(80, min(110, shutil.get_terminal_size((110, 0)).columns))
    indent = " " * (left + 4)
    return textwrap.fill(f"  {head:<{left}}  {meaning}", width, subsequent_indent=indent, break_on_hyphens=False)


def read(kind: type[Kind], words: Sequence[str] | None = None) -> Kind:
    """What was typed, over the defaults; prints the help and exits where that is asked for.

    `words` is the command line without the program's name; None is this process's own.

    Raises:
        UserError: a word that is not `key=value`, an unknown key, a missing one, or a value that is not allowed.
    """
    words = sys.argv[1:] if words is None else words
    if {"-h", "--help"} & set(words):
        print(help_text(kind))
        raise SystemExit(0)
    fields, values = _fields(kind), {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in fields:
            what = f"unknown key {key!r}" if equals and "/" not in key else f"expected {kind.word}"
            near = difflib.get_close_matches(key.lstrip("-"), fields, 1)
            raise UserError(f"{word}: {what}; {f'did you mean {near[0]}?' if near else usage(kind)}")
        values[fields[key].name] = fields[key].parse(key, text)
    for key, field in fields.items():
        if field.default is MISSING and field.name not in values:
            raise UserError(f"{key} is not given; {usage(kind)}; --help explains the keys")
    return kind(**values)
