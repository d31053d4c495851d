"""A search's trials in Optuna's journal: which one is next, whose it is, how it ended, and whether to end it early.

A trial is written to the journal as one line with its settings and its owner, so that a process that dies leaves a
whole trial or none. Whether a search is alive is told by a lock of the operating system. No settings are tried twice.
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
SEARCHES = ".searches"  # a folder for each search at work, whose lock means that it is alive
OWNER, REASON = "search", "reason"  # attributes of a trial
SPACE, SETTINGS, PRUNING = "space", "settings", "pruning"  # and of the study
PATIENCE = 10  # repeated suggestions, before the next untried settings are taken

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Lock(JournalFileOpenLock):
    """Optuna's lock by exclusive creation of a file, which network file systems without locks have too.

    Whoever gets it removes half a line that a killed holder has left, behind which the next one would be written.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal

    def acquire(self) -> bool:
        """Wait for it, then mend the journal."""
        super().acquire()
        with self._journal.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            while end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                end -= 1
            file.truncate(end)
        return True


def storage(journal: Path) -> JournalStorage:
    """The journal, for reading and writing."""
    return JournalStorage(JournalFileBackend(str(journal), Lock(journal)))


@dataclass(frozen=True)
class Pruning:
    """When a trial is given up whose best validation so far is worse than the median of others at the same epoch.

    Attributes:
        pruner: median or none.
        startup_trials: that must have ended normally before.
        warmup_epochs: of each trial after which it is not given up.
    """

    pruner: str
    startup_trials: int
    warmup_epochs: int

    def judge(self) -> optuna.pruners.BasePruner:
        """Optuna's pruner. Epochs count from 1."""
        if self.pruner == "none":
            return optuna.pruners.NopPruner()
        return optuna.pruners.MedianPruner(self.startup_trials, self.warmup_epochs + 1)


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
        tried: numbers of the trials that this process has run.
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

    def __post_init__(self) -> None:
        self._distributions = {axis.key.lstrip("+"): distribution(axis) for axis in self.axes}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Begin the study, or join it.

        Raises:
            UserError: the study has another space, other settings or the other direction.
        """
        own = self.folder / SEARCHES / self._name
        own.parent.mkdir(parents=True, exist_ok=True)
        self._storage = storage(self.folder / search_space.JOURNAL)
        with ExitStack() as stack:
            with exclusive(self.folder, silent=True):
                self._study = self._opened()
                for other in own.parent.iterdir():
                    if not is_occupied(other):
                        shutil.rmtree(other)
                stack.enter_context(occupied(own))
            yield
        with exclusive(self.folder, silent=True):
            shutil.rmtree(own)

    def _opened(self) -> optuna.Study:
        study = optuna.create_study(
            storage=self._storage, study_name=NAME, direction=self.direction, load_if_exists=True
        )
        asked, before = {SPACE: [str(axis) for axis in self.axes], SETTINGS: dict(self.settings)}, study.user_attrs
        if SETTINGS not in before:  # the last to be written
            before = asked
            for key, value in asked.items():
                study.set_user_attr(key, value)
        old, new = before[SETTINGS], asked[SETTINGS]
        differing = [f"{key}={old.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)]
        other = ""
        if asked[SPACE] != before[SPACE]:
            other = f"over {'; '.join(before[SPACE])}"
        elif differing:
            other = f"with {', '.join(differing[:4])}"
        elif (direction := study.direction.name.lower()) != self.direction:
            other = f"with hydra.sweeper.direction={direction}"
        if other:
            raise UserError(f"{self.folder} holds a search {other}; give this one another name, sweep=NAME")
        if before.get(PRUNING) != vars(self.pruning):
            study.set_user_attr(PRUNING, vars(self.pruning))
        return study

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials of the study, by their number."""
        return self._study.get_trials(deepcopy=False)

    @property
    def best(self) -> FrozenTrial | None:
        """The best trial that ended normally."""
        done = any(trial.state == TrialState.COMPLETE for trial in self.trials)
        return self._study.best_trial if done else None

    def claim(self, limit: int) -> int | None:
        """The number of a trial for this process to run: one that was interrupted, or a new one.

        Args:
            limit: trials of the study, whoever runs them.

        Returns:
            None where there is nothing to run now: there are enough, or others run the rest.
        """
        with exclusive(self.folder, silent=True):
            trials = self.trials
            number = next((trial.number for trial in trials if self._is_left(trial)), None)
            if number is not None:
                self._note(number, OWNER, self._name)
            elif len(trials) < limit and (values := self._untried(trials)) is not None:
                number = len(trials)
                trial = optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params=dict(zip(self._distributions, values, strict=True)),
                    distributions=self._distributions,
                    user_attrs={OWNER: self._name},
                )
                self._study.add_trial(trial)
            if number is not None:
                self.tried.add(number)
            return number

    def _is_left(self, trial: FrozenTrial) -> bool:
        """Whether a trial was interrupted and nobody runs it; this process does not try one twice."""
        if trial.state != TrialState.RUNNING or trial.number in self.tried:
            return False
        owner = trial.user_attrs[OWNER]
        alive = bool(owner) and is_occupied(self.folder / SEARCHES / owner)
        return not alive and not is_occupied(search_space.trial_folder(self.folder, trial.number))

    @property
    def waits(self) -> bool:
        """Whether others run trials, which this process has to finish if they die."""
        return any(trial.state == TrialState.RUNNING and trial.number not in self.tried for trial in self.trials)

    def values(self, number: int) -> list[Value]:
        """A trial's settings, in the order of the axes."""
        return [self.trials[number].params[name] for name in self._distributions]

    def done(self, number: int, value: float) -> None:
        """A trial ended normally."""
        self._study.tell(number, value, skip_if_finished=True)

    def pruned(self, number: int) -> None:
        """A trial was given up; its value is the last that it has reported."""
        self._study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)

    def failed(self, number: int, reason: str) -> None:
        """A trial failed."""
        if not self.trials[number].state.is_finished():
            self._note(number, REASON, reason)
        self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def cut(self, number: int) -> None:
        """A trial's process was killed or asked to end: another search, or the next one, continues it."""
        self._note(number, OWNER, "")

    def _note(self, number: int, key: str, value: str) -> None:
        self._storage.set_trial_user_attr(self.trials[number]._trial_id, key, value)

    def _untried(self, trials: list[FrozenTrial]) -> tuple[Value, ...] | None:
        """Settings that no trial has had: what the sampler suggests, or where it repeats itself, the next ones."""
        tried = {tuple(trial.params[name] for name in self._distributions) for trial in trials}
        size = search_space.size(self.axes)
        if size is not None and len(tried) >= size:
            self.exhausted = True
            return None
        # A fixed seed would suggest the same again after a restart; this one gives what an uncut search would get.
        seed = (self.seed + len(trials)) % 2**32
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        # Asked in a copy: in the study itself, a suggestion would be a trial before it is known as a repetition.
        copy = optuna.create_study(direction=self.direction, sampler=sampler)
        copy.add_trials(trials)
        for _ in range(PATIENCE):
            asked = copy.ask(self._distributions)
            values = tuple(axis.exact(value) for axis, value in zip(self.axes, asked.params.values(), strict=True))
            if values not in tried:
                return values
            copy.tell(asked, state=TrialState.FAIL)
        points = (search_space.point(self.axes, (seed + n) % size) for n in range(size or 0))
        values = next((values for values in points if values not in tried), None)
        self.exhausted = values is None
        return values


def status(trial: FrozenTrial) -> str:
    """The status of a trial, in the words of runs: done, pruned, failed, running, or cut."""
    if trial.state == TrialState.RUNNING:
        return "running" if trial.user_attrs[OWNER] else "cut"
    return {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned"}.get(trial.state, "failed")


def distribution(axis: Axis) -> BaseDistribution:
    """An axis as Optuna's distribution."""
    if isinstance(axis, Choices):
        return CategoricalDistribution(axis.words)
    if isinstance(axis.low, int):
        return IntDistribution(axis.low, int(axis.high), axis.log, int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, axis.log, axis.step)


class Report:
    """Reports a run's validations to the search whose trial it is, from the run's own process.

    Args:
        folder: of the run.
        number: of the trial.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._storage = storage(folder.parent / search_space.JOURNAL)
        self._study = optuna.load_study(study_name=NAME, storage=self._storage)
        self._number = number

    def __call__(self, epoch: int, value: float) -> bool:
        """Report a validation; whether the trial is to be given up.

        Reported again after a cut, it replaces what was reported before. A trial that has ended is left alone.

        Args:
            epoch: that has ended, from 1 on.
            value: of what the search ranks by.
        """
        if self._trial.state != TrialState.RUNNING:
            return False
        self._storage.set_trial_intermediate_value(self._trial._trial_id, epoch, value)
        return bool(Pruning(**self._study.user_attrs[PRUNING]).judge().prune(self._study, self._trial))

    @property
    def _trial(self) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[self._number]
