"""The training loop of both stages."""

from collections.abc import Iterable, Sequence
from math import cos, pi

import torch
from torch import Tensor, nn

WARM_UP = 100  # steps
SHOWN = 100  # steps between two lines of the curve


def fit(
    stage: str,
    parts: nn.Module,
    losses: Iterable[tuple[Tensor, Tensor]],
    steps: int,
    rate: float,
    betas: tuple[float, float],
    names: Sequence[str],
) -> None:
    """Train the parts in place by AdamW; print the named metrics' means every 100 steps.

    `losses` gives (loss, metrics) of each step, computed when asked for, so with the weights of that step.
    """
    optimiser = torch.optim.AdamW(parts.parameters(), lr=rate, weight_decay=0.01, betas=betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _warm_cosine(step, steps))
    recent: list[Tensor] = []
    for step, (loss, metrics) in enumerate(losses, start=1):
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        recent.append(metrics)
        if step % SHOWN == 0:
            print(f"{stage} {step:5d}  {means(names, recent)}", flush=True)
            recent.clear()


def means(names: Sequence[str], metrics: Sequence[Tensor]) -> str:
    """The mean of each metric over some steps, with its name."""
    values = torch.stack(list(metrics)).nanmean(0).tolist()
    return "  ".join(f"{name} {value:.3f}" for name, value in zip(names, values, strict=True))


def _warm_cosine(step: int, steps: int) -> float:
    """Factor of the learning rate: linear warm-up, then half a cosine down to a fiftieth."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.02 + 0.98 * (1 + cos(pi * (step - WARM_UP) / max(steps - WARM_UP, 1))) / 2
