"""Run a function under Hydra, which makes the run's folder with its `.hydra/`, and hands sweeps to launchers."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobStatus, run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

from slr.config import compose, schema
from slr.core import distributed
from slr.core.env import CONF
from slr.core.run_folder import RunFolder

Job = Callable[[schema.Config, RunFolder, list[str]], float]  # of a configuration, a folder and the words typed


def run_one(words: Sequence[str], check: Callable[[schema.Config], None], job: Job) -> float:
    """Compose once, check, and run a job in its folder; returns the job's score.

    Hydra's own command line would compose twice more, and make a folder before `check` could refuse the configuration.
    """
    compose.parsed(words)
    composed = compose.composed([*words, "hydra.mode=RUN"], whole=True)
    config = compose.to_typed(composed, words)
    check(config)
    if not distributed.is_main():  # what was composed is written by one process
        with read_write(composed), open_dict(composed):
            composed.hydra.output_subdir = None
    context = HydraContext(cast(Any, None), Callbacks(composed))  # a single job loads no other configuration
    ended = run_job(lambda _: _call(job, config), composed, "hydra.run.dir", None, context)
    if ended.status == JobStatus.FAILED:
        raise ended._return_value  # Hydra's `return_value` would print a line of its own before it raises this
    return ended.return_value


def run_hydra(words: Sequence[str], job: Job) -> None:
    """Have Hydra's own command line do what words ask for: a sweep, or `--cfg` and the like."""

    @hydra.main(config_path=str(CONF), config_name=compose.PAGE, version_base="1.3")
    def task(config: DictConfig) -> float:  # called by launchers that run jobs in this process
        return _call(job, compose.to_typed(config))

    sys.argv[1:] = words
    task()


def _call(job: Job, config: schema.Config) -> float:
    context = HydraConfig.get()
    return job(config, RunFolder(Path(context.runtime.output_dir)), list(context.overrides.task))
