"""How much memory a run needs, counted before it starts, and which micro-batch fits.

Works on numbers only: no torch, no configuration. Counts are of tensors; `RESERVE` is for the driver and the allocator.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from slr.core.errors import UserError
from slr.core.units import GB, format_bytes

RESERVE = 0.1  # of the memory given: the driver's context, the allocator's rounding
# Bytes that one token leaves in one language layer for the backward pass, by what they grow with: hidden width, MLP
# width, width of all queries, width of all keys, adapter's rank. Counted by hooks on what autograd keeps, in float32
# and under bf16 autocast, with adapters on q, k, v, o, up, down and dropout (torch 2.15, transformers 5.23, PEFT 0.21).
KEPT = {4: (40.0, 20.0, 20.25, 12.1, 24.0), 2: (32.75, 12.25, 14.5, 8.4, 12.0)}
ANSWER_ROWS = 8  # logits of an answer at a time, generously
LOGIT_COPIES = 3  # logits, their softmax, their gradient
OPTIMISER_BYTES = 16  # an adapter's parameter in float32, its gradient, AdamW's two moments


@dataclass(frozen=True)
class Shape:
    """The sizes of a vision-language model that its memory depends on."""

    layers: int  # of the language model
    hidden: int
    mlp: int
    queries: int  # heads x their width
    keys: int  # key-value heads x their width
    words: int  # of the tokenizer
    vision_hidden: int
    vision_mlp: int
    patches: int  # of a frame, the class token included


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The sizes of a checkpoint, from the content of its config.json."""
    text, vision = config["text_config"], config["vision_config"]
    sizes = [[size] * 2 if isinstance(size, int) else size for size in (vision["image_size"], vision["patch_size"])]
    rows, columns = (size // patch for size, patch in zip(*sizes, strict=True))
    return Shape(
        layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        mlp=text["intermediate_size"],
        queries=text["num_attention_heads"] * text["head_dim"],
        keys=text["num_key_value_heads"] * text["head_dim"],
        words=text["vocab_size"],
        vision_hidden=vision["hidden_size"],
        vision_mlp=vision["intermediate_size"],
        patches=rows * columns + 1,
    )


@dataclass(frozen=True)
class Work:
    """What is computed for one clip."""

    frames: int
    tokens: int  # prompt, frames, answer, and the trie's nodes if the objective ranks
    number: int  # bytes of a number: 4, or 2 in half precision
    rank: int  # of the adapter
    checkpointed: bool  # language layers compute their activations twice
    cached: bool  # features come from a cache: the vision tower does not run


@dataclass(frozen=True)
class Plan:
    """How a training step is split into micro-batches."""

    budget: int  # bytes that the run may use
    parts: dict[str, int]  # name -> bytes at the peak, with `micro_batch` clips at once
    micro_batch: int  # clips computed at once
    batch: int  # clips of an optimiser step
    advice: tuple[str, ...] = ()  # lines for a person, about what else would fit or help

    @property
    def peak(self) -> int:
        """Bytes at the peak, estimated."""
        return sum(self.parts.values())

    def describe(self) -> str:
        """The plan as a line, and one more for each advice."""
        parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in self.parts.items() if size >= GB // 1000)
        line = f"memory: {format_bytes(self.peak)} estimated of {format_bytes(self.budget)} ({parts}); "
        line += f"micro-batch {self.micro_batch} of batch {self.batch}"
        return "\n".join([line, *(f"  {advice}" for advice in self.advice)])


def activations(shape: Shape, work: Work, clips: int) -> int:
    """Bytes that a training step of `clips` computed at once keeps for the backward pass, at its peak."""
    widths = (shape.hidden, shape.mlp, shape.queries, shape.keys, work.rank)
    layer = sum(factor * width for factor, width in zip(KEPT[work.number], widths, strict=True))
    boundary = work.number * shape.hidden
    kept = shape.layers * boundary + layer if work.checkpointed else shape.layers * layer
    passing = 2 * work.number * (shape.hidden + shape.mlp)  # gradients on their way through one layer
    return int(clips * work.tokens * (kept + passing))


def parts(baseline: int, trainable: int, shape: Shape, work: Work, clips: int) -> dict[str, int]:
    """Bytes in memory at a step's peak, by what they are for.

    Args:
        baseline: bytes that are in use already, mostly weights.
        trainable: trainable parameters.
        shape, work, clips: as for `activations`.
    """
    kept = activations(shape, work, clips)
    logits = clips * ANSWER_ROWS * shape.words * 4 * LOGIT_COPIES
    # One layer of the vision tower, through which all frames go together without a graph.
    patch = work.number * (8 * shape.vision_hidden + 2 * shape.vision_mlp)
    vision = 0 if work.cached else clips * work.frames * shape.patches * patch
    return {
        "weights and memory already in use": baseline,
        "adapter and optimiser": trainable * OPTIMISER_BYTES,
        "activations": kept,
        "logits": logits,
        "frames": max(0, vision - kept - logits),  # freed before the other two are needed
    }


def adapter_numbers(shape: Shape, targets: Iterable[str], rank: int) -> int:
    """Parameters of a LoRA adapter on every language layer: `rank` x (in + out) for each matrix of the named targets.

    >>> sizes = Shape(layers=2, hidden=8, mlp=16, queries=8, keys=4, words=0, vision_hidden=0, vision_mlp=0, patches=0)
    >>> adapter_numbers(sizes, ["q_proj", "v_proj"], 3)  # 2 layers x 3 x ((8 + 8) + (8 + 4))
    168
    """
    sides = {"q_proj": shape.queries, "o_proj": shape.queries, "k_proj": shape.keys, "v_proj": shape.keys}
    return shape.layers * rank * sum(shape.hidden + sides.get(target, shape.mlp) for target in targets)


def plan(
    budget: int,
    baseline: int,
    trainable: int,
    shape: Shape,
    work: Work,
    batch: int,
    micro_batch: int | None,
    disk: int,
) -> Plan:
    """The largest micro-batch that fits, or the given one.

    Args:
        budget: bytes that the run may use, `RESERVE` of which stay free.
        baseline, trainable, shape, work: as for `parts`.
        batch: clips of an optimiser step.
        micro_batch: taken as it is, whether it fits or not; None chooses one.
        disk: bytes that the features of the training clips would take in a cache.

    Raises:
        UserError: not even one clip fits.
    """

    def needed(work: Work, clips: int) -> int:
        return sum(parts(baseline, trainable, shape, work, clips).values())

    room = int(budget * (1 - RESERVE))
    clips = batch if micro_batch is None else min(micro_batch, batch)
    while micro_batch is None and clips and needed(work, clips) > room:
        clips //= 2  # halves split a step evenly, or nearly
    if not clips:
        raise UserError(
            f"one clip of {work.frames} frames needs about {format_bytes(needed(work, 1))}, and {format_bytes(room)} "
            f"of {format_bytes(budget)} can be used; {knobs(work.frames, work.checkpointed, work.cached)}"
        )
    advice = []
    if work.checkpointed and (least := needed(replace(work, checkpointed=False), 1)) <= room:
        advice.append(
            f"gradient_checkpointing=false also fits, with micro-batch 1 ({format_bytes(least)}), and computes less"
        )
    if not work.cached:
        advice.append(f"cache=features saves the vision tower's time in every epoch, for {format_bytes(disk)} of disk")
    return Plan(budget, parts(baseline, trainable, shape, work, clips), clips, batch, tuple(advice))


def knobs(frames: int, checkpointed: bool, cached: bool) -> str:
    """The settings that save memory, the most costly last."""
    settings = [] if checkpointed else ["gradient_checkpointing=true"]
    settings += [] if cached else ["cache=features"]
    settings += [f"frames={frames // 2}"] if frames > 1 else []
    return f"try {', '.join(settings)}, or a smaller lora.r or model"
