"""How much memory a run needs, counted before it starts, and how many clips at once fit into what there is.

Knows numbers alone: no torch, no configuration. Counts are of tensors; what a driver or an allocator needs besides is
`RESERVE`.
"""

from collections.abc import Callable, Iterable, Mapping
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


@dataclass(frozen=True)
class Work:
    """What is computed at once for one clip."""

    frames: int
    tokens: int  # prompt, frames, answer, and the trie's nodes where the objective ranks
    number: int  # bytes of a number: 4, or 2 in half precision
    rank: int  # of the adapter
    checkpointed: bool  # language layers compute their activations twice
    cached: bool  # features come from a cache, so that no frame is seen


@dataclass(frozen=True)
class Plan:
    """How a step is cut up.

    Attributes:
        budget: bytes that the run may use.
        parts: name -> bytes at the peak, with `micro_batch` clips at once.
        micro_batch: clips computed at once.
        batch: clips of an optimiser step.
        advice: lines for a person, about what else would fit or help.
    """

    budget: int
    parts: dict[str, int]
    micro_batch: int
    batch: int
    advice: tuple[str, ...] = ()

    @property
    def peak(self) -> int:
        """Bytes at the peak, estimated."""
        return sum(self.parts.values())

    def describe(self) -> str:
        """What is planned, in a line or a few."""
        parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in self.parts.items() if size >= GB // 1000)
        steps = -(-self.batch // self.micro_batch)
        cut = f"{self.micro_batch} of {self.batch} clips at once" + (f", {steps} times a step" if steps > 1 else "")
        return "\n".join(
            [f"memory: {format_bytes(self.peak)} estimated of {format_bytes(self.budget)} ({parts}); {cut}"]
            + [f"  {line}" for line in self.advice]
        )


def activations(shape: Shape, work: Work, clips: int) -> int:
    """Bytes that a training step keeps for the backward pass, at its peak.

    Args:
        shape: of the model.
        work: of one clip.
        clips: computed at once.
    """
    widths = (shape.hidden, shape.mlp, shape.queries, shape.keys, work.rank)
    layer = sum(factor * width for factor, width in zip(KEPT[work.number], widths, strict=True))
    boundary = work.number * shape.hidden
    kept = shape.layers * boundary + layer if work.checkpointed else shape.layers * layer
    passing = 2 * work.number * (shape.hidden + shape.mlp)  # gradients on their way through one layer
    return int(clips * work.tokens * (kept + passing))


def vision(shape: Shape, work: Work, clips: int) -> int:
    """Bytes of one layer's way through the vision tower, whose frames go through it together and leave no graph."""
    if work.cached:
        return 0
    a_patch = work.number * (8 * shape.vision_hidden + 2 * shape.vision_mlp)
    return clips * work.frames * shape.patches * a_patch


def logits(shape: Shape, clips: int) -> int:
    """Bytes of the float32 logits at the answer's rows."""
    return clips * ANSWER_ROWS * shape.words * 4 * LOGIT_COPIES


def parts(baseline: int, trainable: int, shape: Shape, work: Work, clips: int) -> dict[str, int]:
    """What lies in memory at a step's peak.

    Args:
        baseline: bytes that are taken already, weights above all.
        trainable: parameters that learn.
        shape, work, clips: as for `activations`.
    """
    kept, head = activations(shape, work, clips), logits(shape, clips)
    return {
        "weights and what is there": baseline,
        "adapter and optimiser": trainable * OPTIMISER_BYTES,
        "activations": kept,
        "logits": head,
        "frames": max(0, vision(shape, work, clips) - kept - head),  # they are through before there are the others
    }


def adapter_numbers(text: Mapping[str, Any], targets: Iterable[str], rank: int) -> int:
    """Parameters of a LoRA adapter on every language layer: `rank` x (in + out) for each matrix.

    Args:
        text: `text_config` of a checkpoint's config.json.
        targets: names of the matrices that it is on.
        rank: of the adapter.

    >>> sizes = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 16, "head_dim": 4}
    >>> sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    >>> adapter_numbers(sizes, ["q_proj", "v_proj"], 3)  # 2 layers x 3 x ((8 + 8) + (8 + 4))
    168
    """
    hidden, mlp = text["hidden_size"], text["intermediate_size"]
    queries, keys = (text[heads] * text["head_dim"] for heads in ("num_attention_heads", "num_key_value_heads"))
    outside = {"q_proj": queries, "o_proj": queries, "k_proj": keys, "v_proj": keys}  # all have `hidden` on one side
    return text["num_hidden_layers"] * rank * sum(hidden + outside.get(target, mlp) for target in targets)


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
    """The most clips at once that fit, or what was asked for.

    Args:
        budget: bytes that the run may use, `RESERVE` of which stay free.
        baseline, trainable, shape, work: as for `parts`.
        batch: clips of an optimiser step.
        micro_batch: clips at once where a person has said so, fitting or not.
        disk: bytes that the features of the training clips would take in a cache.

    Raises:
        UserError: not even one clip fits.
    """

    def needed(work: Work, clips: int) -> int:
        return sum(parts(baseline, trainable, shape, work, clips).values())

    room = int(budget * (1 - RESERVE))
    fitting = [clips for clips in _halves(batch) if needed(work, clips) <= room]
    if micro_batch is not None:
        fitting = [min(micro_batch, batch)]
    if not fitting:
        raise UserError(
            f"one clip of {work.frames} frames needs about {format_bytes(needed(work, 1))}, and {format_bytes(room)} "
            f"of {format_bytes(budget)} are for it; {knobs(work.frames, work.checkpointed, work.cached)}"
        )
    clips = max(fitting)
    return Plan(
        budget, parts(baseline, trainable, shape, work, clips), clips, batch, tuple(_advice(needed, work, room, disk))
    )


def _halves(most: int) -> Iterable[int]:
    """Numbers of clips that cut a step evenly, or nearly: halves of the most.

    >>> list(_halves(16)), list(_halves(6))
    ([16, 8, 4, 2, 1], [6, 3, 1])
    """
    while most >= 1:
        yield most
        most //= 2


def _advice(needed: Callable[[Work, int], int], work: Work, room: int, disk: int) -> Iterable[str]:
    if work.checkpointed and (least := needed(replace(work, checkpointed=False), 1)) <= room:
        one = format_bytes(least)
        yield f"gradient_checkpointing=false would fit too ({one} for one clip at once) and computes less"
    if not work.cached:
        yield f"cache=features would spare the vision tower in every epoch, for {format_bytes(disk)} of disk"


def knobs(frames: int, checkpointed: bool, cached: bool) -> str:
    """What a person can turn when memory is short, dearest last."""
    turns = [] if checkpointed else ["gradient_checkpointing=true"]
    turns += [] if cached else ["cache=features"]
    turns += [f"frames={frames // 2}"] if frames > 1 else []
    return f"try {', '.join(turns)}, or a smaller lora.r or model"
