"""`hydra/launcher=submitit_slurm`: the jobs of a sweep as an array of Slurm's.

Options are called as those of hydra-submitit-launcher, which pickles whole functions with what they refer to, gives no
result where one job is killed, and takes no notice of what is done or in the queue already.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from hydra_plugins.slr_sweeps import PROGRAM, Folders
from slr.core.errors import UserError
from slr.core.signals import Stopping
from slr.sweeps.progress_table import Board
from slr.sweeps.remote import attend
from slr.sweeps.runner import ENDED, SweepJob

POLL = 1.0  # seconds
QUEUED = ".slurm"  # in a run's folder: the number of its job
ALIVE = ("PENDING", "RUNNING", "REQUEUED", "COMPLETING", "PREEMPTED", "SUSPENDED")


@dataclass
class SlurmConf:
    """What `hydra.launcher.…` sets: sbatch's words, and some of submitit's. null: as Slurm has it."""

    _target_: str = "hydra_plugins.slr_sweeps.slurm.Slurm"
    _convert_: str = "all"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    timeout_min: int = 60  # minutes of one job; one that needs more saves itself and is put into the queue again
    max_num_timeout: int = 50  # how often at most
    signal_delay_s: int = 120  # seconds before the time is up in which it saves itself
    array_parallelism: int = 256  # jobs at the same time
    nodes: int = 1
    tasks_per_node: int = 1  # more than one needs trainer=ddp
    gpus_per_node: int | None = None
    gres: str | None = None
    cpus_per_task: int | None = None
    mem_gb: int | None = None
    setup: list[str] | None = None  # lines of shell that the job begins with, such as module load cuda
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # any other word of sbatch's


ConfigStore.instance().store(group="hydra/launcher", name="submitit_slurm", node=SlurmConf, provider="slr")

GENERAL = ("timeout_min", "nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb", "name")


class Slurm(Folders):
    """Has jobs done by Slurm, and looks how they stand until the last has ended."""

    def __init__(self, max_num_timeout: int, array_parallelism: int, **words: Any) -> None:  # noqa: ANN401
        """See `SlurmConf`."""
        super().__init__(array_parallelism)
        self.max_num_timeout = max_num_timeout
        self.tasks = words["nodes"] * words["tasks_per_node"]
        words |= {"array_parallelism": array_parallelism, "name": "slr"}
        words["additional_parameters"] = {"requeue": True} | words.get(
            "additional_parameters", {}
        )  # else by the cluster
        self.words = {name if name in GENERAL else f"slurm_{name}": word for name, word in words.items() if word}

    def work(self, jobs: Sequence[SweepJob], board: Board, stopping: Stopping) -> None:
        """See `Folders`. Jobs that are in the queue already, by a command before this one, stay there."""
        folder = jobs[0].folder.root.parent / ".submitit" / "%j"
        missing = [job for job in jobs if job.status not in ENDED]
        queued = [(job, found) for job in missing if (found := self._queued(job, folder))]
        told = [job for job, _ in queued]
        queued += self._submit([job for job in missing if job not in told], folder)
        board(jobs)
        while queued and stopping.code is None:
            time.sleep(POLL)
            queued = [(job, number) for job, number in queued if not _over(job, number)]
            board(jobs)
        if stopping.code is not None:
            numbers = " ".join(sorted({number.job_id.partition("_")[0] for _, number in queued}))
            print(f"Slurm goes on with these; the same command finds them again, scancel {numbers} ends them")
            raise SystemExit(stopping.code)

    def _submit(self, jobs: Sequence[SweepJob], folder: Path) -> list[tuple[SweepJob, Any]]:
        """Put jobs into the queue, as one array.

        Raises:
            UserError: Slurm or submitit is not there, or refuses.
        """
        if not jobs:
            return []
        submitit = _submitit()
        try:
            executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=self.max_num_timeout)
            executor.update_parameters(**self.words)
            roots = [str(job.folder.root) for job in jobs]
            numbers = executor.map_array(attend, [str(PROGRAM)] * len(jobs), roots)
        except (RuntimeError, OSError) as error:  # FailedSubmissionError is one of the former
            raise UserError(f"hydra/launcher=submitit_slurm: expected sbatch to take the jobs: {error}") from error
        for job, number in zip(jobs, numbers, strict=True):
            (job.folder.root / QUEUED).write_text(number.job_id, encoding="utf-8")
        print(f"{len(jobs)} jobs are Slurm's, {numbers[0].job_id.partition('_')[0]}; its logs: {folder.parent}")
        return list(zip(jobs, numbers, strict=True))

    def _queued(self, job: SweepJob, folder: Path) -> Any:  # noqa: ANN401
        """A job's place in the queue, where it has one."""
        note = job.folder.root / QUEUED
        if not note.is_file():
            return None
        number = _submitit().SlurmJob(folder, note.read_text(encoding="utf-8"), list(range(self.tasks)))
        number.watcher.update_if_long_enough("force")
        return number if number.state.partition(" ")[0] in ALIVE and not number.done() else None


def _over(job: SweepJob, number: Any) -> bool:  # noqa: ANN401
    """Whether a job has left the queue for good; takes notice of how it stands."""
    job.look()
    if not number.done():
        if job.status not in (*ENDED, "running"):
            job.status = "waiting"  # in the queue, for the first time or again
        return False
    job.look()  # it may have ended since
    if job.status not in ENDED:
        job.told = _said(number.task(0))
        if job.status in ("waiting", "running"):
            job.status = "failed"
    return True


def _said(number: Any) -> str:  # noqa: ANN401
    """Why a job has left the queue, in a line."""
    if not number.paths.result_pickle.exists():
        return f"Slurm: {number.state}"
    trace = str(number.exception()).split("-" * 20)  # what to do, the trace between two lines, where the logs are
    return trace[1].strip(" -\n").splitlines()[-1].partition(": ")[2] if len(trace) > 1 else ""


def _submitit() -> Any:  # noqa: ANN401
    """The package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(
            "hydra/launcher=submitit_slurm: expected submitit, which is not installed; add --extra slurm"
        ) from None
    return submitit
