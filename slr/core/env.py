"""The settings of the hub in a file `.env` of the project's folder: read when a command starts, never written."""

import os
from pathlib import Path

from slr.core.errors import UserError

QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1"}  # Ray's telemetry is switched off where Ray starts
NAMES = ("HF_TOKEN", "HF_HOME", "HF_HUB_OFFLINE")  # other names in the file are not ours
PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (PACKAGE / "conf").is_dir()  # from a wheel, which has conf/ inside; a clone has it beside the package
CONF = PACKAGE / "conf" if INSTALLED else PACKAGE.parent / "conf"
PROJECT = Path.cwd() if INSTALLED else PACKAGE.parent  # the folder that data/ and outputs/ lie in
TRAIN = PACKAGE / "programs" / "train.py" if INSTALLED else PROJECT / "train.py"  # what a sweep starts for each job


def command(name: str, words: str) -> str:
    """What a person types for a command: `slr NAME WORDS`, behind `uv run` where uv has started this one."""
    return f"{'uv run ' if 'UV_RUN_RECURSION_DEPTH' in os.environ else ''}slr {name} {words}"


def begin(folder: Path = PROJECT) -> None:
    """What a command does first: set `QUIET`, and `NAMES` from `folder`/.env, unless the environment has them already.

    Call it before huggingface_hub is imported, which reads them once. Lines are NAME=VALUE, perhaps with `export`,
    perhaps quoted; `#` begins a comment. (python-dotenv would expand variables too, which no token needs.)

    Raises:
        UserError: the file cannot be read, or one of `NAMES` has no value. No message contains a value.
    """
    os.environ |= QUIET | os.environ
    file = folder / ".env"
    if not file.is_file():
        return
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: expected lines of NAME=VALUE, found a file that cannot be read; repair it") from error
    for number, line in enumerate(lines, 1):
        name, _, value = line.strip().removeprefix("export ").partition("=")
        name, value = name.strip(), value.strip().strip("'\"")
        if name in NAMES and not value:
            raise UserError(f"{file}, line {number}: expected {name}=VALUE, found no value; add it, or remove the line")
        if name in NAMES:
            os.environ.setdefault(name, value)
