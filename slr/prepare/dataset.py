"""Prepares whichever data set a configuration names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slr.config import schema

if TYPE_CHECKING:
    from slr.prepare.wlasl.prepare import WlaslOptions


def prepare(dataset: schema.Dataset, data: Path, stages: Sequence[str] | None = None) -> Path:
    """Prepare a data set unless it is prepared already, or run some stages of it; returns its manifest.

    Raises:
        UserError: what it is to be made from is not there or makes no data set.
    """
    out, workers = data / dataset.place, os.cpu_count() or 1
    match dataset:
        case schema.Synthetic():
            from slr.prepare.synthetic.prepare import prepare_synthetic

            return prepare_synthetic(
                out, dataset.signs, dataset.signers, dataset.takes, dataset.seed, dataset.size, workers
            )
        case schema.Folder():
            from slr.prepare.folder import prepare_folder

            labels = Path(dataset.labels) if dataset.labels else None
            return prepare_folder(Path(dataset.clips), labels, out, workers, layout=dataset.layout)
        case schema.Wlasl():
            from slr.prepare.wlasl.prepare import STAGES, prepare_wlasl

            return prepare_wlasl(_wish(dataset), data / "wlasl" / "downloads", out, workers, stages or STAGES)


def _wish(dataset: schema.Wlasl) -> WlaslOptions:
    from slr.prepare.wlasl.download import FetchPolicy
    from slr.prepare.wlasl.prepare import WlaslOptions

    return WlaslOptions(
        index=dataset.index,
        index_hash=dataset.index_hash,
        clips=Path(dataset.clips) if dataset.clips else None,
        subset=dataset.subset,
        local=dataset.local,
        crop=dataset.crop,
        fetch=dataset.fetch,
        manners=FetchPolicy(
            pause=dataset.pause,
            per_host=dataset.per_host,
            largest=dataset.largest * 1024**2,
            allow_private=dataset.private_addresses,
        ),
    )
