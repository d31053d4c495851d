"""The folder of an exported recognizer: what lies in it, how it is told and read. Knows no torch.

Beside what PEFT or transformers read, `slr.json` says what it names, and how its clips are prepared and sampled.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slr.config import schema
from slr.core.errors import UserError
from slr.core.files import read_json, write_json

FORMAT = 1
TOLD = "slr.json"
KINDS = ("adapter", "merged")


@dataclass(frozen=True)
class Exported:
    """An exported recognizer.

    Attributes:
        root: its folder.
        kind: `adapter`, which needs the base model, or `merged`, which needs nothing.
        config: of the run, without its paths, with the number format that it is to compute in.
        vocabulary: the K ordered glosses.
        hashes: what the run stands on, its base model (`base`) among it.
    """

    root: Path
    kind: str
    config: schema.Config
    vocabulary: list[str]
    hashes: dict[str, str]

    @property
    def processor(self) -> Path:
        """Tokenizer, frame size and colours: among the merged weights, where transformers looks for them."""
        return self.root / "processor" if self.kind == "adapter" else self.root

    @property
    def adapter(self) -> Path:
        """PEFT's file."""
        return self.root / "adapter_model.safetensors"

    @property
    def calibration(self) -> Path:
        """See `slr.predict.calibration`."""
        return self.root / "calibration.safetensors"


def is_exported(folder: Path) -> bool:
    """Whether a folder is one."""
    return (folder / TOLD).is_file()


def read_exported(folder: Path) -> Exported:
    """What `write_exported` told.

    Raises:
        UserError: it is of another version, or damaged.
    """
    place = folder / TOLD
    told = read_json(place)
    if not isinstance(told, dict) or told.get("format") != FORMAT or told.get("kind") not in KINDS:
        raise UserError(
            f"expected an exported recognizer of format {FORMAT} at {place}, found another; export it again"
        )
    config = schema.from_plain(told["config"], place)
    return Exported(folder, told["kind"], config, list(told["vocabulary"]), dict(told.get("hashes", {})))


def write_exported(exported: Exported, about: dict[str, Any]) -> None:
    """Write `slr.json`, the last file of an export: without it the folder is none.

    Args:
        exported: what is told.
        about: scores and parity, which loading does not read.
    """
    told = {"format": FORMAT, "kind": exported.kind, "config": schema.to_plain(exported.config)}
    told |= {"vocabulary": exported.vocabulary, "hashes": exported.hashes}
    write_json(exported.root / TOLD, told | about)


def without_paths(config: schema.Config) -> schema.Config:
    """A configuration that says nothing of the machine that it comes from."""
    dataset = config.dataset
    for key in (key.partition(".")[2] for key in schema.PATH_KEYS if key.startswith("dataset.")):
        if getattr(dataset, key, None):
            dataset = dataclasses.replace(dataset, **{key: Path(getattr(dataset, key)).name})
    model = config.model
    if Path(model.checkpoint).is_absolute():
        model = dataclasses.replace(model, checkpoint=f"./{Path(model.checkpoint).name}")
    return dataclasses.replace(
        config, dataset=dataset, model=model, outputs="outputs", data="data", sweep=None, init=None
    )
