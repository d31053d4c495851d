"""Turn a data set's videos into verified clips and a manifest: `slr prepare dataset=synthetic`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slr.config import compose, jobs, overrides
from slr.core import argv
from slr.core.argv import Option
from slr.core.env import command
from slr.core.errors import UserError
from slr.data.coverage import read_lost
from slr.data.manifest import read_manifest
from slr.prepare.dataset import prepare
from slr.prepare.wlasl.prepare import STAGES


@dataclass(frozen=True)
class PrepareArgs(argv.Arguments):
    """Turn a data set's videos into verified clips and a manifest, which training reads.

    dataset=synthetic                                         drawn signers
    dataset=folder dataset.clips=FOLDER dataset.labels=FILE   your own clips
    dataset=folder dataset.layout=autsl dataset.clips=FOLDER  AUTSL; docs/new_dataset.md has more
    dataset=wlasl dataset.subset=100                          WLASL, whatever can still be fetched
    dataset=wlasl dataset.index=FILE dataset.clips=FOLDER     WLASL's index and <video_id>.mp4
    data=FOLDER puts the prepared clips elsewhere than data/; slr train --help lists the other keys.
    """

    command = "slr prepare"
    stages: Annotated[tuple[str, ...] | None, Option("stages of WLASL to run", STAGES, shown="all")] = None


def main() -> None:
    """Prepare what the command line names, and say where it is."""
    compose.register()
    if overrides.asks_only(sys.argv[1:]):
        print(argv.help_text(PrepareArgs))
        return
    own = [word for word in sys.argv[1:] if word.startswith("stages=")]
    args, words = argv.read(PrepareArgs, own), [word for word in sys.argv[1:] if word not in own]
    stages = [stage for stage in STAGES if stage in args.stages] if args.stages else None
    for config in jobs.configurations(overrides.quote_paths(words)):
        if stages and config.dataset.name != "wlasl":
            raise UserError(f"stages=: expected dataset=wlasl, found {config.dataset.name}, which has no stages")
        manifest = prepare(vars(config.dataset), Path(config.data) / config.dataset.place, stages)
        if stages and "manifest" not in stages:
            print(f"done: {', '.join(stages)}")
        else:
            clips, lost = read_manifest(manifest), read_lost(manifest.parent)
            glosses = len({clip.gloss for clip in clips})
            print(f"prepared: {len(clips)} clips of {glosses} glosses, {len(lost)} rejected; {manifest}")
            print(f"next: {command('train', 'with the same dataset= and dataset.… words')}")
