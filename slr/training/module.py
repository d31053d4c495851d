"""The LightningModule: loss, validation, optimiser, and what a checkpoint keeps."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import CatMetric

from slr.core import distributed
from slr.core.errors import UserError
from slr.data.batch_image import draw_batch
from slr.data.collate import IGNORED, Batch
from slr.models import internvl, lora
from slr.models.metrics import SHARED, RankingMetrics
from slr.models.processor import Inputs
from slr.models.ranking import LOGIT_BYTES, sequence_log_probabilities
from slr.models.sign_model import SignModel, read_checkpoint

SHOWN = 90  # characters of the prompt's end in TensorBoard's picture; before them stand the frames' tokens
# Steps in a row whose 16-bit gradients may overflow. The scaler begins at 2**16 and halves at each: after so many, a
# smaller scale does not help.
SKIPPED = 16


class SignModule(SignModel, L.LightningModule):
    """A `SignModel` that Lightning trains.

    One training batch is one optimiser step. It is computed in micro-batches whose losses are divided by the clips of
    the whole batch, so gradients do not depend on the micro-batch, the epoch's last, smaller batch included;
    Lightning's own accumulation divides that one by the full count. Nor do they depend on how many processes share the
    batch: each divides by the clips of all, and gradients are summed once, where torch's DistributedDataParallel
    would take the mean over processes, after every micro-batch, and wait for a process whose share is empty.

    Args:
        network, inputs, vocabulary: as of `SignModel`.
        lr: AdamW's peak learning rate, reached after `warmup_steps`, then a cosine to zero.
        weight_decay: AdamW's, decoupled (Loshchilov and Hutter, 2019).
        warmup_steps: optimiser steps; a tenth of the run at most.
        clip_norm: largest norm of the gradient.
        objective: `token`, the mean cross-entropy of the answer's tokens over all words; or `closed_set`, the
            cross-entropy of the gloss over the vocabulary, whose logits are the exact log-probabilities that rank.
        label_smoothing: share of the target spread over all words or, in `closed_set`, over all glosses, in [0, 1).
        micro_batch: clips computed at once in training.
        seed: of the adapter's dropout. Each step draws from (seed, step, process) alone, so that no generator's state
            has to be saved.
    """

    def __init__(
        self,
        network: "internvl.Model",
        inputs: Inputs,
        vocabulary: Sequence[str],
        lr: float,
        weight_decay: float,
        warmup_steps: int,
        clip_norm: float,
        objective: str,
        label_smoothing: float,
        micro_batch: int,
        seed: int,
    ) -> None:
        super().__init__(network, inputs, vocabulary)
        self.automatic_optimization = False
        self.strict_loading = False  # a checkpoint holds the adapter alone
        self.answer_lengths = torch.tensor([len(inputs.answer_ids(gloss)) for gloss in vocabulary])
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.clip_norm = clip_norm
        self.objective = objective
        self.label_smoothing = label_smoothing
        self.micro_batch = micro_batch
        self.seed = seed
        self.metrics = RankingMetrics()
        self.val_losses = CatMetric(nan_strategy="disable", **SHARED)
        self.pending_census = {"lora_B": True, "lora_A": True}
        self.skipped = 0  # newest steps in a row that were skipped because a gradient overflowed
        self.train()  # Lightning does not change modes; without this the adapter's dropout would be off

    def describe(self) -> str:
        """Parameters by part, number format and whether they train; and the size of the vocabulary."""
        rows = lora.census(self.network)
        lines = [
            f"  {row.part:<18} {row.dtype:<9} {row.parameters:>14,} {'trainable' if row.trainable else 'frozen'}"
            for row in rows
        ]
        trained = sum(row.parameters for row in rows if row.trainable)
        share = trained / sum(row.parameters for row in rows)
        lines.append(f"  {trained:,} trainable parameters ({share:.2%}); {len(self.vocabulary)} glosses")
        return "\n".join(["parameters:", *lines])

    def clip_losses(self, batch: Batch, rows: slice) -> Tensor:
        """The objective's loss for some clips of a batch: float32 (b,), in nats."""
        features = self.features(batch, rows)
        tokens, mask = batch["input_ids"][rows], batch["attention_mask"][rows]
        if self.objective == "closed_set":
            scores = sequence_log_probabilities(self.network, features, tokens, mask, self.trie, LOGIT_BYTES)
            return cross_entropy(scores, batch["gloss"][rows], reduction="none", label_smoothing=self.label_smoothing)
        hidden = internvl.hidden_states(self.network, features, tokens, mask)
        return internvl.answer_loss(self.network, hidden, batch["labels"][rows], self.label_smoothing)

    def backward_batch(self, batch: Batch) -> Tensor:
        """Add the gradient of a step's mean loss, micro-batch by micro-batch; returns the mean loss, float32 ().

        Args:
            batch: this process's share of the step's clips, which may be empty.
        """
        share = len(batch["clip"])
        clips = sum(distributed.gather(share))
        total = torch.zeros((), device=self.device)
        for start in range(0, share, self.micro_batch):
            loss = self.clip_losses(batch, slice(start, start + self.micro_batch)).sum() / clips
            self.manual_backward(loss)
            total += loss.detach()
        trained = self._trained()
        for parameter in trained if share == 0 else []:
            parameter.grad = torch.zeros_like(parameter)
        # A gradient that is missing stays missing, for the census, and counts as zero for the others.
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        distributed.all_reduce_sum([*gradients, total])
        return total

    def on_train_start(self) -> None:
        """Check that all processes have the same adapter."""
        self.check_same_adapter()

    def training_step(self, batch: Batch, index: int) -> None:
        """One optimiser step.

        Raises:
            UserError: the loss, or a gradient that no scale of 16-bit arithmetic explains, is not finite.
        """
        torch.manual_seed(step_seed(self.seed, self.global_step, distributed.place().rank))
        if self.global_step == 0:
            self._show(batch)
        # One of each, where Lightning's types allow several.
        optimizer, scheduler = cast(LightningOptimizer, self.optimizers()), cast(LambdaLR, self.lr_schedulers())
        loss = self.backward_batch(batch)
        if not loss.isfinite():  # no scale explains that: only gradients are scaled
            raise _overflow("the loss is not finite")
        self.log("train/lr", scheduler.get_last_lr()[0], batch_size=1)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        self.log("train/loss", loss, prog_bar=True, batch_size=1)

    def _show(self, batch: Batch) -> None:
        """Write the batch to TensorBoard as the model gets it: frames, prompt and the labels that count."""
        if not isinstance(self.logger, TensorBoardLogger):
            return
        loader: Any = self.trainer.train_dataloader
        frames = batch["frames"] if "frames" in batch else loader.dataset.frames_of(batch["clip"])
        captions = []
        for tokens, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            prompt = tokens[(mask == 1) & (labels == IGNORED) & (tokens != self.inputs.image_token_id)]
            answer = labels[labels != IGNORED]  # none where the objective ranks
            question = " ".join(self.inputs.decode(prompt.tolist()).split())
            captions.append(f"{self.inputs.decode(answer.tolist())}   after   … {question[-SHOWN:]}")
        self.logger.experiment.add_image("train/batch", draw_batch(frames, captions))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip, then census. Gradients are unscaled here in 16-bit too."""
        if self.clip().isfinite():
            self.skipped = 0
            if any(self.pending_census.values()):
                self._take_census()
        elif self.trainer.precision != "16-mixed":
            raise _overflow("the gradient is not finite")
        else:  # the scaler begins too high on purpose: its first steps overflow and are skipped
            self.skipped += 1
            if self.skipped > SKIPPED:
                raise _overflow(f"the gradient is not finite in {self.skipped} steps in a row")

    def on_train_end(self) -> None:
        """Check that the training has made a step at all.

        Not at the first validation: of a small training part, the scaler's first steps are an epoch and more.
        """
        if 0 < self.skipped == self.global_step:
            raise _overflow(f"the gradient was not finite in any of the {self.skipped} steps")

    def clip(self) -> Tensor:
        """Shorten the gradient to `clip_norm`; returns its norm before, float32 ()."""
        return torch.nn.utils.clip_grad_norm_(self._trained(), self.clip_norm, foreach=self._foreach())

    def _trained(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def _foreach(self) -> bool | None:
        """Torch's own choice, but on DirectML, which has no operators on lists."""
        return False if self.device.type == "privateuseone" else None

    def _take_census(self) -> None:
        """lora_A gets a gradient only once lora_B, zero at first, has moved."""
        moved = not self.pending_census["lora_B"]
        if offenders := lora.gradient_census(self.network, a_moves=moved):
            named = ", ".join(offenders[:8]) + (", …" if len(offenders) > 8 else "")
            raise UserError(
                f"{len(offenders)} adapter tensors got no usable gradient: {named}; "
                "something between them and the loss is detached"
            )
        self.pending_census = {"lora_B": False, "lora_A": not moved}

    def validation_step(self, batch: Batch, index: int) -> None:
        """Rank a batch and update the metrics."""
        log_probability = self.rank(batch)
        self.metrics.update(log_probability, batch["gloss"])
        if self.objective == "closed_set":
            self.val_losses.update(cross_entropy(log_probability, batch["gloss"], reduction="none"))
        else:
            own = log_probability.gather(1, batch["gloss"][:, None])[:, 0]
            self.val_losses.update(-own / self.answer_lengths.to(own.device)[batch["gloss"]])

    def on_validation_epoch_end(self) -> None:
        """Log every metric, top-1's interval, and the mean over clips of the objective's loss, without smoothing."""
        figures = self.metrics.compute()
        values = {name: figure.value for name, figure in figures.items()}
        values |= {"top1_low": figures["top1"].low, "top1_high": figures["top1"].high, "n": figures["top1"].n}
        # Sorted, so that the sum has the same digits in whatever order processes computed the clips.
        values["loss"] = float(self.val_losses.compute().cpu().double().sort().values.mean())
        self.log_dict({f"val/{name}": value for name, value in values.items()})
        self.metrics.reset()
        self.val_losses.reset()

    def optimizer(self, fused: bool) -> AdamW:
        """AdamW over what trains."""
        foreach = None if fused else self._foreach()
        return AdamW(self._trained(), lr=self.lr, weight_decay=self.weight_decay, fused=fused, foreach=foreach)

    def configure_optimizers(self) -> Any:  # noqa: ANN401  Lightning's type is a union of eleven
        """AdamW over the adapter; the schedule steps with the optimiser."""
        # One kernel for all tensors; not where gradients are scaled, which it would unscale after they are clipped.
        optimizer = self.optimizer(fused=self.device.type == "cuda" and self.trainer.precision != "16-mixed")
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = min(self.warmup_steps, steps // 10)
        if warmup < self.warmup_steps:
            self.print(f"warm-up: {warmup} steps instead of {self.warmup_steps}, a tenth of the run's {steps}")
        return [optimizer], [LambdaLR(optimizer, lambda step: schedule(step, warmup, steps))]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the adapter, its vocabulary, the newest validation metrics and the count of skipped steps."""
        checkpoint["state_dict"] = {f"network.{k}": v for k, v in lora.adapter_state(self.network).items()}
        checkpoint["vocabulary"] = self.vocabulary
        checkpoint["skipped"] = self.skipped
        logged = self.trainer.callback_metrics
        checkpoint["metrics"] = {k.removeprefix("val/"): float(v) for k, v in logged.items() if k.startswith("val/")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the count of skipped steps; old checkpoints have none."""
        self.skipped = checkpoint.get("skipped", 0)

    def begin_with(self, path: Path) -> None:
        """Load the adapter of an earlier training, whatever its glosses were.

        Args:
            path: a checkpoint, or the weights of an exported adapter.

        Raises:
            UserError: the file is neither, or of other layers.
        """
        if path.suffix == ".ckpt":
            lora.load_adapter_state(self.network, read_checkpoint(path)[0])
        else:
            lora.load_exported(self.network, path)


class TrainingPosition(NamedTuple):
    """Where in a training a checkpoint was saved."""

    step: int = 0  # optimiser steps done
    validated: bool = True  # whether the validation of the last finished epoch is done


def place_of(checkpoint: Path | None) -> TrainingPosition:
    """Where a checkpoint was saved; the beginning without one."""
    if checkpoint is None:
        return TrainingPosition()
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return TrainingPosition(content["global_step"], content["validated"])


def _overflow(what: str) -> UserError:
    return UserError(
        f"{what}: weights or arithmetic have overflowed; lower optimizer.lr, or use hardware.precision=32-true"
    )


def step_seed(seed: int, step: int, process: int) -> int:
    """A seed of 64 bits for what is random in one step of one process.

    >>> step_seed(0, 1, 0) == step_seed(0, 1, 0), step_seed(0, 1, 0) == step_seed(1, 0, 0)
    (True, False)
    """
    return int(np.random.SeedSequence([seed, step, process]).generate_state(1, np.uint64)[0])


def schedule(step: int, warmup: int, steps: int) -> float:
    """The learning rate at `step` as a share of its peak: a line up over `warmup` steps, then half a cosine to zero.

    >>> [round(schedule(step, 2, 6), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
