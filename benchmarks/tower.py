"""What a vision tower in fewer bits costs and gains: `python benchmarks/tower.py run=outputs/…`.

Ranks the val part of a run from features of its tower in float32, of the same tower and projector in bf16, and of the
tower with its matrices in NF4; the language model is as the run has it. Prints how far features, each clip's loss and
its log-probabilities stray at most, how many clips keep their first gloss, and the time that a clip's features take
each way, in turns.

What NF4 changes is seen with the numbers that it leaves in ordinary layers, what it takes with bitsandbytes' own: on a
CPU bitsandbytes 0.50 reads back wrong numbers where a matrix's width is no multiple of 64, and the tiny tower's is 96.
"""

from options import TowerArgs, read

if __name__ == "__main__":
    ARGS = read(TowerArgs)  # before torch is imported

import copy
from functools import partial
from typing import Any

import measure
import torch
from features import Trained, compared, opened, show
from torch import Tensor, nn
from tqdm import tqdm

from slr.core.errors import explained
from slr.data.collate import Sample
from slr.models import internvl

BLOCK = 64  # weights that share a scale
TOGETHER = 16  # clips whose features are timed together


def main(args: TowerArgs) -> None:
    """Measure and print."""
    run = opened(args.run, args.limit)
    samples = [run.data.ranking_set([clip])[0, 0] for clip in tqdm(run.clips, desc="reading")]
    towers = versions(internvl.bare(run.recognizer.network).model.vision_tower)
    show(
        {
            name: [stray(run, towers["float32"], tower, sample) for sample in tqdm(samples, desc=name)]
            for name, tower in (towers | {"NF4": as_four_bits(towers["float32"])}).items()
        }
    )
    frames = torch.stack([torch.as_tensor(sample.frames) for sample in samples[:TOGETHER]])
    ways = {name: partial(encoded, run, tower, frames) for name, tower in towers.items()}
    cpu = torch.device("cpu")
    costs = measure.in_turns(
        {name: partial(measure.cost, way, cpu, 1) for name, way in ways.items()},
        args.rounds,
    )
    about = measure.machine(cpu, torch.float32)
    print(", ".join(f"{key} {about[key]}" for key in ("device", "threads", "clock", "load")))
    for name, tower in towers.items():
        size = sum(tensor.nbytes for tensor in tower.state_dict().values()) / measure.MIB
        print(f"{name:<12} {1000 * (costs[name].seconds or 0) / len(frames):.2f} ms a clip, {size:.2f} MiB")


def versions(tower: nn.Module) -> dict[str, nn.Module]:
    """The tower in every number format."""
    whole = copy.deepcopy(tower).float()
    return {"float32": whole, "bf16": copy.deepcopy(whole).bfloat16(), "NF4": in_four_bits(copy.deepcopy(whole))}


def as_four_bits(tower: nn.Module) -> nn.Module:
    """A copy of the tower whose matrices have the numbers that NF4 leaves, in float32."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    rounded = copy.deepcopy(tower)
    for layer in rounded.modules():
        if isinstance(layer, nn.Linear):
            weight = layer.weight.data
            small, state = quantize_4bit(weight.reshape(-1, BLOCK), quant_type="nf4", compress_statistics=True)
            layer.weight.data = dequantize_4bit(small, state).reshape(weight.shape)
    return rounded


def in_four_bits(tower: nn.Module) -> nn.Module:
    """The tower with each matrix in NF4, scales quantised once more; it computes in float32."""
    from bitsandbytes.nn.modules import Linear4bit, Params4bit

    for part in list(tower.modules()):
        for name, layer in list(part.named_children()):
            if isinstance(layer, nn.Linear):
                small: Any = Linear4bit(layer.in_features, layer.out_features, compute_dtype=torch.float32)
                small.support_avx512bf16_for_cpu = False  # as slr has it; else it computes in bf16
                weight: Any = Params4bit  # its types are those of a tensor's constructor
                small.weight = weight(layer.weight.data, requires_grad=False, quant_type="nf4")
                small.bias = layer.bias
                setattr(part, name, small.to("cpu"))  # moving is what quantises
    return tower.requires_grad_(False)


def encoded(run: Trained, tower: nn.Module, frames: Tensor) -> Tensor:
    """Features of clips (B, V, D), by this tower."""
    core: Any = internvl.bare(run.recognizer.network).model
    own, core.vision_tower = core.vision_tower, tower
    core.multi_modal_projector.to(tower.dtype)
    features = run.recognizer.encode(frames)
    core.vision_tower = own
    core.multi_modal_projector.to(own.dtype)
    return features.to(own.dtype)


@torch.no_grad()
def stray(run: Trained, whole: nn.Module, tower: nn.Module, sample: Sample) -> dict[str, float]:
    """How far one clip's features, loss and ranking by `tower` are from those by the whole one."""
    frames = torch.stack([torch.as_tensor(sample.frames)])
    return compared(run, sample, encoded(run, whole, frames), encoded(run, tower, frames))


if __name__ == "__main__":
    explained(lambda: main(ARGS))
