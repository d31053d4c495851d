"""A search's trials in Optuna's journal: claiming the next one, noting how it ended, and pruning.

A trial is one line of the journal with its settings, so that a killed process leaves a whole trial or none. A search
holds a lock of the operating system for each trial that it runs. No settings are tried twice.
"""

import csv
import io
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
from slr.core.files import write_whole
from slr.core.locks import exclusive, is_occupied, occupied

NAME = "slr"
CLAIMS = ".searches"  # in the sweep's folder: a folder for each trial, locked by the search that runs it
REASON = "reason"  # attribute of a trial that failed
SPACE, SETTINGS, PRUNING = "space", "settings", "pruning"  # attributes of the study
ENDS = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
PATIENCE = 10  # repeated suggestions, before the next untried settings are taken

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Lock(JournalFileOpenLock):
    """Optuna's lock by a file, for network file systems too; it also removes half a line that a killed writer left."""

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal

    def acquire(self) -> bool:
        """Wait for the lock, then cut the journal behind its last whole line."""
        super().acquire()
        with self._journal.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
        return True


def storage(journal: Path) -> JournalStorage:
    """The journal, for reading and writing."""
    return JournalStorage(JournalFileBackend(str(journal), Lock(journal)))


@dataclass
class Search:
    """One process's part in a study, while `at_work`."""

    folder: Path  # of the sweep
    axes: Sequence[Axis]
    settings: Mapping[str, Any]  # what all trials share, `key` -> value
    direction: Literal["maximize", "minimize"]
    seed: int
    pruning: Mapping[str, Any]  # `pruner`, `startup_trials` and `warmup_epochs` as `hydra.sweeper` sets them
    tried: set[int] = field(default_factory=set)  # numbers of the trials that this process has run
    exhausted: bool = False  # whether nothing untried is left
    _claims: dict[int, ExitStack] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._distributions = {axis.key.lstrip("+"): distribution(axis) for axis in self.axes}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Create or open the study; at the end, release the trials that this process has claimed.

        Raises:
            UserError: the study has another space, other settings or the other direction.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder, silent=True):
            self._study = self._opened()
        try:
            yield
        finally:
            for number in list(self._claims):
                self.tell(number, "cut")

    def _opened(self) -> optuna.Study:
        journal = storage(self.folder / search_space.JOURNAL)
        study = optuna.create_study(storage=journal, study_name=NAME, direction=self.direction, load_if_exists=True)
        space = [str(axis) for axis in self.axes]
        if SETTINGS not in study.user_attrs:  # the last to be written
            study.set_user_attr(SPACE, space)
            study.set_user_attr(SETTINGS, dict(self.settings))
        before = study.user_attrs
        old = before[SETTINGS] | {"hydra.sweeper.direction": study.direction.name.lower()}
        new = {**self.settings, "hydra.sweeper.direction": self.direction}
        differing = [f"{key}={old.get(key)}" for key in old | new if old.get(key) != new.get(key)]
        if space != before[SPACE] or differing:
            other = f"with {', '.join(differing[:4])}" if space == before[SPACE] else f"over {'; '.join(before[SPACE])}"
            raise UserError(f"{self.folder} holds a search {other}; give this one another name, sweep=NAME")
        if before.get(PRUNING) != self.pruning:
            study.set_user_attr(PRUNING, dict(self.pruning))
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

        None where there is nothing to run now: there are `limit` trials already, or others run the rest.
        """
        with exclusive(self.folder, silent=True):
            trials = self.trials
            number = next((trial.number for trial in trials if self._is_left(trial)), None)
            if number is None and len(trials) < limit and (values := self._untried(trials)) is not None:
                number = len(trials)
                params = dict(zip(self._distributions, values, strict=True))
                options = {"params": params, "distributions": self._distributions}
                self._study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, **options))
            if number is not None:
                self.tried.add(number)
                self._claims[number] = ExitStack()
                self._claims[number].enter_context(occupied(self._claim(number)))
            return number

    def _claim(self, number: int) -> Path:
        return self.folder / CLAIMS / str(number)

    def _is_left(self, trial: FrozenTrial) -> bool:
        """Whether a trial was interrupted, no process runs it, and this process has not tried it."""
        if trial.state != TrialState.RUNNING or trial.number in self.tried:
            return False
        run = search_space.trial_folder(self.folder, trial.number)
        return not (is_occupied(self._claim(trial.number)) or is_occupied(run))

    def status(self, trial: FrozenTrial) -> str:
        """The status of a trial, in the words of runs: done, pruned, failed, running, or cut."""
        if trial.state == TrialState.RUNNING:
            claimed = trial.number in self._claims or is_occupied(self._claim(trial.number))
            return "running" if claimed else "cut"
        return next(status for status, state in ENDS.items() if trial.state == state)

    @property
    def waits(self) -> bool:
        """Whether other processes run trials, which this one would finish if they were killed."""
        return any(trial.state == TrialState.RUNNING and trial.number not in self.tried for trial in self.trials)

    def values(self, number: int) -> list[Value]:
        """A trial's settings, in the order of the axes."""
        return [self.trials[number].params[name] for name in self._distributions]

    def words(self, number: int) -> list[str]:
        """A trial's own settings, as they are typed."""
        return [f"{axis.key}={value}" for axis, value in zip(self.axes, self.values(number), strict=True)]

    def line(self, number: int) -> str:
        """A trial in a line, and the best one so far."""
        trial, best = self.trials[number], self.best
        value = "" if trial.value is None else f", {trial.value:.4g}"
        reason = f": {trial.user_attrs[REASON]}" if REASON in trial.user_attrs else ""
        ahead = f"; best so far {best.value:.4g}, trial {best.number}" if best and best.number != number else ""
        return f"trial {number}: {self.status(trial)}{value}{reason}{ahead}"

    def write_table(self) -> Path:
        """Write all trials to `trials.csv`; returns its path."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["trial", "status", "value", "seconds", "folder", *(axis.key for axis in self.axes), "reason"])
        for trial in self.trials:
            seconds = f"{trial.duration.total_seconds():.1f}" if trial.duration else ""
            folder = search_space.trial_folder(self.folder, trial.number).name
            row = [trial.number, self.status(trial), trial.value, seconds, folder, *self.values(trial.number)]
            writer.writerow([*row, trial.user_attrs.get(REASON, "")])
        path = self.folder / "trials.csv"
        write_whole(path, text.getvalue())
        return path

    def tell(self, number: int, status: str, value: float | None = None, reason: str = "") -> None:
        """Record how a trial ended: done (with its value), pruned, failed, or cut: killed or asked to end.

        A trial that was cut stays open, for another process or the next search.
        """
        trial = self.trials[number]
        if status in ENDS and not trial.state.is_finished():
            if reason:
                self._study._storage.set_trial_user_attr(trial._trial_id, REASON, reason)
            self._study.tell(number, value, ENDS[status])
        self._claims.pop(number).close()

    def _untried(self, trials: list[FrozenTrial]) -> tuple[Value, ...] | None:
        """Settings that no trial has had: the sampler's suggestion, or if it repeats itself, the next ones in order."""
        tried = {tuple(trial.params[name] for name in self._distributions) for trial in trials}
        size = search_space.size(self.axes)
        if size is not None and len(tried) >= size:
            self.exhausted = True
            return None
        # Depends on the number of trials alone, so that a continued search gets the same suggestions.
        seed = (self.seed + len(trials)) % 2**32
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        # A copy: in the study itself, a repeated suggestion would already be a trial.
        copy = optuna.create_study(direction=self.direction, sampler=sampler)
        copy.add_trials(trials)
        for _ in range(PATIENCE):
            asked = copy.ask(self._distributions)
            values = tuple(axis.exact(value) for axis, value in zip(self.axes, asked.params.values(), strict=True))
            if values not in tried:
                return values
            copy.tell(asked, state=TrialState.FAIL)
        points = (search_space.point(self.axes, (seed + n) % (size or 1)) for n in range(size or 0))
        values = next((values for values in points if values not in tried), None)
        self.exhausted = values is None
        return values


def distribution(axis: Axis) -> BaseDistribution:
    """An axis as Optuna's distribution."""
    if isinstance(axis, Choices):
        return CategoricalDistribution(axis.words)
    if isinstance(axis.low, int):
        return IntDistribution(axis.low, int(axis.high), axis.log, int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, axis.log, axis.step)


class Report:
    """Reports a run's validations to the search whose trial `number` it is, from the run's own process."""

    def __init__(self, folder: Path, number: int) -> None:
        self._study = optuna.load_study(study_name=NAME, storage=storage(folder.parent / search_space.JOURNAL))
        self._number = number

    def __call__(self, epoch: int, value: float) -> bool:
        """Report the validation of an epoch, from 1 on, again after a cut; returns whether to prune the trial.

        A trial that has ended stays as it is.
        """
        if self._trial.state != TrialState.RUNNING:
            return False
        self._study._storage.set_trial_intermediate_value(self._trial._trial_id, epoch, value)
        rule = self._study.user_attrs[PRUNING]
        pruner = optuna.pruners.MedianPruner(rule["startup_trials"], rule["warmup_epochs"] + 1)  # epochs count from 1
        return rule["pruner"] == "median" and bool(pruner.prune(self._study, self._trial))

    @property
    def _trial(self) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[self._number]
