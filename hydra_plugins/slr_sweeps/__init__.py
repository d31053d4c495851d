"""`hydra/launcher=processes`: each job of a sweep as a process of its own, on this machine."""

import importlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, filter_overrides, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from slr.config import compose, schema
from slr.core import env
from slr.core.errors import UserError, explained
from slr.core.files import read_json
from slr.core.run_folder import RunFolder
from slr.core.signals import Stopping, listening
from slr.models.hub import locate
from slr.models.memory_plan import adapter_numbers, shape_of
from slr.sweeps.progress_table import Board, announce
from slr.sweeps.runner import ENDED, Sweep, SweepJob, lay_out

PROGRAM = env.TRAIN


@dataclass
class ProcessesConf:
    """What `hydra.launcher.…` sets."""

    _target_: str = "hydra_plugins.slr_sweeps.Processes"
    at_once: int = 1  # jobs at the same time; one fits a machine with one GPU
    keep_going: bool = True  # start other jobs after one has failed


ConfigStore.instance().store(group="hydra/launcher", name="processes", node=ProcessesConf, provider="slr")


class Folders(Launcher):
    """Lays out the folders of jobs, has the jobs run, shows their status, and returns their scores."""

    config: DictConfig
    hydra_context: HydraContext

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        """See the launcher's `…Conf`."""
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra calls this once."""
        self.config, self.hydra_context = config, hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run some jobs, and wait for them."""
        setup_globals()
        compose.register()
        jobs = explained(lambda: [self._job(list(words), initial_job_idx + n) for n, words in enumerate(job_overrides)])
        for job in jobs:
            job.look()
        if len(jobs) > 1:  # a search launches its trials one by one
            print(announce(jobs[0].folder.root.parent, jobs), flush=True)
        board = Board()
        with listening() as stopping:
            stopping.deferred = True
            try:
                explained(lambda: self.work(jobs, board, stopping))
            finally:
                board.close(jobs)
        return [_ended(job, list(words)) for job, words in zip(jobs, job_overrides, strict=True)]

    @abstractmethod
    def work(self, jobs: Sequence[SweepJob], board: Board, stopping: Stopping) -> None:
        """Run the jobs that are not done, calling the board whenever something may have changed.

        Raises:
            SystemExit: 130 or 143 where a signal asked for the end.
        """

    def _job(self, words: list[str], number: int) -> SweepJob:
        """Lay out a job's folder."""
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, words)
        with open_dict(composed):
            composed.hydra.job.id, composed.hydra.job.num = str(number), number
        folder = RunFolder(Path(composed.hydra.sweep.dir) / composed.hydra.sweep.subdir)
        config = compose.to_typed(composed)
        typed = list(filter_overrides(words))
        lay_out(folder, config, typed)
        hydras = folder.root / ".hydra"  # what Hydra itself leaves: what was composed, and what was typed
        hydras.mkdir(exist_ok=True)
        OmegaConf.save(compose.without_hydra(composed), hydras / "config.yaml")
        OmegaConf.save(OmegaConf.create(typed), hydras / "overrides.yaml")
        aside = set(composed.hydra.job.config.override_dirname.exclude_keys)
        name = " ".join(word for word in typed if word.partition("=")[0].lstrip("+") not in aside)
        return SweepJob(folder, name or folder.root.name, disk(config))


class Ended(JobReturn):
    """A job's score, or an exit code without Hydra's line on it: the table has the reason."""

    @property
    def return_value(self) -> Any:  # noqa: ANN401  Hydra's
        """The score; raises SystemExit if the job has failed."""
        if self.status == JobStatus.FAILED:
            raise SystemExit(1)
        return self._return_value


def _ended(job: SweepJob, words: list[str]) -> JobReturn:
    status = JobStatus.COMPLETED if job.status in ENDED else JobStatus.FAILED
    return Ended(overrides=words, status=status, _return_value=job.folder.facts.get("val", {}).get("top1"))


class Processes(Folders):
    """Runs jobs on this machine."""

    def work(self, jobs: Sequence[SweepJob], board: Board, stopping: Stopping) -> None:
        """See `Folders`."""
        Sweep(jobs, PROGRAM, show=board, **self.settings).run(stopping)


def disk(config: schema.Config) -> int:
    """Bytes that a finished run takes, at most: its states with AdamW's two moments, and its adapter, in float32."""
    page = read_json(locate(config.model.checkpoint, config.model.version, need_weights=False) / "config.json")
    numbers = adapter_numbers(shape_of(page), config.lora.targets, config.lora.r)
    states = 2 if config.checkpoint.keep == "both" else 1
    return 4 * numbers * (3 * states + 1)


def package(name: str, launcher: str, extra: str) -> Any:  # noqa: ANN401
    """An optional package that a launcher needs.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        message = f"hydra/launcher={launcher}: expected {name}, which is not installed; add --extra {extra}"
        raise UserError(message) from None
