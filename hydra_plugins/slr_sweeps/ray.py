"""`hydra/launcher=ray`: the jobs of a sweep as tasks of Ray, on this machine or on a cluster."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from hydra_plugins.slr_sweeps import PROGRAM, Folders, package
from slr.core.errors import UserError
from slr.core.signals import CODES, Stopping
from slr.sweeps.progress_table import Board
from slr.sweeps.remote import attend
from slr.sweeps.runner import ENDED, GRACE, SweepJob

POLL = 1.0  # seconds


@dataclass
class RayConf:
    """What `hydra.launcher.…` sets."""

    _target_: str = "hydra_plugins.slr_sweeps.ray.Ray"
    _convert_: str = "all"
    # of ray.init; null starts a Ray on this machine, auto finds the one that `ray start` started
    init: dict[str, Any] = field(default_factory=lambda: {"address": None, "num_cpus": None})
    # of a job, as ray.remote takes it; Ray starts as many at the same time as it has CPUs and GPUs for
    remote: dict[str, Any] = field(default_factory=lambda: {"num_cpus": 1, "num_gpus": 0})


ConfigStore.instance().store(group="hydra/launcher", name="ray", node=RayConf, provider="slr")


class Ray(Folders):
    """Has jobs run by Ray, and waits until the last has ended."""

    def work(self, jobs: Sequence[SweepJob], board: Board, stopping: Stopping) -> None:
        """See `Folders`."""
        missing = [job for job in jobs if job.status not in ENDED]
        if not missing:
            return board(jobs)
        ray = _started(self.settings["init"])
        stopping.listen()  # Ray has installed its own handlers
        task = ray.remote(**self.settings["remote"])(_attend)
        tasks = {task.remote(str(PROGRAM), str(job.folder.root)): job for job in missing}
        while tasks and stopping.code is None:
            _look(ray, tasks)
            board(jobs)
        if stopping.code is not None:
            for running in tasks:
                ray.cancel(running)
            deadline = time.monotonic() + GRACE
            while tasks and time.monotonic() < deadline:
                _look(ray, tasks)
            raise SystemExit(stopping.code)


def _attend(program: str, folder: str) -> None:
    """As `attend`; a cancelled task must not exit, which Ray takes for a crash of its worker."""
    try:
        attend(program, folder)
    except SystemExit as ended:
        if ended.code == CODES[signal.SIGINT]:
            raise KeyboardInterrupt from None
        raise  # the machine goes away: Ray starts the job on another one


def _look(ray: Any, tasks: dict[Any, SweepJob]) -> None:  # noqa: ANN401
    """Wait a moment, read the jobs' statuses, and drop those that have ended."""
    ended, _ = ray.wait(list(tasks), timeout=POLL)
    for job in tasks.values():
        job.look()
    for task in ended:
        job = tasks.pop(task)
        try:
            ray.get(task)
        except ray.exceptions.TaskCancelledError:
            pass
        except (ray.exceptions.RayError, RuntimeError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            job.told = lines[-1].strip().removeprefix("RuntimeError: ")
        if job.status in ("waiting", "running"):
            job.status = "failed"


def _started(init: dict[str, Any]) -> Any:  # noqa: ANN401
    """The package, connected or started; a search, which launches one trial after the other, finds it so.

    Raises:
        UserError: it is not installed, or finds no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Under `uv run`, Ray would send the whole project, data and runs included, to its workers, and install it there.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    ray = package("ray", "ray", "ray")
    if not ray.is_initialized():
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        try:
            ray.init(**({} if init.get("address") else quiet), **init)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"hydra/launcher=ray: expected a Ray to work with: {error}") from error
    return ray
