"""The folder of an exported recognizer: its files, and reading and writing `slr.json`. Imports no torch.

Beside what PEFT or transformers read, `slr.json` holds the vocabulary and the configuration.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slr.config import schema
from slr.core.errors import UserError
from slr.core.files import read_json, write_json

FORMAT = 1
FILE = "slr.json"
KINDS = ("adapter", "merged")


@dataclass(frozen=True)
class Exported:
    """An exported recognizer."""

    root: Path  # its folder
    kind: str  # `adapter`, which needs the base model, or `merged`, which needs nothing
    config: schema.Config  # of the run, without its paths, with the number format to compute in
    vocabulary: list[str]  # the K ordered glosses
    hashes: dict[str, str]  # of what the run depends on, also of its base model: `base`

    @property
    def processor(self) -> Path:
        """Folder of tokenizer, frame size and colours: that of merged weights, where transformers looks for them."""
        return self.root / "processor" if self.kind == "adapter" else self.root


def is_exported(folder: Path) -> bool:
    """Whether a folder holds an export."""
    return (folder / FILE).is_file()


def read_exported(folder: Path) -> Exported:
    """What `write_exported` wrote.

    Raises:
        UserError: it is of another version, or damaged.
    """
    path = folder / FILE
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("kind") not in KINDS:
        raise UserError(f"expected an exported recognizer of format {FORMAT} at {path}, found another; export it again")
    config = schema.from_plain(content["config"], path)
    return Exported(folder, content["kind"], config, list(content["vocabulary"]), dict(content.get("hashes", {})))


def write_exported(exported: Exported, about: dict[str, Any]) -> None:
    """Write `slr.json`, the last file of an export: a folder without it is no export.

    Args:
        exported: what to write.
        about: scores and parity, for people.
    """
    content = {"format": FORMAT, "kind": exported.kind, "config": schema.to_plain(exported.config)}
    write_json(exported.root / FILE, content | {"vocabulary": exported.vocabulary, "hashes": exported.hashes} | about)


def without_paths(config: schema.Config) -> schema.Config:
    """A configuration without the paths of the machine that it comes from."""
    dataset, model = config.dataset, config.model
    for key in (key.partition(".")[2] for key in schema.PATH_KEYS if key.startswith("dataset.")):
        if getattr(dataset, key, None):
            dataset = dataclasses.replace(dataset, **{key: Path(getattr(dataset, key)).name})
    if Path(model.checkpoint).is_absolute():
        model = dataclasses.replace(model, checkpoint=f"./{Path(model.checkpoint).name}")
    return dataclasses.replace(
        config, dataset=dataset, model=model, outputs="outputs", data="data", sweep=None, init=None
    )
