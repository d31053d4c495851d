"""The configuration of a run that lies in a folder."""

from pathlib import Path

from slr.config import schema
from slr.core.errors import UserError
from slr.core.files import read_json
from slr.core.run_folder import RunFolder


def find_run(path: Path) -> tuple[RunFolder, schema.Config]:
    """A folder of a run that has begun, or is laid out to begin, and its configuration.

    Raises:
        UserError: `path` is none.
    """
    folder = RunFolder(path.expanduser().absolute())
    if not folder.config.is_file():
        raise UserError(f"expected the folder of a run at {path}, found no config.json in it; runs lie under outputs/")
    return folder, schema.from_plain(read_json(folder.config), folder.config)


def open_run(path: Path) -> tuple[RunFolder, schema.Config, list[str]]:
    """A run's folder, configuration and vocabulary.

    Raises:
        UserError: `path` is no folder of a run.
    """
    folder = RunFolder(path.expanduser().absolute())
    for file in (folder.config, folder.vocabulary, folder.split):
        if not file.is_file():
            raise UserError(
                f"run={path}: expected the folder of a run, found no {file.name} in it; runs lie under outputs/"
            )
    return folder, schema.from_plain(read_json(folder.config), folder.config), read_json(folder.vocabulary)
