"""`init=`: the adapter of an earlier run that a run begins with. Imports no torch.

It is recorded when the run begins, since the earlier run may continue, move or be deleted.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from slr import factory
from slr.config import provenance, schema
from slr.config.saved_run import find_run
from slr.core.errors import UserError
from slr.core.files import read_json, sha256
from slr.core.run_folder import RunFolder, hashes_of
from slr.data.duplicates.groups import marks
from slr.data.manifest import Clip, read_manifest
from slr.data.split import Split, read_split

EXPORTED = "adapter_model.safetensors"  # PEFT's name
RECORD = "init.json"
# Settings that must be equal for an adapter to fit; vocabulary and quantization may differ.
AGREEING = ("model.checkpoint", "model.weights", "lora.scope", "lora.r", "lora.alpha", "lora.targets")


@dataclass(frozen=True)
class Initial:
    """The adapter that a run begins with."""

    run: str  # the earlier run's folder
    file: str  # within it
    sha256: str  # of the file
    seen: dict[str, int] | None  # val and test -> clips that the earlier run trained on; None where its clips are gone

    def describe(self) -> str:
        """One line: where the adapter comes from, and which clips of val and test it was trained on."""
        line = f"begins with the adapter of {self.run} ({self.file}, SHA-256 {self.sha256[:12]})"
        if self.seen is None:
            return f"{line}; its training clips are gone, so how many of them are in val and test is not known"
        known = [f"{count} clips of {part}" for part, count in self.seen.items() if count]
        return f"{line}; it was trained on {' and '.join(known)}, which say nothing of unseen clips" if known else line


def adapter_file(config: schema.Config) -> Path:
    """The earlier run's best checkpoint, or its exported adapter where the checkpoint is gone.

    Raises:
        UserError: `init` is no run, one without an adapter or without a validation yet, or one whose adapter does not
            fit this run's model.
    """
    folder, other = _earlier(config)
    if other.lora.scope != "language":
        raise UserError(f"init={config.init}: expected a run with an adapter, found one of lora={other.lora.scope}")
    before, now = schema.identity(other), schema.identity(config)
    keys = [*AGREEING, *(["seed"] if config.model.weights == "random" else [])]  # which draws those weights
    differing = [f"{key}: {before[key]} there, {now[key]} here" for key in keys if before[key] != now[key]]
    there, here = other.model, config.model
    by_commit = there.commit and here.commit  # a branch may move
    same = there.commit == here.commit if by_commit else here.revision in (there.revision, there.commit)
    if not same:
        differing.append(f"model.revision: {there.version} there, {here.version} here")
    if differing:
        raise UserError(f"init={config.init}: expected a run of the same model and adapter, found {differing[0]}")
    if (folder.checkpoints / "best.ckpt").is_file():
        return folder.checkpoint("best")
    if (folder.adapter / EXPORTED).is_file():
        return folder.adapter / EXPORTED
    raise UserError(
        f"init={config.init}: expected checkpoints/best.ckpt or adapter/{EXPORTED} in it, found neither; let that run "
        "finish an epoch first"
    )


def base_commit(config: schema.Config) -> str | None:
    """The hub's commit of the run's base model, or of the earlier run's; None where neither has one."""
    return config.model.commit or (_earlier(config)[1].model.commit if config.init else None)


def refuse_other_base(config: schema.Config) -> None:
    """Check that the earlier run was trained on the base model that is here.

    Raises:
        UserError: it was trained on another one, or `init` is no run.
    """
    folder, other = _earlier(config)
    model = replace(config.model, commit=base_commit(config))
    found = factory.base_of(replace(config, model=model))
    provenance.refuse_other_base(other.model, hashes_of(folder), found, f"init={config.init}")


def _earlier(config: schema.Config) -> tuple[RunFolder, schema.Config]:
    try:
        return find_run(Path(config.init or ""))
    except UserError as error:
        raise UserError(f"init={config.init}: {error}") from None


def take(config: schema.Config, clips: Sequence[Clip], split: Split) -> Initial:
    """What a run begins with, given its configuration, with `init`, its clips and their split.

    Raises:
        UserError: as `adapter_file`.
    """
    file = adapter_file(config)
    folder, other = _earlier(config)
    seen = _seen(_trained_with(folder, other, clips), clips, split)
    return Initial(str(folder.root), file.relative_to(folder.root).as_posix(), sha256(file), seen)


def _trained_with(folder: RunFolder, other: schema.Config, clips: Sequence[Clip]) -> list[Clip] | None:
    """The earlier run's training clips, from the new run's clips or its own data set; None if both have changed."""
    for read in (lambda: clips, lambda: read_manifest(factory.manifest(other))):
        with suppress(UserError):
            known = read()
            return read_split(folder.split, known).select(known, "train")
    return None


def _seen(trained: Sequence[Clip] | None, clips: Sequence[Clip], split: Split) -> dict[str, int] | None:
    """Val and test -> how many of their clips have the content of a training clip, whatever either is called."""
    if trained is None:
        return None
    known = {mark for clip in trained for mark in _content(clip)}
    return {part: sum(bool(known & _content(clip)) for clip in split.select(clips, part)) for part in ("val", "test")}


def _content(clip: Clip) -> set[str]:
    """Marks that two clips of one recording share: of their bytes, or the range that their data set gives them."""
    return marks(clip) | ({clip.segment} if clip.segment else set())


def written_down(folder: RunFolder) -> Initial:
    """What a run began with.

    Raises:
        UserError: its folder has no record of it.
    """
    path = folder.root / RECORD
    try:
        return Initial(**read_json(path))
    except (OSError, TypeError) as error:
        raise UserError(f"expected what the run began with in {path}, found {error}; train a new run") from None


def the_same(config: schema.Config, folder: RunFolder) -> Path:
    """The file that the run has recorded, if its content is still the same.

    Raises:
        UserError: the earlier run has another adapter now, or as `adapter_file`.
    """
    initial = written_down(folder)
    adapter_file(config)  # explains what is wrong if the earlier run is gone
    file = Path(initial.run) / initial.file
    found = sha256(file) if file.is_file() else "none"
    if found != initial.sha256:
        raise UserError(
            f"init={config.init}: expected the adapter that this run began with, {initial.file} of SHA-256 "
            f"{initial.sha256[:12]}, found {found[:12]}; train a new run"
        )
    return file
