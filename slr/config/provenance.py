"""What a number depends on: versions, and hashes of code, base model, configuration and data."""

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

PACKAGES = (
    *("slr", "torch", "transformers", "peft", "bitsandbytes", "lightning", "hydra-core"),
    *("av", "decord2", "numpy"),
)


ENTRY_POINTS = ("train.py", "evaluate.py", "prepare_data.py")


def provenance(
    config: schema.Config, base: str, manifest: Path, split: str, vocabulary: Sequence[str]
) -> dict[str, Any]:
    """What a number depends on: versions, and hashes of code, base model, configuration, data, split and vocabulary.

    Args:
        config: of the run.
        base: the base model's hash; see `slr.models.hub.base_hash`.
        manifest: the file that lists the prepared clips.
        split: the split's own hash.
        vocabulary: the ordered glosses.
    """
    return {
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in PACKAGES}
        | ({"model": config.model.commit} if config.model.commit else {}),
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
    """The hash of the base model that a run or an export stands on; None where it has recorded none that could be told.

    Args:
        checkpoint, weights: as in `schema.Model`.
        hashes: that it has recorded.
    """
    return hashes.get("base", schema.TINY_BASE if (checkpoint, weights) == ("tiny", "pretrained") else None)


def refuse_other_base(model: schema.Model, hashes: Mapping[str, str], found: str, whose: str) -> None:
    """See that a base model is the one that a run or an export stands on; say so where nobody can tell.

    Args:
        model: of the run or export.
        hashes: that it has recorded.
        found: the hash of the base model that is here.
        whose: how the run or export was named.

    Raises:
        UserError: it is another one; names both hashes.
    """
    expected = known_base(model.checkpoint, model.weights, hashes)
    if expected is None and not model.commit:
        print(
            f"{whose}: made before base models were recorded, so nobody can tell whether {model.checkpoint}, SHA-256 "
            f"{found[:12]}, is what it was trained on",
            file=sys.stderr,
        )
    if expected not in (None, found):
        raise UserError(
            f"{whose}: expected the base model that it was trained on, {model.checkpoint} of SHA-256 {expected[:12]}, "
            f"found one of {found[:12]}; put that model back, or train a new run"
        )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _code() -> str:
    """Hash of slr's own files, wherever the package lies, but for weights, which are the base model's."""
    package = Path(slr.__file__).parent
    beside = package.parent
    files = [*package.rglob("*"), *beside.glob("hydra_plugins/slr_*/**/*")]  # where others have put plugins too
    if (beside / "pyproject.toml").is_file():  # a checkout: among installed packages, such names may be anybody's
        files += [beside / name for name in ENTRY_POINTS]
    rows = [(file.relative_to(beside).as_posix(), file) for file in files if file.is_file() and not _is_made(file)]
    return digest([[name, sha256(file)] for name, file in sorted(rows)])


def _is_made(file: Path) -> bool:
    """Whether a file is none of the code: compiled from it, weights, or what an editor or a system leaves."""
    return "__pycache__" in file.parts or file.name.startswith(".") or file.suffix in (".pyc", ".safetensors")
