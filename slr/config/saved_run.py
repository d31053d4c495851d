"""The configuration of a run that lies in a folder."""

from pathlib import Path

from slr.config import schema
from slr.core.errors import UserError
from slr.core.files import read_json
from slr.core.run_folder import RunFolder


def find_run(path: Path, *needed: str) -> tuple[RunFolder, schema.Config]:
    """The folder of a run that has begun, or is laid out to begin, and its configuration.

    Raises:
        UserError: there is no config.json in it, or none of the files `needed`.
    """
    folder = RunFolder(path.expanduser().absolute())
    for name in ("config.json", *needed):
        if not (folder.root / name).is_file():
            raise UserError(f"expected the folder of a run at {path}, found no {name} in it; runs lie under outputs/")
    return folder, schema.from_plain(read_json(folder.config), folder.config)


def open_run(path: Path) -> tuple[RunFolder, schema.Config, list[str]]:
    """A run's folder, configuration and vocabulary.

    Raises:
        UserError: `path` is no folder of a run that has begun.
    """
    folder, config = find_run(path, "vocabulary.json", "split.json")
    return folder, config, read_json(folder.vocabulary)
