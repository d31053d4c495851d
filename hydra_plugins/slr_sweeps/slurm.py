"""`hydra/launcher=submitit_slurm`: the jobs of a sweep as an array of Slurm; hydra-submitit-launcher's options."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from hydra_plugins.slr_sweeps import PROGRAM, Folders, package
from slr.core.errors import UserError, explained
from slr.core.signals import Stopping
from slr.core.units import counted
from slr.sweeps.progress_table import Board
from slr.sweeps.remote import attend
from slr.sweeps.runner import ENDED, SweepJob

POLL = 1.0  # seconds
QUEUED = ".slurm"  # in a run's folder: the number of its job
ALIVE = ("PENDING", "RUNNING", "REQUEUED", "COMPLETING", "PREEMPTED", "SUSPENDED")


@dataclass
class SlurmConf:
    """What `hydra.launcher.…` sets: sbatch's options, and some of submitit's. null: Slurm's default."""

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
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # any other option of sbatch


ConfigStore.instance().store(group="hydra/launcher", name="submitit_slurm", node=SlurmConf, provider="slr")


class Slurm(Folders):
    """Has jobs run by Slurm, and waits until the last has ended."""

    def __init__(self, max_num_timeout: int, array_parallelism: int, **words: Any) -> None:  # noqa: ANN401
        """See `SlurmConf`."""
        self.submitit = explained(lambda: package("submitit", "submitit_slurm", "slurm"))
        self.max_num_timeout = max_num_timeout
        self.tasks = words["nodes"] * words["tasks_per_node"]
        extra = {"requeue": True} | words.get("additional_parameters", {})  # else as the cluster has it
        words |= {"array_parallelism": array_parallelism, "name": "slr", "additional_parameters": extra}
        self.words = {f"slurm_{name}": word for name, word in words.items() if word}

    def work(self, jobs: Sequence[SweepJob], board: Board, stopping: Stopping) -> None:
        """See `Folders`. Jobs that an earlier command has put into the queue stay there."""
        folder = jobs[0].folder.root.parent / ".submitit" / "%j"
        missing = [job for job in jobs if job.status not in ENDED]
        queued = [(job, entry) for job in missing if (entry := self._queued(job, folder))]
        known = [job for job, _ in queued]
        queued += self._submit([job for job in missing if job not in known], folder)
        board(jobs)
        while queued and stopping.code is None:
            time.sleep(POLL)
            queued = [(job, entry) for job, entry in queued if not _over(job, entry)]
            board(jobs)
        if stopping.code is not None:
            numbers = " ".join(sorted({entry.job_id.partition("_")[0] for _, entry in queued}))
            print(f"Slurm continues these jobs; the same command finds them again, scancel {numbers} ends them")
            raise SystemExit(stopping.code)

    def _submit(self, jobs: Sequence[SweepJob], folder: Path) -> list[tuple[SweepJob, Any]]:
        """Put jobs into the queue, as one array.

        Raises:
            UserError: Slurm or submitit is not there, or refuses.
        """
        if not jobs:
            return []
        try:
            executor = self.submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=self.max_num_timeout)
            executor.update_parameters(**self.words)
            roots = [str(job.folder.root) for job in jobs]
            entries = executor.map_array(attend, [str(PROGRAM)] * len(jobs), roots)
        except (RuntimeError, OSError) as error:  # FailedSubmissionError is one of the former
            raise UserError(f"hydra/launcher=submitit_slurm: expected sbatch to take the jobs: {error}") from error
        for job, entry in zip(jobs, entries, strict=True):
            (job.folder.root / QUEUED).write_text(entry.job_id, encoding="utf-8")
        number = entries[0].job_id.partition("_")[0]
        print(f"{counted(len(jobs), 'job')} submitted to Slurm as {number}; logs are in {folder.parent}")
        return list(zip(jobs, entries, strict=True))

    def _queued(self, job: SweepJob, folder: Path) -> Any:  # noqa: ANN401
        """A job's entry in the queue, where it has one."""
        note = job.folder.root / QUEUED
        if not note.is_file():
            return None
        entry = self.submitit.SlurmJob(folder, note.read_text(encoding="utf-8"), list(range(self.tasks)))
        entry.watcher.update_if_long_enough("force")
        return entry if entry.state.partition(" ")[0] in ALIVE and not entry.done() else None


def _over(job: SweepJob, entry: Any) -> bool:  # noqa: ANN401
    """Whether a job has left the queue for good; updates its status."""
    over = entry.done()
    job.look()  # afterwards: it may have ended meanwhile
    if not over and job.status not in (*ENDED, "running"):
        job.status = "waiting"  # in the queue, for the first time or again
    if over and job.status not in ENDED:
        job.told = _reason(entry.task(0))
        if job.status in ("waiting", "running"):
            job.status = "failed"
    return over


def _reason(task: Any) -> str:  # noqa: ANN401
    """Why a job has left the queue, in a line."""
    if not task.paths.result_pickle.exists():
        return f"Slurm: {task.state}"
    trace = str(task.exception()).split("-" * 20)  # what to do, the trace between two lines, where the logs are
    return trace[1].strip(" -\n").splitlines()[-1].partition(": ")[2] if len(trace) > 1 else ""
