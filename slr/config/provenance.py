"""What a number depends on: versions, and hashes of code, base model, configuration and data."""

import contextlib
import importlib.metadata
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import slr
from slr.config import schema
from slr.core.errors import UserError
from slr.core.files import sha256
from slr.core.run_folder import digest

PACKAGES = ("slr", "torch", "transformers", "peft", "bitsandbytes", "lightning", "hydra-core", "av", "decord2", "numpy")
ENTRY_POINTS = ("train.py", "evaluate.py", "prepare_data.py")


def provenance(
    config: schema.Config, base: str, manifest: Path, split: str, vocabulary: Sequence[str]
) -> dict[str, Any]:
    """What a number depends on: versions, and hashes of code, base model, configuration, data, split and vocabulary.

    `base` is the base model's hash (see `slr.models.hub.base_hash`), `split` the split's own.
    """
    versions: dict[str, str | None] = {"python": platform.python_version()} | dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "versions": versions | ({"model": config.model.commit} if config.model.commit else {}),
        "hashes": {
            "code": _code(),
            "base": base,
            "config": digest(schema.to_plain(config)),
            "data": sha256(manifest),
            "split": split,
            "vocabulary": digest(list(vocabulary)),
        },
    }


def known_base(checkpoint: str | None, weights: str | None, hashes: Mapping[str, str]) -> str | None:
    """The hash of the base model of a run or an export; None where it is not known.

    `checkpoint` and `weights` are as in `schema.Model`; `hashes` are those that it has recorded.
    """
    return hashes.get("base", schema.TINY_BASE if (checkpoint, weights) == ("tiny", "pretrained") else None)


def refuse_other_base(model: schema.Model, hashes: Mapping[str, str], found: str, whose: str) -> None:
    """Refuse another base model, of the hash `found`, than that of the run or export `whose`; note where it is unknown.

    `model` and `hashes` are what it has recorded.

    Raises:
        UserError: it is another one; names both hashes.
    """
    expected = known_base(model.checkpoint, model.weights, hashes)
    if expected is None and not model.commit:
        print(
            f"{whose}: made before base models were recorded, so it is not known whether {model.checkpoint}, SHA-256 "
            f"{found[:12]}, is what it was trained on",
            file=sys.stderr,
        )
    if expected not in (None, found):
        raise UserError(
            f"{whose}: expected the base model that it was trained on, {model.checkpoint} of SHA-256 {expected[:12]}, "
            f"found one of {found[:12]}; put that model back, or train a new run"
        )


def _code() -> str:
    """Hash of slr's own files, wherever the package lies, but for weights, which are the base model's."""
    package = Path(slr.__file__).parent
    beside = package.parent
    files = [*package.rglob("*"), *beside.glob("hydra_plugins/slr_*/**/*")]  # where others have put plugins too
    if (beside / "pyproject.toml").is_file():  # a checkout: among installed packages, such names may be anybody's
        files += [beside / name for name in ENTRY_POINTS]
    files = [file for file in files if file.is_file() and file.suffix not in (".pyc", ".safetensors")]
    files = [file for file in files if "__pycache__" not in file.parts and not file.name.startswith(".")]
    rows = sorted((file.relative_to(beside).as_posix(), file) for file in files)
    return digest([[name, sha256(file)] for name, file in rows])
