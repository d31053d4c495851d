"""Two tiny steps before a training on a device that may lack an operator, or compute one wrongly.

The tiny model has the layers of every InternVL, so its steps have the operators of theirs: loss, backward pass,
clipping, optimiser, ranking. DirectML runs what it lacks on the CPU, not always correctly (in its issue 431 a tensor
comes back empty), so numbers are compared with the CPU's too.
"""

import re
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from slr.core.errors import UserError
from slr.data.collate import Batch, Sample, collate_ranking, collate_training
from slr.models import lora
from slr.training.module import SignModule

FRAMES = 2
STEPS = 2  # the adapter's A moves in the second only
# Largest difference as a share of the CPU's largest number: sums in another order; with 16 or 4 bits.
NEAR, COARSE = 1e-3, 5e-2


def run_preflight(build: Callable[[str], SignModule], kind: str, device: str, exact: bool) -> list[str]:
    """Compute the steps on a device and on the CPU; returns the operators that the device left to the CPU.

    Args:
        build: makes a recognizer of the tiny model, without dropout, on a device by torch's name.
        kind: of the device, for messages.
        device: by torch's name.
        exact: whether all numbers have 32 bits.

    Raises:
        UserError: an operator is missing, by its name; or the device computes something else than the CPU.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            ours = build(device)
            start = lora.adapter_state(ours.network)
            numbers = steps(ours, start)
        except RuntimeError as error:  # NotImplementedError is one
            lacking, lines = operator_in(str(error)), str(error).strip().splitlines()
            what = f"{lacking} is missing" if lacking else f"a tiny step fails ({lines[0][:200]})"
            raise UserError(
                f"hardware={kind}: {what} there, and training needs it; use hardware=cpu or cuda"
            ) from error
    for name, expected in steps(build("cpu"), start).items():
        apart = float((numbers[name] - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
        if not apart <= (NEAR if exact else COARSE):
            raise UserError(
                f"hardware={kind}: expected the CPU's numbers of a tiny step, found {name} {apart:.1%} apart; "
                "the driver or torch computes wrongly there; use hardware=cpu, or another driver"
            )
    return sorted({operator for warning in caught if (operator := operator_in(str(warning.message)))})


def operator_in(text: str) -> str:
    """The operator that a warning or an error of torch's names.

    >>> operator_in("The operator 'aten::isneginf.out' is not currently supported on the DML backend and will …")
    'aten::isneginf.out'
    >>> operator_in("Could not run 'aten::mm' with arguments from the 'PrivateUse1' backend.")
    'aten::mm'
    """
    match = re.search(r"'(aten::[\w.]+)'", text)
    return match[1] if match else ""


def steps(recognizer: SignModule, start: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses (STEPS,), gradients (STEPS, n), and log-probabilities (B, K) after the last step, float32 on the CPU.

    Args:
        recognizer: of the tiny model.
        start: what trains, as it is before.
    """
    lora.load_adapter_state(recognizer.network, start)
    to_rank, to_train = (recognizer.to_device(batch) for batch in _batches(recognizer))
    numbers = _trained(recognizer.train(), to_train) if start else {}
    numbers["log-probabilities"] = recognizer.eval().rank(to_rank)
    return {name: tensor.detach().float().cpu() for name, tensor in numbers.items()}


def _trained(recognizer: SignModule, batch: Batch) -> dict[str, Tensor]:
    optimizer = recognizer.optimizer(fused=False)
    losses, gradients = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = recognizer.clip_losses(batch, slice(None)).mean()
        loss.backward()
        losses.append(loss.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in recognizer.parameters() if p.grad is not None]))
        recognizer.clip()
        optimizer.step()
    return {"losses": torch.stack(losses), "gradients": torch.stack(gradients)}


def _batches(recognizer: SignModule) -> tuple[Batch, Batch]:
    """A clip of noise for each gloss: to rank, and to train on."""
    inputs, noise = recognizer.inputs, torch.Generator().manual_seed(0)
    samples = [
        Sample(
            clip=gloss,
            gloss=number,
            prompt=inputs.prompt_ids("Which sign?", FRAMES),
            answer=inputs.answer_ids(gloss),
            frames=torch.randint(256, (FRAMES, 3, *inputs.image_size), generator=noise, dtype=torch.uint8),
        )
        for number, gloss in enumerate(recognizer.vocabulary)
    ]
    prompts = collate_ranking(samples, inputs.pad_id)
    return prompts, prompts if recognizer.objective == "closed_set" else collate_training(samples, inputs.pad_id)


def refuse_other_dropout(kind: str, device: str) -> None:
    """Check that a checkpointed layer, when it is computed again, drops what it dropped before.

    Raises:
        UserError: it does not, so gradients would be those of another step.
    """
    ones = torch.ones(4096, device=device, requires_grad=True)
    dropped = checkpoint(lambda x: functional.dropout(x, 0.5) * x, ones, use_reentrant=False)
    [slope] = torch.autograd.grad(dropped.sum(), ones)
    if not torch.equal(slope / 2, dropped.detach()):  # of m x², at 1, with the mask m that was drawn again
        raise UserError(
            f"hardware={kind}: gradient_checkpointing=true would draw another dropout when it computes again; use "
            "gradient_checkpointing=false, or lora.dropout=0"
        )
