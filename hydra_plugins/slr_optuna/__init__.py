"""`hydra/sweeper=optuna`: a search, whose trials are jobs of any launcher, each in a folder of its own.

Hydra imports this at every start, so Optuna is imported when a search begins.
"""

import csv
import io
import math
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from slr.config import compose, overrides, schema, search_space, sweep_name
from slr.core.errors import UserError, explained
from slr.core.files import read_json, write_whole
from slr.core.run_folder import RunFolder, status_of
from slr.core.signals import listening

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from slr.sweeps.optuna_study import Search

POLL = 1.0  # seconds between two looks at what other processes run
TABLE = "trials.csv"


@dataclass
class OptunaConf(schema.Checked, group="hydra.sweeper"):
    """What `hydra.sweeper.…` sets."""

    _target_: str = "hydra_plugins.slr_optuna.Optuna"
    n_trials: Annotated[int, schema.at_least(1)] = 20  # of the whole study: what earlier calls have run counts
    direction: Annotated[str, schema.one_of("maximize", "minimize")] = "maximize"
    seed: Annotated[int, schema.at_least(0)] = 0  # of the suggestions
    at_once: Annotated[int, schema.at_least(1)] = 1  # trials that are asked for and launched together
    pruner: Annotated[str, schema.one_of("median", "none")] = "median"
    startup_trials: Annotated[int, schema.at_least(1)] = 5  # that go to their end before one is pruned
    warmup_epochs: Annotated[int, schema.at_least(0)] = 1  # of each trial, after which it is not pruned yet


ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=OptunaConf, provider="slr")


class Optuna(Sweeper):
    """Asks for trials, launches them, and tells the study how they ended."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401  the fields of OptunaConf
        """See `OptunaConf`."""
        self.settings = explained(lambda: OptunaConf(**settings))
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra calls this once."""
        from hydra.core.plugins import Plugins  # as Hydra's own sweeper does; it imports every plugin

        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> float:
        """Search; the best value.

        Raises:
            SystemExit: 1 where no trial has a value, or one has not ended; 2 for a mistake.
        """
        with listening():
            return explained(lambda: self._search(arguments))

    def _search(self, arguments: list[str]) -> float:
        assert self.config is not None
        search_space.require_optuna()
        from slr.sweeps import optuna_study

        axes, fixed = sweep_name.axes(arguments, self.config)
        given = self.settings
        search = optuna_study.Search(
            folder=Path(self.config.hydra.sweep.dir).absolute(),
            axes=axes,
            settings=sweep_name.shared(self.config, [axis.key for axis in axes]),
            direction=cast(Any, given.direction),
            seed=given.seed,
            pruning=optuna_study.Pruning(given.pruner, given.startup_trials, given.warmup_epochs),
        )
        with search.at_work():
            print(f"search: {len(search.trials)} of {given.n_trials} trials are in {search.folder}", flush=True)
            while True:
                if batch := self._batch(search):
                    self._launch(search, fixed, batch)
                    write_whole(search.folder / TABLE, table(search))
                elif search.waits:
                    time.sleep(POLL)
                else:
                    return self._end(search, fixed)

    def _batch(self, search: "Search") -> list[int]:
        """Trials to run now, at most `at_once`."""
        batch = []
        while len(batch) < self.settings.at_once:
            number = search.claim(self.settings.n_trials)
            if number is None:
                break
            batch.append(number)
        return batch

    def _launch(self, search: "Search", fixed: list[str], batch: list[int]) -> None:
        """Run some trials to their end, and tell how they ended."""
        assert self.launcher is not None
        words = {number: self._words(search, fixed, number) for number in batch}
        for number in batch:
            if wrong := self._wrong(words[number]):
                search.failed(number, wrong)
                del words[number]
        if words:
            ended = self.launcher.launch(list(words.values()), initial_job_idx=batch[0])
            for number, job in zip(words, ended, strict=True):
                tell(search, number, job)
        for number in batch:
            print(line(search, number), flush=True)

    def _words(self, search: "Search", fixed: list[str], number: int) -> list[str]:
        """What would be typed for a trial alone."""
        place = search_space.trial_folder(search.folder, number)
        # The sweep's folder may be named after what is searched over, which differs from trial to trial.
        where = [f"hydra.sweep.dir={overrides.quoted(str(place.parent))}", f"hydra.sweep.subdir={place.name}"]
        return [*fixed, *own_words(search, number), *where]

    def _wrong(self, words: list[str]) -> str:
        """Why a trial cannot be: every end was checked before the start, but not every combination of them."""
        assert self.config is not None
        assert self.hydra_context is not None
        try:
            compose.to_typed(self.hydra_context.config_loader.load_sweep_config(self.config, words))
        except (UserError, HydraException) as error:
            return " ".join(str(error).split())
        return ""

    def _end(self, search: "Search", fixed: list[str]) -> float:
        """Say what came of it; the best value."""
        from slr.sweeps.optuna_study import status

        write_whole(search.folder / TABLE, table(search))
        trials = search.trials
        if search.exhausted and len(trials) < self.settings.n_trials:
            print(f"all of the space was tried, in {len(trials)} trials")
        states = Counter(status(trial) for trial in trials)
        for trial in trials:
            if status(trial) not in ("done", "pruned"):
                print(line(search, trial.number))
        told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        print(f"{len(trials)} trials: {told}; {search.folder / TABLE}")
        if states["cut"]:
            print("the same command again goes on with what was cut")
        best = search.best
        if best is None:
            raise SystemExit(1)
        self._praise(search, fixed, best)
        if states["cut"] or states["running"]:
            raise SystemExit(1)
        return cast(float, best.value)

    def _praise(self, search: "Search", fixed: list[str], best: "FrozenTrial") -> None:
        """Say which trial was best, and how to see whether it was luck."""
        settings = own_words(search, best.number)
        print(f"best: trial {best.number}, {best.value:.4g}: {' '.join(settings)}")
        print(f"  in {search_space.trial_folder(search.folder, best.number)}")
        seed = OmegaConf.select(cast(DictConfig, self.config), "seed")
        if isinstance(seed, int):
            kept = [word for word in fixed if word.partition("=")[0].lstrip("+") not in ("seed", "sweep")]
            others = ",".join(str(seed + more) for more in (1, 2, 3))
            command = ["python", "train.py", "-m", *overrides.typed([*kept, *settings]), f"seed={others}"]
            print(f"  with other seeds, since the best of many is luck in part: {shlex.join(command)}")


def own_words(search: "Search", number: int) -> list[str]:
    """What a trial has for itself."""
    return [search_space.word(axis, value) for axis, value in zip(search.axes, search.values(number), strict=True)]


def tell(search: "Search", number: int, job: JobReturn) -> None:
    """Tell the study how a trial's job ended."""
    folder = RunFolder(search_space.trial_folder(search.folder, number))
    status = status_of(folder)
    if job.status == JobStatus.COMPLETED:
        value = job.return_value
        if status == "pruned":
            search.pruned(number)
        elif isinstance(value, int | float) and math.isfinite(value):
            search.done(number, float(value))
        else:
            search.failed(number, f"expected a finite number from the run, found {value}")
    elif status not in ("failed", "missing"):  # killed, stopped, or never begun
        search.cut(number)
    else:
        facts = read_json(folder.result) if folder.result.is_file() else {}
        cause = cast(Any, job)._return_value  # `return_value` would raise it
        text = f"{type(cause).__name__}: {cause}" if isinstance(cause, BaseException) else "its process has failed"
        search.failed(number, facts.get("error", " ".join(text.split())))


def line(search: "Search", number: int) -> str:
    """A trial in a line, and the best one so far."""
    from slr.sweeps.optuna_study import REASON, status

    trial = search.trials[number]
    value = "" if trial.value is None else f", {trial.value:.4g}"
    reason = f": {trial.user_attrs[REASON]}" if REASON in trial.user_attrs else ""
    best = search.best
    ahead = f"; best so far {best.value:.4g}, trial {best.number}" if best and best.number != number else ""
    return f"trial {number}: {status(trial)}{value}{reason}{ahead}"


def table(search: "Search") -> str:
    """All trials as CSV."""
    from slr.sweeps.optuna_study import REASON, status

    def row(trial: "FrozenTrial") -> Sequence[object]:
        seconds = f"{trial.duration.total_seconds():.1f}" if trial.duration else ""
        folder = search_space.trial_folder(search.folder, trial.number).name
        told = [trial.number, status(trial), "" if trial.value is None else trial.value, seconds, folder]
        return [*told, *search.values(trial.number), trial.user_attrs.get(REASON, "")]

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "status", "value", "seconds", "folder", *(axis.key for axis in search.axes), "reason"])
    writer.writerows(row(trial) for trial in search.trials)
    return text.getvalue()
