"""The typed configuration: which keys exist, of which type, and which values are allowed.

Dataclasses only, without defaults: a key's default and what it means stand in `conf/`. A field is annotated with what
its value may be.
"""

import dataclasses
import hashlib
import json
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from slr.core import units
from slr.core.errors import UserError
from slr.core.run_folder import flat

Path_ = str  # a field of this type holds a path: typed as it is in the shell, made absolute before it is read
PATH_KEYS = ("outputs", "data", "init", "dataset.clips", "dataset.labels", "dataset.index", "model.checkpoint")


@dataclass(frozen=True)
class Rule:
    """What a value may be: as a function, and in words."""

    holds: Callable[[Any], object]  # something true
    words: str

    def check(self, key: str, value: object) -> None:
        """Refuse a value that is not allowed, with a `UserError`."""
        if not self.holds(value):
            raise UserError(f"{key}={value}: expected {self.words}")


def at_least(low: float) -> Rule:
    """A number of `low` or more."""
    return Rule(lambda value: value >= low, f"at least {low}")


def between(low: float, high: float) -> Rule:
    """A number in [low, high)."""
    return Rule(lambda value: low <= value < high, f"at least {low} and less than {high}")


def one_of(*allowed: str) -> Rule:
    """One of some words."""
    return Rule(lambda value: value in allowed, f"one of {', '.join(allowed)}")


POSITIVE = Rule(lambda value: value > 0, "more than 0")
SHARE = Rule(lambda value: 0 < value < 1, "more than 0 and less than 1")
FOLDER_NAME = Rule(
    re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}").fullmatch, "a folder name of letters, digits, '.', '_' and '-'"
)
FOLDER = Rule(bool, "a folder")
SIZE = Rule(units.parse_bytes, "a size such as 8GB or 7.5GiB")
HASH = Rule(re.compile("[0-9a-fA-F]{40}([0-9a-fA-F]{24})?").fullmatch, "a SHA-256 or git SHA-1")


class Checked:
    """A dataclass that refuses values which its fields' rules do not allow; its keys begin with `group`."""

    group: ClassVar[str] = ""

    def __init_subclass__(cls, group: str = "") -> None:
        cls.group = f"{group}." if group else ""

    def __post_init__(self) -> None:
        optional = typing.get_type_hints(type(self))
        for name, rule in rules(type(self)).items():
            value = getattr(self, name)
            if value is not None or type(None) not in typing.get_args(optional[name]):
                rule.check(self.group + name, value)


def rules(kind: type) -> dict[str, Rule]:
    """The rules of a schema class's fields, of those that have one."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


DEVICES = ("cpu", "cuda", "directml", "mps")


@dataclass
class Hardware(Checked, group="hardware"):
    """What the machine gives. `None` means: as the kind that `device: auto` picks says."""

    device: Annotated[str, one_of("auto", *DEVICES)]
    precision: Annotated[str | None, one_of("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true")]
    tf32: bool | None
    four_bit: bool | None
    workers: Annotated[int | None, at_least(0)]
    frames_at_once: Annotated[int | None, at_least(1)]
    memory: Annotated[str | None, SIZE]
    micro_batch: Annotated[int | None, at_least(1)]


@dataclass
class Wlasl(Checked, group="dataset"):
    """`dataset=wlasl`: WLASL, from a folder of `<video_id>.mp4` or from the network."""

    name: Annotated[str, one_of("wlasl")]
    index: Path_ | None
    index_hash: Annotated[str | None, HASH]
    clips: Path_ | None
    subset: Annotated[str, one_of("100", "300", "1000", "2000", "core")]
    local: Annotated[str, one_of("cut", "source")]
    crop: Annotated[float | None, between(0, 2)]
    fetch: bool | None
    per_host: Annotated[int, at_least(1)]
    pause: Annotated[float, at_least(0)]
    largest: Annotated[int, at_least(1)]
    private_addresses: bool

    @property
    def place(self) -> str:
        """Where its prepared clips lie, relative to `data`: a folder of its own for each subset."""
        return f"wlasl/{self.subset}"


LAYOUTS = ("labels", "asl_citizen", "autsl", "lsa64", "include", "ms_asl")


@dataclass
class Folder(Checked, group="dataset"):
    """`dataset=folder`: any clips and a list of labels, or a published data set as it unpacks."""

    name: Annotated[str, one_of("folder")]
    layout: Annotated[str, one_of(*LAYOUTS)]
    clips: Path_
    labels: Path_ | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout == "labels" and not self.labels:
            raise UserError("dataset.labels is not given; add dataset.labels=FILE, or the dataset.layout of clips")

    @property
    def place(self) -> str:
        """Where its prepared clips lie, relative to `data`: a folder of its own for each pair of clips and labels."""
        what = [self.clips, self.labels] if self.layout == "labels" else [self.layout, self.clips, self.labels]
        return f"folder/{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]}"


@dataclass
class Synthetic(Checked, group="dataset"):
    """`dataset=synthetic`: drawn signers."""

    name: Annotated[str, one_of("synthetic")]
    signs: Annotated[int, between(2, 289)]  # glosses; even, since signs come in pairs
    signers: Annotated[int, between(1, 10_001)]
    takes: Annotated[int, between(1, 101)]  # clips per signer and gloss
    size: Annotated[int, between(64, 513)]  # pixels, square
    seed: Annotated[int, between(0, 2**31)]

    @property
    def place(self) -> str:
        """Where its prepared clips lie, relative to `data`: a folder of its own for each set of parameters."""
        return f"synthetic/{self.signs}x{self.signers}x{self.takes}-{self.size}px-seed{self.seed}"


@dataclass
class Split(Checked, group="split"):
    """How clips are divided into train, val and test."""

    rule: Annotated[str, one_of("stratified", "signer", "official")]
    seed: Annotated[int, at_least(0)]
    train: Annotated[float, SHARE]
    val: Annotated[float, SHARE]
    test: Annotated[float, SHARE]
    coverage: Annotated[float, Rule(lambda value: 0 <= value <= 1, "at least 0 and at most 1")]
    drop_leaks: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise UserError(f"split.train + split.val + split.test = {self.train + self.val + self.test:g}: expected 1")


@dataclass
class Model(Checked, group="model"):
    """Which vision-language model, and the question put to it."""

    name: Annotated[str, FOLDER_NAME]
    checkpoint: str
    revision: str | None
    commit: str | None  # what the revision was when the run began, which writes it here; goes before the revision
    weights: Annotated[str, one_of("pretrained", "random")]
    quantization: Annotated[str, one_of("auto", "nf4", "none")]
    prompt: Annotated[str, Rule(lambda value: bool(value.strip()), "a question for the model")]

    @property
    def version(self) -> str | None:
        """Which version of a hub name: the commit where it is known, so that a branch that moves changes no run."""
        return self.commit or self.revision


@dataclass
class Lora(Checked, group="lora"):
    """Which layers the adapter touches, and how wide it is."""

    scope: Annotated[str, one_of("language", "full", "none")]
    targets: list[str]
    r: Annotated[int, at_least(1)]
    alpha: Annotated[int, at_least(1)]
    dropout: Annotated[float, between(0, 1)]


@dataclass
class Objective(Checked, group="objective"):
    """The training loss."""

    name: Annotated[str, one_of("token", "closed_set")]
    label_smoothing: Annotated[float, between(0, 1)]


@dataclass
class Cache(Checked, group="cache"):
    """What is computed once and kept, under `data`."""

    name: Annotated[str, one_of("none", "frames", "features")]
    views: Annotated[int, at_least(1)]
    format: Annotated[str, one_of("jpeg", "raw")]
    dtype: Annotated[str, one_of("float32", "bf16", "int8")]


@dataclass
class Jitter(Checked, group="jitter"):
    """Strengths of the colour jitter, one draw per clip: factors in [1-x, 1+x], hue in turns of the wheel."""

    brightness: Annotated[float, between(0, 1)]
    contrast: Annotated[float, between(0, 1)]
    saturation: Annotated[float, between(0, 1)]
    hue: Annotated[float, between(0, 0.5)]


@dataclass
class Optimizer(Checked, group="optimizer"):
    """AdamW, with a cosine schedule after a linear warm-up."""

    lr: Annotated[float, POSITIVE]
    weight_decay: Annotated[float, at_least(0)]
    warmup_steps: Annotated[int, at_least(0)]
    clip_norm: Annotated[float, POSITIVE]


MONITOR = one_of("val/loss", "val/top1", "val/top5", "val/mrr", "val/top1_per_class", "val/top5_per_class")


@dataclass
class EarlyStopping(Checked, group="early_stopping"):
    """When to stop before the last epoch."""

    monitor: Annotated[str, MONITOR]
    patience: Annotated[int, at_least(1)]


@dataclass
class Checkpoint(Checked, group="checkpoint"):
    """Which epoch is the best one, and what of a training is saved."""

    monitor: Annotated[str, MONITOR]
    every: Annotated[float, at_least(0)]
    keep: Annotated[str, one_of("both", "best")]


@dataclass
class Trainer(Checked, group="trainer"):
    """Processes."""

    name: Annotated[str, one_of("single", "ddp")]
    devices: Annotated[int, at_least(1)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "single" and self.devices > 1:
            raise UserError(f"trainer.devices={self.devices}: expected 1 of trainer=single; use trainer=ddp")


@dataclass
class Config(Checked):
    """One run. Field by field the page `conf/train.yaml`, which says what each key means."""

    seed: Annotated[int, between(0, 2**32)]
    outputs: Annotated[Path_, FOLDER]
    data: Annotated[Path_, FOLDER]
    sweep: Annotated[str | None, FOLDER_NAME]
    frames: Annotated[int, at_least(1)]
    sampling: Annotated[str, one_of("uniform", "segment")]
    jitter: Jitter
    batch: Annotated[int, at_least(1)]
    epochs: Annotated[int, at_least(1)]
    init: Path_ | None
    gradient_checkpointing: bool
    optimizer: Optimizer
    early_stopping: EarlyStopping
    checkpoint: Checkpoint
    hardware: Hardware
    dataset: Any  # Wlasl, Folder or Synthetic: each option file names its own
    split: Split
    limit_train: Annotated[int | None, at_least(1)]
    model: Model
    lora: Lora
    objective: Objective
    cache: Cache
    trainer: Trainer

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora.scope == "full" and self.model.quantization == "nf4":
            raise UserError("model.quantization=nf4: 4-bit weights cannot learn; with lora=full use auto or none")


Dataset = Wlasl | Folder | Synthetic
DATASETS: dict[str, type] = {"wlasl": Wlasl, "folder": Folder, "synthetic": Synthetic}


def fields(kind: type) -> dict[str, Any]:
    """Field names of a schema class and their types, without `| None`."""
    hints = typing.get_type_hints(kind)
    return {name: typing.get_args(hints[name] | None)[0] for name in kind.__dataclass_fields__}


def key_types() -> dict[str, type]:
    """Every key that can be typed, of all data sets, with the type of its value."""
    found = fields(Config)
    for name, part in fields(Config).items():
        for group in DATASETS.values() if part is Any else [part] * dataclasses.is_dataclass(part):
            found |= {f"{name}.{key}": kind for key, kind in fields(group).items()}
    return found


def to_plain(config: Config) -> dict[str, Any]:
    """The configuration as nested dictionaries of plain values, ready for JSON."""
    return dataclasses.asdict(config)


# What decides no number of a run: the machine, the places of files, what is kept of it; and what cannot be typed.
ASIDE = ("hardware", "trainer", "outputs", "data", "sweep", "checkpoint.every", "checkpoint.keep", "model.commit")


def identity(config: Config | dict[str, Any], apart: Sequence[str] = ()) -> dict[str, Any]:
    """What of a configuration decides a run's numbers, without the keys `apart`: `key` or `group.key` -> value."""
    rows, aside = flat(to_plain(config) if isinstance(config, Config) else config), {*ASIDE, *apart}
    return {key: value for key, value in rows.items() if aside.isdisjoint((key, key.partition(".")[0]))}


def differences(one: Config, other: Config) -> list[str]:
    """Where two configurations would give different numbers, as `key: this -> that`."""
    before, after = identity(one), identity(other)
    return [f"{k}: {before.get(k)} -> {after.get(k)}" for k in before | after if before.get(k) != after.get(k)]


def from_plain(plain: dict[str, Any], source: Path) -> Config:
    """The configuration that `to_plain` wrote to the file `source`.

    Raises:
        UserError: a key is missing or unknown, or a value is not allowed.
    """
    try:
        return _build(Config, plain)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source} is not the configuration of a run of this version of slr: {error}") from error


# Keys that runs of earlier versions lack, and what those did.
LATER: dict[str, dict[str, Any]] = {
    "Config": {"init": None, "limit_train": None},
    "Folder": {"layout": "labels"},
    "Model": {"commit": None},
}
# What those did not record: the SHA-256 of the packaged model's weights, which were the same for all of them.
TINY_BASE = "d36dc1cf5bfe49ea18b781013b3c32b20539889122c2a0d9a7cd82e534337caf"


def _build(kind: type, plain: dict[str, Any]) -> Any:  # noqa: ANN401
    parts = fields(kind) | ({"dataset": DATASETS[plain["dataset"]["name"]]} if kind is Config else {})
    plain = LATER.get(kind.__name__, {}) | plain
    if differing := sorted(parts.keys() ^ plain.keys()):
        raise TypeError(f"it differs by the keys {', '.join(differing)} of {kind.__name__.lower()}")
    return kind(**{k: _build(parts[k], v) if dataclasses.is_dataclass(parts[k]) else v for k, v in plain.items()})
