"""The typed configuration: which keys exist, of which type, and which values make sense.

Dataclasses only, without defaults: every default lives in `conf/`. A value that cannot be is refused in `__post_init__`
with one line that names the key, the value and what is allowed.
"""

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slr.core import units
from slr.core.errors import UserError

Path_ = str  # a field of this type holds a path: typed as it is in the shell, made absolute before it is read
PATH_KEYS = ("outputs", "data", "init", "dataset.clips", "dataset.labels", "dataset.index", "model.checkpoint")


def at_least(key: str, value: float, least: float) -> None:
    """Refuse `value` below `least`."""
    if not value >= least:
        raise UserError(f"{key}={value}: expected at least {least}")


def between(key: str, value: float, low: float, high: float) -> None:
    """Refuse `value` outside [low, high)."""
    if not low <= value < high:
        raise UserError(f"{key}={value}: expected at least {low} and less than {high}")


def folder_name(key: str, value: str) -> None:
    """Refuse a name that is no plain folder's."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", value):
        raise UserError(f"{key}={value}: expected a folder name of letters, digits, '.', '_' and '-'")


def one_of(key: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse `value` that is not among `allowed`."""
    if value not in allowed:
        raise UserError(f"{key}={value}: expected one of {', '.join(map(str, allowed))}")


DEVICES = ("cpu", "cuda", "directml", "mps")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true")


@dataclass
class Hardware:
    """What the machine gives. `None` means: as the kind that `device: auto` picks says."""

    device: str  # auto, or a kind: cuda, mps, directml, cpu
    precision: str | None  # auto: of CUDA bf16-mixed where the card has bf16, else 16-mixed; of others 32-true
    tf32: bool | None  # matrix products in TensorFloat-32
    four_bit: bool | None  # whether NF4 runs here, and is not ruled out by how the run began
    workers: int | None  # processes that decode clips
    frames_at_once: int | None  # frames of clips that are ranked together
    memory: str | None  # what a run may use, such as 8GB; null: what is free when it starts
    micro_batch: int | None  # clips of a training step that are computed together; null: as many as fit

    def __post_init__(self) -> None:
        """Check the ranges."""
        one_of("hardware.device", self.device, ("auto", *DEVICES))
        one_of("hardware.precision", self.precision, (None, *PRECISIONS))
        if self.workers is not None:
            at_least("hardware.workers", self.workers, 0)
        if self.frames_at_once is not None:
            at_least("hardware.frames_at_once", self.frames_at_once, 1)
        if self.memory is not None:
            units.parse_bytes(self.memory)
        if self.micro_batch is not None:
            at_least("hardware.micro_batch", self.micro_batch, 1)


@dataclass
class Wlasl:
    """`dataset=wlasl`: WLASL, from a folder of `<video_id>.mp4` or from the network."""

    name: str
    index: Path_ | None  # or an address; null: where WLASL's authors publish it
    index_hash: str | None  # SHA-256 or git blob SHA-1; null: an index from the network must be v0.3 as published
    clips: Path_ | None
    subset: str  # its first 100, 300, 1000 or 2000 glosses, or those of the core glossary
    local: str  # cut: files of `clips` hold one sign each; source: the index's ranges are still to be cut out
    crop: float | None  # keep the signer's box, with this margin on each side as a share of the box
    fetch: bool | None  # ask the network for what `clips` lacks; null: only where there is no `clips`
    per_host: int  # requests to one host at a time
    pause: float  # seconds between two requests to one host
    largest: int  # MiB of one download
    private_addresses: bool  # fetch from inside one's own network too

    def __post_init__(self) -> None:
        """Check the name and the ranges."""
        one_of("dataset.name", self.name, ("wlasl",))
        one_of("dataset.subset", self.subset, ("100", "300", "1000", "2000", "core"))
        one_of("dataset.local", self.local, ("cut", "source"))
        if self.crop is not None:
            between("dataset.crop", self.crop, 0, 2)
        at_least("dataset.per_host", self.per_host, 1)
        at_least("dataset.pause", self.pause, 0)
        at_least("dataset.largest", self.largest, 1)
        if self.index_hash is not None and not re.fullmatch("[0-9a-fA-F]{40}([0-9a-fA-F]{24})?", self.index_hash):
            raise UserError(f"dataset.index_hash={self.index_hash}: expected a SHA-256 or a git blob SHA-1")

    @property
    def place(self) -> str:
        """Where its prepared clips lie, relative to `data`: a folder of its own for each subset."""
        return f"wlasl/{self.subset}"


LAYOUTS = ("labels", "asl_citizen", "autsl", "lsa64", "include", "ms_asl")


@dataclass
class Folder:
    """`dataset=folder`: any clips and a list of labels, or a published data set as it unpacks."""

    name: str
    layout: str  # labels: a list of the user's own; else the data set's
    clips: Path_
    labels: Path_ | None  # of a published data set the place of its lists; null: where the data set has them

    def __post_init__(self) -> None:
        """Check the name, the layout, and that there are labels where they are needed."""
        one_of("dataset.name", self.name, ("folder",))
        one_of("dataset.layout", self.layout, LAYOUTS)
        if self.layout == "labels" and not self.labels:
            raise UserError("dataset.labels is not given; add dataset.labels=FILE, or the dataset.layout of clips")

    @property
    def place(self) -> str:
        """Where its prepared clips lie, relative to `data`: a folder of its own for each pair of clips and labels."""
        what = [self.clips, self.labels] if self.layout == "labels" else [self.layout, self.clips, self.labels]
        return f"folder/{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]}"


@dataclass
class Synthetic:
    """`dataset=synthetic`: drawn signers."""

    name: str
    signs: int  # glosses; even, since signs come in pairs
    signers: int
    takes: int  # clips per signer and gloss
    size: int  # pixels, square
    seed: int

    def __post_init__(self) -> None:
        """Check the name and the ranges."""
        one_of("dataset.name", self.name, ("synthetic",))
        between("dataset.signs", self.signs, 2, 289)
        between("dataset.signers", self.signers, 1, 10_001)
        between("dataset.takes", self.takes, 1, 101)
        between("dataset.size", self.size, 64, 513)
        between("dataset.seed", self.seed, 0, 2**31)

    @property
    def place(self) -> str:
        """Where its prepared clips lie, relative to `data`: a folder of its own for each set of parameters."""
        return f"synthetic/{self.signs}x{self.signers}x{self.takes}-{self.size}px-seed{self.seed}"


@dataclass
class Split:
    """How clips are divided into train, val and test."""

    rule: str
    seed: int
    train: float  # shares; together 1
    val: float
    test: float
    coverage: float  # of `signer`: share of the glosses that train and test must both have
    drop_leaks: bool  # of `official`: leave train and val clips out that show the recording of a val or test clip

    def __post_init__(self) -> None:
        """Check the ranges."""
        one_of("split.rule", self.rule, ("stratified", "signer", "official"))
        at_least("split.seed", self.seed, 0)
        if not 0 <= self.coverage <= 1:
            raise UserError(f"split.coverage={self.coverage}: expected at least 0 and at most 1")
        for part in ("train", "val", "test"):
            if not 0 < getattr(self, part) < 1:
                raise UserError(f"split.{part}={getattr(self, part)}: expected more than 0 and less than 1")
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise UserError(f"split.train + split.val + split.test = {self.train + self.val + self.test:g}: expected 1")


@dataclass
class Model:
    """Which vision-language model, and the question put to it."""

    name: str
    checkpoint: str  # `tiny`, a folder, or a name on the hub
    revision: str | None  # of a hub name: a branch, a tag or a commit
    commit: str | None  # what the revision was when the run began, which writes it here; goes before the revision
    weights: str
    quantization: str
    prompt: str

    def __post_init__(self) -> None:
        """Check the ranges."""
        folder_name("model.name", self.name)
        one_of("model.weights", self.weights, ("pretrained", "random"))
        one_of("model.quantization", self.quantization, ("auto", "nf4", "none"))
        if not self.prompt.strip():
            raise UserError("model.prompt is empty: expected a question for the model")

    @property
    def version(self) -> str | None:
        """Which version of a hub name: the commit where it is known, so that a branch that moves changes no run."""
        return self.commit or self.revision


@dataclass
class Lora:
    """Which layers the adapter touches, and how wide it is."""

    scope: str
    targets: list[str]
    r: int
    alpha: int
    dropout: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        one_of("lora.scope", self.scope, ("language", "full", "none"))
        at_least("lora.r", self.r, 1)
        at_least("lora.alpha", self.alpha, 1)
        between("lora.dropout", self.dropout, 0, 1)


@dataclass
class Objective:
    """The training loss."""

    name: str
    label_smoothing: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        one_of("objective.name", self.name, ("token", "closed_set"))
        between("objective.label_smoothing", self.label_smoothing, 0, 1)


@dataclass
class Cache:
    """What is computed once and kept, under `data`."""

    name: str
    views: int  # random samplings of a training clip that are kept; an epoch sees one of them
    format: str  # of `frames`: jpeg, or raw
    dtype: str  # of `features`: float32, bf16, or int8 with a scale for each token

    def __post_init__(self) -> None:
        """Check the ranges."""
        one_of("cache.name", self.name, ("none", "frames", "features"))
        at_least("cache.views", self.views, 1)
        one_of("cache.format", self.format, ("jpeg", "raw"))
        one_of("cache.dtype", self.dtype, ("float32", "bf16", "int8"))


@dataclass
class Jitter:
    """Strengths of the colour jitter, one draw per clip: factors in [1-x, 1+x], hue in turns of the wheel."""

    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("brightness", "contrast", "saturation"):
            between(f"jitter.{name}", getattr(self, name), 0, 1)
        between("jitter.hue", self.hue, 0, 0.5)


@dataclass
class Optimizer:
    """AdamW, with a cosine schedule after a linear warm-up."""

    lr: float
    weight_decay: float
    warmup_steps: int
    clip_norm: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.lr > 0:
            raise UserError(f"optimizer.lr={self.lr}: expected more than 0")
        at_least("optimizer.weight_decay", self.weight_decay, 0)
        at_least("optimizer.warmup_steps", self.warmup_steps, 0)
        if not self.clip_norm > 0:
            raise UserError(f"optimizer.clip_norm={self.clip_norm}: expected more than 0 (inf clips nothing)")


MONITORS = ("val/loss", "val/top1", "val/top5", "val/mrr", "val/top1_per_class", "val/top5_per_class")


@dataclass
class EarlyStopping:
    """When to give up before the last epoch."""

    monitor: str
    patience: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        one_of("early_stopping.monitor", self.monitor, MONITORS)
        at_least("early_stopping.patience", self.patience, 1)


@dataclass
class Checkpoint:
    """Which epoch is the best one, and what of a training is saved."""

    monitor: str
    every: float  # minutes between two saved states, at most
    keep: str  # of a finished run: both the best and the last state, or the best alone

    def __post_init__(self) -> None:
        """Check the ranges."""
        one_of("checkpoint.monitor", self.monitor, MONITORS)
        at_least("checkpoint.every", self.every, 0)
        one_of("checkpoint.keep", self.keep, ("both", "best"))


@dataclass
class Trainer:
    """Processes."""

    name: str  # single, or ddp: several that share the clips of every step
    devices: int  # processes; each has a card of its own, or its part of the processors

    def __post_init__(self) -> None:
        """Check the ranges."""
        one_of("trainer.name", self.name, ("single", "ddp"))
        at_least("trainer.devices", self.devices, 1)
        if self.name == "single" and self.devices > 1:
            raise UserError(f"trainer.devices={self.devices}: expected 1 of trainer=single; use trainer=ddp")


@dataclass
class Config:
    """One run. Field by field the page `conf/train.yaml`."""

    seed: int
    outputs: Path_
    data: Path_
    sweep: str | None  # the folder of a sweep's runs
    frames: int
    sampling: str
    jitter: Jitter
    batch: int
    epochs: int
    init: Path_ | None  # an earlier run, whose adapter this one begins with
    gradient_checkpointing: bool
    optimizer: Optimizer
    early_stopping: EarlyStopping
    checkpoint: Checkpoint
    hardware: Hardware
    dataset: Any  # Wlasl, Folder or Synthetic: each option file names its own
    split: Split
    limit_train: int | None  # clips of a gloss that train, at most
    model: Model
    lora: Lora
    objective: Objective
    cache: Cache
    trainer: Trainer

    def __post_init__(self) -> None:
        """Check the ranges."""
        between("seed", self.seed, 0, 2**32)
        at_least("frames", self.frames, 1)
        one_of("sampling", self.sampling, ("uniform", "segment"))
        at_least("batch", self.batch, 1)
        at_least("epochs", self.epochs, 1)
        if self.limit_train is not None:
            at_least("limit_train", self.limit_train, 1)
        if self.sweep is not None:
            folder_name("sweep", self.sweep)
        if self.lora.scope == "full" and self.model.quantization == "nf4":
            raise UserError("model.quantization=nf4: 4-bit weights cannot learn; with lora=full use auto or none")
        for key in ("outputs", "data"):
            if not getattr(self, key):
                raise UserError(f"{key} is empty: expected a folder")


Dataset = Wlasl | Folder | Synthetic
DATASETS: dict[str, type] = {"wlasl": Wlasl, "folder": Folder, "synthetic": Synthetic}


def fields(kind: type) -> dict[str, Any]:
    """Field names of a schema class and their types, without `| None`."""
    hints = typing.get_type_hints(kind)
    return {field.name: _required(hints[field.name]) for field in dataclasses.fields(kind)}


def _required(hint: object) -> object:
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def to_plain(config: Config) -> dict[str, Any]:
    """The configuration as nested dictionaries of plain values, ready for JSON."""
    return dataclasses.asdict(config)


# What decides no number of a run: the machine, the places of files, what is kept of it; and what nobody types.
ASIDE = ("hardware", "trainer", "outputs", "data", "sweep", "checkpoint.every", "checkpoint.keep", "model.commit")


def identity(config: Config) -> dict[str, Any]:
    """What of a configuration decides a run's numbers: `key` or `group.key` -> value."""
    rows: dict[str, Any] = {}
    for key, value in to_plain(config).items():
        inner = {f"{key}.{name}": part for name, part in value.items()} if isinstance(value, dict) else {key: value}
        rows |= {name: part for name, part in inner.items() if key not in ASIDE and name not in ASIDE}
    return rows


def differences(one: Config, other: Config) -> list[str]:
    """Where two configurations would give different numbers, as `key: this -> that`."""
    before, after = identity(one), identity(other)
    keys = [*before, *(key for key in after if key not in before)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def from_plain(plain: dict[str, Any], source: Path) -> Config:
    """The configuration that `to_plain` wrote.

    Args:
        plain: nested dictionaries, as read from `config.json`.
        source: the file they came from, for the error.

    Raises:
        UserError: a key is missing or unknown, or a value cannot be.
    """
    try:
        dataset = DATASETS[plain["dataset"]["name"]]
        return _build(Config, plain, {"dataset": dataset})
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


def _build(kind: type, plain: dict[str, Any], chosen: dict[str, type]) -> Any:  # noqa: ANN401
    parts = fields(kind) | chosen
    plain = LATER.get(kind.__name__, {}) | plain
    if differing := sorted(parts.keys() ^ plain.keys()):
        raise TypeError(f"it differs by the keys {', '.join(differing)} of {kind.__name__.lower()}")
    values = {
        name: _build(parts[name], value, {}) if dataclasses.is_dataclass(parts[name]) else value
        for name, value in plain.items()
    }
    return kind(**values)
