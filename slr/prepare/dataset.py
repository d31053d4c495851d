"""Prepare the data set that a configuration names."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def prepare(dataset: Mapping[str, Any], out: Path, stages: Sequence[str] | None = None) -> Path:
    """Prepare a data set unless it is prepared already, or run some stages of it; returns its manifest.

    Args:
        dataset: The configuration's fields of the data set, with its `name`.
        out: The prepared data set. WLASL's downloads go beside it.
        stages: Of WLASL only; None runs all.

    Raises:
        UserError: The files that it is made from are missing or make no data set.
    """
    fields = {key: value for key, value in dataset.items() if key != "name"}
    fields |= {key: Path(fields[key]) for key in ("clips", "labels") if fields.get(key)}
    workers = os.cpu_count() or 1
    if dataset["name"] == "synthetic":
        from slr.prepare.synthetic.prepare import prepare_synthetic

        return prepare_synthetic(out, **fields, workers=workers)
    if dataset["name"] == "folder":
        from slr.prepare.folder import prepare_folder

        return prepare_folder(**fields, out=out, workers=workers)
    from slr.prepare.wlasl.download import FetchPolicy
    from slr.prepare.wlasl.prepare import STAGES, WlaslOptions, prepare_wlasl

    policy = FetchPolicy(
        pause=fields.pop("pause"),
        per_host=fields.pop("per_host"),
        largest=fields.pop("largest") * 1024**2,
        allow_private=fields.pop("private_addresses"),
    )
    options = WlaslOptions(**fields, policy=policy)
    return prepare_wlasl(options, out.parent / "downloads", out, workers, stages or STAGES)
