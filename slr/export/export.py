"""A run's recognizer as a folder for other machines: `python -m slr.export run=outputs/…`."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slr import factory
from slr.config import schema
from slr.config.saved_run import open_run
from slr.core.console import aligned
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.core.run_folder import RunFolder, status_of
from slr.data.manifest import Clip
from slr.data.split import read_split
from slr.export.model_card import card
from slr.predict import calibration
from slr.predict.bundle import Exported, is_exported, without_paths, write_exported

SIXTEEN = ("cpu", "cuda")  # devices that compute in bf16
# Forms of the same recognizer: title -> quantization, precision, whether the adapter is merged into the weights.
FORMS = {
    "adapter on NF4": ("nf4", None, False),
    "adapter on bf16": ("none", "bf16-mixed", False),
    "merged bf16": ("none", "bf16-mixed", True),
}
SMALL_FILES = ("*.json", "*.jinja", "merges.txt")  # of a checkpoint, beside its weights


def export(run: Path, kind: str, to: Path, most: int) -> tuple[Path, dict[str, Any]]:
    """Write a run's recognizer into a new folder, with its model card; returns the folder and the parity of forms.

    Args:
        run: a finished run with an adapter, whose data are here.
        kind: `adapter` (PEFT's files) or `merged` (whole weights in bf16).
        to: the folder.
        most: clips of the test part to compare the forms of the weights by.

    Raises:
        UserError: no such run, one that is not done or has no adapter; `to` holds something else.
    """
    folder, config, vocabulary = open_run(run)
    _refuse(folder, config, to)
    clips = read_split(folder.split, prepared := factory.clips(config)).select(prepared, "test")[:most]
    part = to.with_name(f".{to.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        parity = _write(folder, config, vocabulary, kind, part, clips)
        if to.exists():
            shutil.rmtree(to)
        part.rename(to)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return to, parity


def _refuse(folder: RunFolder, config: schema.Config, to: Path) -> None:
    """Raise UserError unless there is something to export, and a place for it."""
    status = status_of(folder)
    if status != "done":
        raise UserError(f"run={folder.root}: expected a run that is done, found one that is {status}; finish it first")
    if config.lora.scope != "language":
        raise UserError(
            f"run={folder.root}: expected a run with an adapter, found lora={config.lora.scope}; "
            "export one of lora=language"
        )
    if to.exists() and not is_exported(to):
        raise UserError(f"to={to}: expected a new folder or an earlier export, found something else; choose another")


def _write(
    folder: RunFolder, config: schema.Config, vocabulary: list[str], kind: str, to: Path, clips: Sequence[Clip]
) -> dict[str, Any]:
    """Fill the folder; returns the parity."""
    from slr.models import lora

    result = read_json(folder.result)
    plain = without_paths(config)
    if kind == "merged":
        precision = "bf16-mixed" if config.hardware.device in SIXTEEN else "auto"
        plain = dataclasses.replace(
            plain,
            hardware=dataclasses.replace(plain.hardware, precision=precision),
            model=dataclasses.replace(plain.model, quantization="none"),
            lora=dataclasses.replace(plain.lora, scope="none", targets=[]),
        )
    hashes = result["hashes"] | {"base": factory.base_of(config)}  # which old runs have not recorded
    exported = Exported(to, kind, plain, vocabulary, hashes)
    parity, merged = compare_forms(folder, config, clips)
    skipped = {"model.safetensors.index.json"}
    if kind == "adapter":
        for name in (lora.ADAPTER_CONFIG, lora.ADAPTER_WEIGHTS):
            shutil.copy2(folder.adapter / name, to / name)
        exported.processor.mkdir()
    else:
        merged.save_pretrained(to)
        skipped.add("config.json")  # merged weights have their own
    for file in (file for pattern in SMALL_FILES for file in factory.inputs(config).folder.glob(pattern)):
        if file.name not in skipped:
            shutil.copy2(file, exported.processor / file.name)
    shutil.copy2(folder.calibration, to / calibration.FILE)
    write_json(to / "vocabulary.json", vocabulary)
    (to / "README.md").write_text(card(exported, result, parity), encoding="utf-8")
    write_exported(exported, {"test": result["test"], "parity": parity})
    return parity


def compare_forms(folder: RunFolder, config: schema.Config, clips: Sequence[Clip]) -> tuple[dict[str, Any], Any]:
    """How far each form of the weights ranks as the run did, and the merged model.

    Returns:
        `part`, `n` and `rows` of form, `agreement` (share of clips with the same first gloss) and `largest` (change of
        a log-probability, nats); and transformers' model with the adapter merged into it, in bf16.
    """
    from slr.predict.recognizer import assembled, load

    # Elsewhere bf16 has no autocast, and 4 bits may not run.
    device = config.hardware.device if config.hardware.device in SIXTEEN else "cpu"
    with load(folder.root) as recognizer:
        own = recognizer.look_clips(clips, "ranking, the run's own").log_probability
    rows, merged = [], None
    for title, (quantization, precision, merge) in FORMS.items():
        own_precision = config.hardware.precision if device == config.hardware.device else "auto"
        words = {"device": device, "precision": precision or own_precision, "four_bit": quantization == "nf4"}
        machine = dataclasses.replace(config.hardware, **words)
        model = dataclasses.replace(config.model, quantization=quantization)
        changed = dataclasses.replace(config, hardware=machine, model=model)
        with assembled(folder, changed, recognizer.vocabulary) as other:
            if merge:
                merged = other.merge()
            found = other.look_clips(clips, f"ranking, {title}").log_probability
            rows.append(parity_row(title, own, found))
    return {"part": "test", "n": len(clips), "rows": rows}, merged


def parity_row(form: str, own: NDArray[np.float32], other: NDArray[np.float32]) -> dict[str, Any]:
    """How far two rankings (n, K) of the same clips agree."""
    return {
        "form": form,
        "agreement": float((own.argmax(axis=1) == other.argmax(axis=1)).mean()),
        "largest": float(abs(own - other).max()),
    }


def push(folder: Path, name: str) -> str:
    """Upload an exported folder to the model hub; returns its address.

    Raises:
        UserError: the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi()
        api.create_repo(name, private=True, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"push={name}: expected a hub that accepts it, found {reason}; may HF_TOKEN write?") from None


def shown(parity: dict[str, Any]) -> str:
    """The parity as a table."""
    rows = [["against the run's own ranking", "same first gloss", "largest change of a log-probability"]]
    rows += [[row["form"], f"{row['agreement']:.1%}", f"{row['largest']:.3g}"] for row in parity["rows"]]
    return f"{aligned(rows)}\n({parity['n']} clips of the {parity['part']} part)"
