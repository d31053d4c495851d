"""`key=value` words of the commands that do without Hydra: any path works as it is typed."""

import difflib
from collections.abc import Mapping, Sequence

from slr.core.errors import UserError


def parse(words: Sequence[str], defaults: Mapping[str, str | None], usage: str) -> dict[str, str]:
    """What was typed over what is assumed.

    Args:
        words: the command line without the program's name.
        defaults: key -> value, or None where one must be typed.
        usage: one line that shows the command.

    Raises:
        UserError: a word without `=`, an unknown key, or a key that must be typed and is not.

    >>> parse(["run=outputs/a=1, b"], {"run": None, "part": "test"}, "evaluate.py run=FOLDER")
    {'run': 'outputs/a=1, b', 'part': 'test'}
    """
    values = dict(defaults)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word}: expected key=value; usage: {usage}")
        if key not in defaults:
            near = difflib.get_close_matches(key, defaults, 1)
            raise UserError(f"{word}: unknown key {key!r}; {f'did you mean {near[0]}?' if near else f'usage: {usage}'}")
        values[key] = value
    missing = [key for key, value in values.items() if value is None]
    if missing:
        raise UserError(f"{missing[0]} is not given; usage: {usage}")
    return {key: value for key, value in values.items() if value is not None}


def whole_number(key: str, value: str, least: int) -> int:
    """The number that `value` spells.

    Raises:
        UserError: it spells none, or one below `least`.
    """
    if not value.isdecimal() or int(value) < least:
        raise UserError(f"{key}={value}: expected a whole number of at least {least}")
    return int(value)


def share(key: str, value: str) -> float:
    """The number from 0 to 1 that `value` spells.

    Raises:
        UserError: it spells none.
    """
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise UserError(f"{key}={value}: expected a number from 0 to 1")
    return number
