"""`hydra/sweeper=optuna`: a search, whose trials are jobs of any launcher, each in a folder of its own.

Hydra imports this at every start, so Optuna is imported when a search begins.
"""

import math
import shlex
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from slr.config import compose, overrides, schema, search_space, sweep_name
from slr.core.env import command
from slr.core.errors import UserError, explained
from slr.core.run_folder import RunFolder, status_of
from slr.core.signals import listening

if TYPE_CHECKING:
    from slr.sweeps.optuna_study import Search

POLL = 1.0  # seconds between two checks of what other processes run


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
    """Asks for trials, launches them, and records how they ended."""

    hydra_context: HydraContext
    config: DictConfig
    launcher: Launcher

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401  the fields of OptunaConf
        """See `OptunaConf`."""
        self.settings = explained(lambda: OptunaConf(**settings))

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
        search_space.require_optuna()
        from slr.sweeps import optuna_study

        axes, fixed = sweep_name.axes(arguments, self.config)
        options = self.settings
        search = optuna_study.Search(
            folder=Path(self.config.hydra.sweep.dir).absolute(),
            axes=axes,
            settings=sweep_name.shared(self.config, [axis.key for axis in axes]),
            direction=cast(Any, options.direction),
            seed=options.seed,
            pruning={key: getattr(options, key) for key in ("pruner", "startup_trials", "warmup_epochs")},
        )
        with search.at_work():
            print(f"search: {len(search.trials)} of {options.n_trials} trials are in {search.folder}", flush=True)
            while True:
                claimed = (search.claim(options.n_trials) for _ in range(options.at_once))
                if batch := [number for number in claimed if number is not None]:
                    self._launch(search, fixed, batch)
                    search.write_table()
                elif search.waits:
                    time.sleep(POLL)
                else:
                    return self._end(search, fixed)

    def _launch(self, search: "Search", fixed: list[str], batch: list[int]) -> None:
        """Run some trials, and record how they ended."""
        # The sweep's folder may be named after what is searched over, which differs from trial to trial.
        words = {
            number: [
                *(*fixed, *search.words(number)),
                f"hydra.sweep.dir={overrides.quoted(str(search.folder))}",
                f"hydra.sweep.subdir={search_space.trial_folder(search.folder, number).name}",
            ]
            for number in batch
        }
        for number in batch:
            try:
                compose.to_typed(self.hydra_context.config_loader.load_sweep_config(self.config, words[number]))
            except (UserError, HydraException) as error:  # single values were checked before; not how they combine
                search.tell(number, "failed", reason=" ".join(str(error).split()))
                del words[number]
        if words:
            ended = self.launcher.launch(list(words.values()), initial_job_idx=batch[0])
            for number, job in zip(words, ended, strict=True):
                tell(search, number, job)
        for number in batch:
            print(search.line(number), flush=True)

    def _end(self, search: "Search", fixed: list[str]) -> float:
        """Print the result; the best value."""
        table, trials, best = search.write_table(), search.trials, search.best
        if search.exhausted and len(trials) < self.settings.n_trials:
            print(f"the whole space was tried, in {len(trials)} trials")
        states = Counter(map(search.status, trials))
        for trial in trials:
            if search.status(trial) not in ("done", "pruned"):
                print(search.line(trial.number))
        summary = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        print(f"{len(trials)} trials: {summary}; {table}")
        if states["cut"]:
            print("the same command again continues the trials that were cut")
        if best is not None:
            self._show_best(search, fixed, best.number)
        if best is None or states["cut"] or states["running"]:
            raise SystemExit(1)
        return cast(float, best.value)

    def _show_best(self, search: "Search", fixed: list[str], number: int) -> None:
        """Print which trial was best, and the command that shows whether it was luck."""
        settings = search.words(number)
        print(f"best: trial {number}, {search.trials[number].value:.4g}: {' '.join(settings)}")
        print(f"  in {search_space.trial_folder(search.folder, number)}")
        kept = [word for word in fixed if word.partition("=")[0].lstrip("+") not in ("seed", "sweep")]
        seeds = ",".join(str(self.config.seed + more) for more in (1, 2, 3))
        words = shlex.join(["-m", *overrides.typed([*kept, *settings]), f"seed={seeds}"])
        print(f"  with other seeds, since the best of many is partly luck: {command('train', words)}")


def tell(search: "Search", number: int, job: JobReturn) -> None:
    """Record in the study how a trial's job ended."""
    folder = RunFolder(search_space.trial_folder(search.folder, number))
    status = status_of(folder)
    value = cast(Any, job)._return_value  # `return_value` would raise an exception
    if job.status != JobStatus.COMPLETED:
        text = f"{type(value).__name__}: {value}" if isinstance(value, Exception) else "its process has failed"
        ended = status in ("failed", "missing")  # else killed, stopped, or never begun
        search.tell(number, "failed" if ended else "cut", reason=folder.facts.get("error", " ".join(text.split())))
    elif status == "pruned":
        search.tell(number, "pruned")
    elif isinstance(value, int | float) and math.isfinite(value):
        search.tell(number, "done", float(value))
    else:
        search.tell(number, "failed", reason=f"expected a finite number from the run, found {value}")
