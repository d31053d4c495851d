"""A search's trials in Optuna's journal: which one is next, whose it is, how it ended, and whether to end it early.

Every trial is in one line of the journal from its beginning, with its settings and the search that runs it, so that a
process that dies leaves a whole trial or none. Whether a search is alive is told by a lock of the operating system. No
two trials have the same settings: what was tried already is not asked for again.
"""

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from slr.config import search_space
from slr.config.search_space import Axis, Choices, Value
from slr.core.errors import UserError
from slr.core.locks import exclusive, is_occupied, occupied

NAME = "slr"
SEARCHES = ".searches"  # a folder for each search that is at work, whose lock says that it is alive
OWNER, REASON = "search", "reason"  # what is noted of a trial
SPACE, SETTINGS, PRUNING = "space", "settings", "pruning"  # and of the study
PATIENCE = 10  # suggestions of what was tried already, before the next untried settings are taken

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Lock(JournalFileOpenLock):
    """Optuna's lock by a file that is created exclusively, and whoever gets it mends what a killed holder has torn.

    Its other lock, by a symbolic link, needs rights that Windows does not give by default. Neither needs a lock of the
    operating system, which some network file systems do without; exclusive creation is atomic from NFS 3 on. A holder
    that was killed keeps the others waiting for 30 s.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal

    def acquire(self) -> bool:
        """Wait for it; cut off half a line, which the next one would otherwise be written behind."""
        super().acquire()
        with self._journal.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            while end > 0:
                file.seek(end - 1)
                if file.read(1) == b"\n":
                    break
                end -= 1
            file.truncate(end)
        return True


@dataclass(frozen=True)
class Pruning:
    """When a trial is given up whose best validation so far is worse than the median of others at the same epoch.

    Attributes:
        pruner: median or none.
        startup_trials: that must have gone to their end before.
        warmup_epochs: of each trial that are never its last for this reason.
    """

    pruner: str
    startup_trials: int
    warmup_epochs: int

    def judge(self) -> optuna.pruners.BasePruner:
        """Optuna's pruner. Epochs count from 1."""
        if self.pruner == "none":
            return optuna.pruners.NopPruner()
        return optuna.pruners.MedianPruner(self.startup_trials, self.warmup_epochs + 1)


def storage(journal: Path) -> JournalStorage:
    """The journal, for reading and writing."""
    return JournalStorage(JournalFileBackend(str(journal), Lock(journal)))


@dataclass
class Search:
    """One process's part in a study, while `at_work`.

    Attributes:
        folder: of the sweep.
        axes: what is varied.
        settings: what all trials share, `key` -> value.
        direction: maximize or minimize.
        seed: of the sampler.
        pruning: of the trials.
        tried: numbers of the trials that this process has taken on.
        exhausted: whether nothing untried is left.
    """

    folder: Path
    axes: Sequence[Axis]
    settings: Mapping[str, Any]
    direction: Literal["maximize", "minimize"]
    seed: int
    pruning: Pruning
    tried: set[int] = field(default_factory=set)
    exhausted: bool = False
    _name: str = field(default_factory=lambda: uuid.uuid4().hex)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Begin the study, or join it; within it, this process's trials are its own.

        Raises:
            UserError: the study there is one of another space, of other settings or of the other direction.
        """
        own = self.folder / SEARCHES / self._name
        own.parent.mkdir(parents=True, exist_ok=True)
        self._storage = storage(self.folder / search_space.JOURNAL)
        with ExitStack() as held:
            with exclusive(self.folder, silent=True):
                self._study = self._opened()
                for other in own.parent.iterdir():
                    if not is_occupied(other):
                        shutil.rmtree(other)
                held.enter_context(occupied(own))
            yield
        with exclusive(self.folder, silent=True):
            shutil.rmtree(own)

    def _opened(self) -> optuna.Study:
        study = optuna.create_study(
            storage=self._storage, study_name=NAME, direction=self.direction, load_if_exists=True
        )
        asked = {SPACE: [str(axis) for axis in self.axes], SETTINGS: dict(self.settings)}
        found = study.user_attrs
        if SETTINGS not in found:  # the last to be written
            for key, value in asked.items():
                study.set_user_attr(key, value)
        elif asked[SPACE] != found[SPACE]:
            self._refuse(f"over {'; '.join(found[SPACE])}")
        elif asked[SETTINGS] != found[SETTINGS]:
            before = found[SETTINGS]
            keys = [key for key in {**before, **asked[SETTINGS]} if before.get(key) != asked[SETTINGS].get(key)]
            self._refuse("with " + ", ".join(f"{key}={before.get(key)}" for key in keys[:4]))
        if study.direction.name.lower() != self.direction:
            self._refuse(f"with hydra.sweeper.direction={study.direction.name.lower()}")
        if found.get(PRUNING) != vars(self.pruning):
            study.set_user_attr(PRUNING, vars(self.pruning))
        return study

    def _refuse(self, found: str) -> None:
        raise UserError(f"{self.folder} holds a search {found}; give this one another name, sweep=NAME")

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials of the study, by their number."""
        return self._study.get_trials(deepcopy=False)

    @property
    def best(self) -> FrozenTrial | None:
        """The best trial that went to its end."""
        done = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        return self._study.best_trial if done else None

    def claim(self, limit: int) -> int | None:
        """The number of a trial that is this process's to run: one that was cut, or a new one.

        Args:
            limit: trials of the study, whoever runs them.

        Returns:
            None where there is nothing to run now: there are enough, or all others are run by others.
        """
        with exclusive(self.folder, silent=True):
            trials = self.trials
            left = next((trial for trial in trials if self._is_left(trial)), None)
            if left is not None:
                number = left.number
                self._note(number, OWNER, self._name)
            elif len(trials) < limit and (values := self._untried(trials)) is not None:
                number = len(trials)
                self._study.add_trial(
                    optuna.trial.create_trial(
                        state=TrialState.RUNNING,
                        params=dict(zip(self._names, values, strict=True)),
                        distributions=self._distributions,
                        user_attrs={OWNER: self._name},
                    )
                )
            else:
                return None
            self.tried.add(number)
            return number

    def _is_left(self, trial: FrozenTrial) -> bool:
        """Whether a trial was cut and nobody is at it; one that this process has tried waits for another one."""
        if trial.state != TrialState.RUNNING or trial.number in self.tried:
            return False
        owner = trial.user_attrs[OWNER]
        alive = bool(owner) and is_occupied(self.folder / SEARCHES / owner)
        return not alive and not is_occupied(search_space.trial_folder(self.folder, trial.number))

    @property
    def waits(self) -> bool:
        """Whether others run trials, which are this process's to finish if they die."""
        return any(trial.state == TrialState.RUNNING and trial.number not in self.tried for trial in self.trials)

    def values(self, number: int) -> list[Value]:
        """A trial's settings, in the order of the axes."""
        params = self.trials[number].params
        return [params[name] for name in self._names]

    def done(self, number: int, value: float) -> None:
        """A trial went to its end."""
        self._study.tell(number, value, skip_if_finished=True)

    def pruned(self, number: int) -> None:
        """A trial was given up; its value is the last that it has reported."""
        self._study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)

    def failed(self, number: int, reason: str) -> None:
        """A trial came to nothing."""
        if not self.trials[number].state.is_finished():
            self._note(number, REASON, reason)
        self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def cut(self, number: int) -> None:
        """A trial's process was killed or asked to end: it is for another search, or the next one, to go on with."""
        self._note(number, OWNER, "")

    def _note(self, number: int, key: str, value: str) -> None:
        self._storage.set_trial_user_attr(self.trials[number]._trial_id, key, value)

    @property
    def _names(self) -> list[str]:
        return [axis.key.lstrip("+") for axis in self.axes]

    @property
    def _distributions(self) -> dict[str, BaseDistribution]:
        return {name: distribution(axis) for name, axis in zip(self._names, self.axes, strict=True)}

    def _untried(self, trials: list[FrozenTrial]) -> tuple[Value, ...] | None:
        """Settings that no trial has had: what the sampler suggests, or where it repeats itself, the next ones."""
        tried = {tuple(trial.params[name] for name in self._names) for trial in trials}
        size = search_space.size(self.axes)
        if size is None or len(tried) < size:
            # A fixed seed would suggest the same again after a restart; this one gives what an uncut search would get.
            seed = (self.seed + len(trials)) % 2**32
            # Asked in a copy: in the study itself, a suggestion would be a trial before it is known as a repetition.
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            copy = optuna.create_study(direction=self.direction, sampler=sampler)
            copy.add_trials(trials)
            for _ in range(PATIENCE):
                asked = copy.ask(self._distributions)
                values = tuple(
                    axis.exact(asked.params[name]) for name, axis in zip(self._names, self.axes, strict=True)
                )
                if values not in tried:
                    return values
                copy.tell(asked, state=TrialState.FAIL)
            if size is not None:
                indices = (index % size for index in range(seed, seed + size))
                return next(
                    values for index in indices if (values := search_space.point(self.axes, index)) not in tried
                )
        self.exhausted = True
        return None


def status(trial: FrozenTrial) -> str:
    """How it stands with a trial, in the words of runs: done, pruned, failed, running, or cut."""
    if trial.state == TrialState.RUNNING:
        return "running" if trial.user_attrs[OWNER] else "cut"
    return {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned"}.get(trial.state, "failed")


def distribution(axis: Axis) -> BaseDistribution:
    """An axis in Optuna's words."""
    if isinstance(axis, Choices):
        return CategoricalDistribution(axis.words)
    if isinstance(axis.low, int):
        return IntDistribution(axis.low, int(axis.high), axis.log, int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, axis.log, axis.step)


class Report:
    """A run's word to the search whose trial it is, from its own process.

    Args:
        folder: of the run.
        number: of the trial.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._storage = storage(folder.parent / search_space.JOURNAL)
        self._study = optuna.load_study(study_name=NAME, storage=self._storage)
        self._number = number

    def __call__(self, epoch: int, value: float) -> bool:
        """Note how a validation went; whether the trial is to be given up.

        Said again after a cut, it takes the place of what was said before. A trial that has ended for the search, and
        trains on all the same, is left alone.

        Args:
            epoch: that has ended, from 1 on.
            value: of what the search ranks by.
        """
        if self._trial.state != TrialState.RUNNING:
            return False
        self._storage.set_trial_intermediate_value(self._trial._trial_id, epoch, value)
        pruning = Pruning(**self._study.user_attrs[PRUNING])
        return pruning.judge().prune(self._study, self._trial)

    @property
    def _trial(self) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[self._number]
