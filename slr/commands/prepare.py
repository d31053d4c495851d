"""Turn clips as they come into verified clips and a manifest: `python prepare_data.py dataset=synthetic`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from slr.config import compose, jobs, overrides
from slr.core.errors import UserError
from slr.prepare.dataset import prepare

USAGE = """python prepare_data.py dataset=synthetic                                         drawn signers
python prepare_data.py dataset=folder dataset.clips=FOLDER dataset.labels=FILE   your own clips
python prepare_data.py dataset=folder dataset.layout=autsl dataset.clips=FOLDER  AUTSL; docs/new_dataset.md has more
python prepare_data.py dataset=wlasl dataset.subset=100                          WLASL, whatever can still be fetched
python prepare_data.py dataset=wlasl dataset.index=FILE dataset.clips=FOLDER     WLASL's index and <video_id>.mp4
stages=[fetch,cut] runs some of WLASL's: index, select, fetch, cut, verify, manifest, report
data=FOLDER puts the prepared clips elsewhere than data/; python train.py --help lists the other keys."""


def split_stages(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """The arguments without `stages=[…]`, and the stages it names, in their order; None where it is not there.

    Raises:
        UserError: there is no such stage.

    >>> split_stages(["dataset=wlasl", "stages=[select, index]"])
    (['dataset=wlasl'], ['index', 'select'])
    """
    others = [word for word in arguments if not word.startswith("stages=")]
    typed = [word.partition("=")[2].strip("[]") for word in arguments if word.startswith("stages=")]
    if not typed:
        return others, None
    from slr.prepare.wlasl.prepare import STAGES

    names = [name.strip() for name in typed[-1].split(",")]
    wrong = [name for name in names if name not in STAGES]
    if wrong:
        raise UserError(f"stages: expected some of {', '.join(STAGES)}, found {wrong[0]!r}")
    return others, [stage for stage in STAGES if stage in names]


def main() -> None:
    """Prepare what the command line names, and say where it lies."""
    compose.register()
    words, stages = split_stages(sys.argv[1:])
    arguments = overrides.quote_paths(words)
    if overrides.asks_only(arguments):
        print(USAGE)
        return
    for config in jobs.configurations(arguments):
        if stages and config.dataset.name != "wlasl":
            raise UserError(f"stages=: expected dataset=wlasl, found {config.dataset.name}, which is made in one go")
        manifest = prepare(vars(config.dataset), Path(config.data) / config.dataset.place, stages)
        print(f"prepared: {manifest}" if not stages or "manifest" in stages else f"done: {', '.join(stages)}")
