"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: one line that says what was expected, what was found and what to do.

    Entry points print it without a traceback and exit with 2.
    """
