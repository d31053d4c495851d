"""Lightning's loop: what is saved and when, how a training ends early, and how it continues.

Everything random depends on the seed and on the number of the step, and batches on the epoch and its number, so a
checkpoint between any two steps is exact, and its place in the training follows from the number of steps alone.
"""

import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from slr.core import checkpoints, distributed
from slr.core.errors import UserError
from slr.core.hardware import Machine
from slr.core.signals import Stopping

BRIEF = 60.0  # seconds of training that may be lost when a validation is killed
LOSS = "val/loss"  # the one monitor that is better when it is smaller
SCORE = "val/top1"  # what sweeps and searches rank by


class PlainCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to its path; `slr.core.checkpoints` makes that atomic.

    Lightning's own way holds it in memory twice, and writes it first into the system's temporary folder, which may be
    small or on another disk, and where a killed process leaves it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write; the folder is made. Tensors are moved to the CPU, so that any machine can read them."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save(move_data_to_device(checkpoint, torch.device("cpu")), path)


@dataclass(eq=False)
class CheckpointCallback(Checkpoint):
    """Saves a training's state, and ends the training when a signal has asked for that.

    States are saved every `every` minutes, around each validation, and when the process is asked to end, after the
    curves have been written. Of several processes the main process saves, by its clock, and all end when one is asked.
    """

    folder: Path  # of the checkpoints
    monitor: str  # the validation metric that decides which checkpoint is the best
    every: float  # minutes between two states, at most, as far as single steps allow
    stopping: Stopping  # what a signal has asked for
    tell: Callable[[Mapping[str, Any]], None]  # called with the progress whenever that has been saved
    best: float | None = field(default=None, init=False)
    ties: tuple[float, ...] = field(default=(math.inf, math.inf), init=False)  # the best's MRR and minus its loss
    moved: bool = field(default=False, init=False)  # whether two validations had different scores
    saved: float = field(default_factory=time.monotonic, init=False)
    validated: bool = field(default=True, init=False)  # whether the validation of the last finished epoch is done

    @property
    def state_key(self) -> str:
        """The name of its state in a checkpoint; Lightning's own would change with the name of the class."""
        return "Keeper"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers again: Lightning has replaced them."""
        self.stopping.listen()
        self.stopping.deferred = True
        self.saved = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Save if it is time: all curves of the step before are written here, and nothing of the next."""
        self._end_if_asked(trainer, save=self._is_older_than(60 * self.every))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before a validation, which may be long, unless the last state is recent."""
        self.validated = False
        if self._is_older_than(min(60 * self.every, BRIEF)):
            self._save(trainer, best=False)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Save and end if a signal has asked for that; a validation does not change the state."""
        self._end_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, as the best checkpoint if it is."""
        self.validated = True
        score, mrr, loss = (float(trainer.callback_metrics[name]) for name in (self.monitor, "val/mrr", LOSS))
        better = self._is_better(score, (mrr, -loss))
        self.moved |= self.best not in (None, score)
        if better:
            self.best, self.ties = score, (mrr, -loss)
        self._save(trainer, best=better)
        pl_module.print(_epoch(trainer) + (", the best so far" if better else ""))
        if code := self.asked():
            raise SystemExit(code)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if the score that chooses the best checkpoint was the same after every epoch."""
        if self.best is not None and not self.moved and trainer.current_epoch > 1:
            pl_module.print(
                f"warning: {self.monitor} was {self.best:.3f} after every epoch, so val/mrr and {LOSS} chose the best "
                "checkpoint; the model has perhaps not learned: train for more epochs, or change optimizer.lr"
            )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs."""
        return {"best": self.best, "ties": self.ties, "moved": self.moved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.best = state_dict["best"]
        self.ties = tuple(state_dict.get("ties", self.ties))  # in an old state, only a better score replaces the best
        self.moved = state_dict.get("moved", self.best is not None)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the place in the training as Lightning reads it, and whether early stopping has ended it."""
        checkpoint["ended"] = trainer.should_stop
        checkpoint["validated"] = self.validated
        place(checkpoint["loops"]["fit_loop"], trainer.global_step, int(trainer.num_training_batches), self.validated)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Stay ended if early stopping has ended the training: Lightning itself would train one epoch more."""
        if checkpoint["ended"]:
            pl_module.print("early stopping had ended the training")
        trainer.should_stop = checkpoint["ended"]

    def asked(self) -> int | None:
        """The exit code that any of the processes was asked to end with, the same in all at the same place.

        A signal that arrives while this one waits is left for the next call: the others could not know of it.
        """
        code = next((code for code in distributed.gather(self.stopping.code) if code is not None), None)
        if code is not None:
            self.stopping.told(code)
        return code

    def _end_if_asked(self, trainer: Trainer, save: bool = False) -> None:
        code = self.asked()
        if code or save:
            self._save(trainer, best=False)
        if code:
            raise SystemExit(code)

    def _is_better(self, score: float, ties: tuple[float, ...]) -> bool:
        """Whether a validation is better than the best one: by the monitor, then by MRR, then by the loss."""
        if self.best is None or score == self.best:
            return self.best is None or ties > self.ties
        return score < self.best if self.monitor == LOSS else score > self.best

    def _is_older_than(self, seconds: float) -> bool:
        """Whether the last state is, by the main process's clock."""
        return distributed.gather(time.monotonic() - self.saved >= seconds)[0]

    def _save(self, trainer: Trainer, best: bool) -> None:
        distributed.on_main(lambda: self._write(trainer, best))
        self.saved = time.monotonic()

    def _write(self, trainer: Trainer, best: bool) -> None:
        for logger in trainer.loggers:
            logger.save()  # a killed process writes no more
        trainer.save_checkpoint(self.folder / checkpoints.PART)
        checkpoints.install(self.folder, best)
        steps = int(trainer.estimated_stepping_batches)
        self.tell({"step": trainer.global_step, "steps": steps, self.monitor: self.best})


@dataclass(eq=False)
class Pruner(Callback):
    """Reports each validation to a search, and ends the training if the search gives it up."""

    report: Callable[[int, float], bool]  # (number of the finished epoch, from 1 on; its score) -> whether to give up
    pruned: bool = field(default=False, init=False)

    @property
    def state_key(self) -> str:
        """As `CheckpointCallback.state_key`."""
        return "Pruner"

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, before `CheckpointCallback` saves; a training that ends here anyway is not given up."""
        epoch, score = trainer.current_epoch + 1, float(trainer.callback_metrics[SCORE])
        hopeless = distributed.on_main(lambda: self.report(epoch, score))
        if hopeless and not trainer.should_stop and epoch != trainer.max_epochs:
            self.pruned = trainer.should_stop = True
            pl_module.print(f"pruned: {SCORE} {score:.3f} after epoch {epoch} is below the median of the other trials")

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs."""
        return {"pruned": self.pruned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.pruned = state_dict["pruned"]


class ProgressBar(TQDMProgressBar):
    """Lightning's, which counts epochs from 0, counting from 1 as all messages do."""

    def on_train_epoch_start(self, trainer: Trainer, *modules: object) -> None:
        """Write the number of the epoch."""
        super().on_train_epoch_start(trainer, *modules)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}")


def _epoch(trainer: Trainer) -> str:
    """An epoch's metrics in a line."""
    names = [name for name in ("train/loss", LOSS, SCORE, "val/mrr") if name in trainer.callback_metrics]
    figures = ", ".join(f"{name} {float(trainer.callback_metrics[name]):.3f}" for name in names)
    return f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}: {figures}"


def place(loop: dict[str, Any], step: int, batches: int, validated: bool) -> None:
    """Write a place in a training into the state of Lightning's fit loop, as its restart logic reads it.

    Lightning's own counts depend on the hook that saves, and from some hooks' states it does not continue where it was
    (Lightning issue 18780).

    Args:
        loop: `fit_loop` of a checkpoint's loops, changed here.
        step: optimiser steps done, each of one batch.
        batches: of an epoch.
        validated: whether the validation after the last finished epoch is done.
    """
    epochs, rest = divmod(step, batches)
    waits = step > 0 and rest == 0 and not validated  # for the validation that ends an epoch
    if waits:
        epochs, rest = epochs - 1, batches
    begun = epochs + (rest > 0)
    epoch = {"ready": begun, "started": begun, "processed": epochs, "completed": epochs}
    loop["epoch_progress"] = {"total": dict(epoch), "current": dict(epoch)}
    loop["epoch_loop.batch_progress"] = {
        "total": dict.fromkeys(epoch, step),
        "current": dict.fromkeys(epoch, rest),
        "is_last_batch": waits,
    }
    # A validation batch that has begun and not ended makes Lightning validate first, from the first batch on.
    batch = {"ready": int(waits), "started": int(waits), "processed": 0, "completed": 0}
    loop["epoch_loop.val_loop.batch_progress"] = {"total": batch, "current": dict(batch), "is_last_batch": False}
    loop["epoch_loop.state_dict"] = {"_batches_that_stepped": step - waits}


def build_trainer(
    machine: Machine,
    epochs: int,
    logger: TensorBoardLogger | None,
    keeper: CheckpointCallback,
    patience: EarlyStopping,
    pruner: Pruner | None = None,
) -> Trainer:
    """Lightning's trainer, without its own messages.

    Of several processes each has one, which knows of no other: they communicate by `slr.core.distributed`. Lightning's
    own strategies would look for Slurm and requeue the job, ask for SIGTERM by a message in every step, and send one
    from inside the signal's handler, while the others may not be waiting for it.

    Raises:
        UserError: Lightning would train on another device.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec", FutureWarning)  # Lightning 2.6 with torch 2.15
    warnings.filterwarnings("ignore", ".*recommended to use `self.log.*sync_dist")  # metrics are gathered before
    warnings.filterwarnings("ignore", ".*does not have many workers")  # hardware.workers was chosen
    warnings.filterwarnings("ignore", ".*your dataloader is not resumable")  # ours asks the trainer where it is
    where: dict[str, Any] = {"accelerator": machine.kind, "devices": 1}
    if machine.kind == "cuda":
        where["devices"] = [torch.cuda.current_device()]
    elif machine.kind == "directml":
        from slr.training.directml import strategy

        where = {"strategy": strategy()}
    trainer = Trainer(
        **where,
        precision=cast(Any, machine.precision if machine.mixed else "32-true"),  # what trains is in 32 bits
        max_epochs=epochs,
        logger=logger or False,
        callbacks=[patience, *([pruner] if pruner else []), keeper, ProgressBar(leave=False)],
        plugins=[PlainCheckpointIO(), LightningEnvironment()],
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,  # `SignModule.describe` says more
    )
    if trainer.strategy.root_device.type != torch.device(machine.device).type:
        raise UserError(f"hardware={machine.kind}: Lightning would train on {trainer.strategy.root_device} instead")
    return trainer


def early_stopping(monitor: str, patience: int) -> EarlyStopping:
    """Stop after `patience` epochs in which `monitor` did not get better.

    It counts when a validation ends, before `CheckpointCallback` saves; at the epoch's end, Lightning's own choice, its
    count would be missing in the checkpoint from which a killed training continues.
    """
    mode = "min" if monitor == LOSS else "max"
    return EarlyStopping(monitor, mode=mode, patience=patience, check_on_train_epoch_end=False)
