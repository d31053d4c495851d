"""The exception whose text is for users, and printing it."""

import sys
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


class UserError(Exception):
    """A mistake that the user can fix: one line with what was expected, what was found and what to do.

    Entry points print it without a traceback and exit with 2.
    """


def explained(main: Callable[[], Value]) -> Value:
    """What `main` returns; a `UserError` becomes one line on standard error and exit code 2."""
    try:
        return main()
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def one_line(error: UserError) -> str:
    """The error's text in one line, without the traceback in which torch wraps an error of a loader's worker."""
    return " ".join(str(error).rpartition("slr.core.errors.UserError: ")[2].split())
