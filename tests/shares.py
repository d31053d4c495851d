"""What several processes compute of their shares of the same things, for `test_ddp` to compare with one process.

Run as `python shares.py FOLDER` by each of them; rank and world come from the environment.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from slr.core import distributed
from slr.data.collate import Sample, collate_ranking, collate_training
from slr.models import internvl, lora
from slr.models.metrics import RankingMetrics
from slr.models.processor import load_inputs
from slr.training.module import SignModule

GLOSSES = ["a", "mokitu", "ÄÖ", "don't want", "tuka", "pelisa", "no", "Zz"]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
# Objective, clips of a step, micro-batch; of one clip, only the first process gets anything.
STEPS = (("token", 8, 8), ("token", 5, 2), ("token", 1, 8), ("closed_set", 5, 2))


def samples(inputs) -> list[Sample]:
    rng = np.random.default_rng(0)
    return [
        Sample(
            clip=str(number),
            gloss=number,
            frames=torch.from_numpy(rng.integers(0, 256, (2, 3, *inputs.image_size), dtype=np.uint8)),
            prompt=inputs.prompt_ids(["Name the sign.", "Which sign is it?"][number % 2], 2),
            answer=inputs.answer_ids(gloss),
        )
        for number, gloss in enumerate(GLOSSES)
    ]


def gradient(inputs, objective: str, clips: int, micro_batch: int) -> dict[str, torch.Tensor]:
    """The loss and the gradient of one step, without dropout, lora_B moved off zero so that every tensor has one."""
    network = internvl.load_vlm("tiny", None, "pretrained", "none", torch.float32, "cpu", 0)
    torch.manual_seed(0)
    network = lora.add_lora(network, "language", 4, 8, 0.0, TARGETS)
    recognizer = SignModule(network, inputs, GLOSSES, 1e-3, 0.01, 2, 1.0, objective, 0.1, micro_batch, 0)
    recognizer.manual_backward = lambda loss: loss.backward()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02
    place = distributed.place()
    share = samples(inputs)[:clips][place.rank :: place.world]
    collate = collate_training if objective == "token" else collate_ranking
    loss = recognizer.backward_batch(collate(share, inputs.pad_id))
    return {"loss": loss} | {name: p.grad for name, p in network.named_parameters() if p.requires_grad}


def figures(batches: int) -> dict[str, tuple]:
    """Metrics of 3 clips a batch, whose scores are the same in every process, batches dealt out."""
    rng = np.random.default_rng(3)
    metrics, place = RankingMetrics(), distributed.place()
    dealt = -(-batches // place.world) * place.world
    for number in range(dealt):
        n = 3 if number < batches else 0
        scores, glosses = torch.from_numpy(rng.normal(size=(n, 12))), torch.from_numpy(rng.integers(12, size=n))
        if number % place.world == place.rank:
            metrics.update(scores, glosses)
    return {name: tuple(figure) for name, figure in metrics.compute().items()}


def measure() -> dict:
    inputs = load_inputs("tiny", None)
    return {
        "gradients": {step: gradient(inputs, *step) for step in STEPS},
        "figures": {batches: figures(batches) for batches in (1, 2, 5)},
    }


if __name__ == "__main__":
    distributed.join("cpu")
    found = measure() | {"gathered": distributed.gather(distributed.place().rank)}
    torch.save(found, Path(sys.argv[1]) / f"{distributed.place().rank}.pt")
    distributed.leave()
