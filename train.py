"""Train a vision-language model to name signs: `python train.py experiment=demo`."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from slr.commands import validate
from slr.commands.train import enlist, resume, run
from slr.config import compose, jobs, overrides, sweep_name
from slr.core import distributed, env
from slr.core.errors import explained
from slr.core.run_folder import RunFolder
from slr.sweeps.runner import end_with_sweep


@hydra.main(config_path="conf", config_name=compose.PAGE, version_base="1.3")
def job(config: DictConfig) -> float:
    """What Hydra calls once for each run, but in a sweep of processes, whose jobs are begun by `resume=`."""
    context = HydraConfig.get()
    folder = RunFolder(Path(context.runtime.output_dir))

    def begin() -> float:
        return run(compose.to_typed(config), folder, list(context.overrides.task))

    # In a sweep, Hydra must see the error itself: an exit would end the jobs that wait.
    return begin() if context.mode == RunMode.MULTIRUN else explained(begin)


def main() -> None:
    """Check everything that was typed, then hand over to Hydra."""
    env.begin()
    end_with_sweep()
    compose.register()
    if any(word.startswith("resume=") for word in sys.argv[1:]):
        resume(sys.argv[1:])
        return distributed.leave()
    words = overrides.quote_paths(sys.argv[1:])
    if not overrides.asks_only(words):
        words = sweep_name.named(words)
        configs = jobs.configurations(words)
        if overrides.sweeps(words):  # whose jobs are commands of their own
            validate.check_apart(configs, here=not overrides.elsewhere(words))
        else:
            enlist(configs[0])
            with distributed.together():
                distributed.on_main(lambda: validate.check_all(configs))
    # What was composed is written by one.
    sys.argv[1:] = words if distributed.is_main() else [*words, "hydra.output_subdir=null"]
    job()
    distributed.leave()


if __name__ == "__main__":
    explained(main)
