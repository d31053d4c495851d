"""From clips to batches: frames as bytes, token ids, and labels on the answer alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

IGNORED = -100  # the label that torch's cross-entropy leaves out


class Inputs(Protocol):
    """A model's tokenizer and resizing; `slr.models.processor` has the real one."""

    pad_id: int

    def prompt_ids(self, prompt: str, frames: int) -> list[int]:
        """Token ids of the prompt about `frames` frames, up to where the answer begins."""
        ...

    def answer_ids(self, gloss: str) -> list[int]:
        """Token ids of the gloss and the end token."""
        ...

    def resize(self, frames: np.ndarray) -> Tensor:
        """Frames uint8 (T, H, W, 3) to uint8 (T, 3, h, w)."""
        ...


@dataclass(frozen=True)
class Sample:
    """One clip, ready to be put beside others."""

    clip: str
    gloss: int  # position in the vocabulary
    prompt: list[int]
    answer: list[int]
    frames: Tensor | None = None  # uint8 (T, 3, H, W)
    features: Tensor | None = None  # (V, D) in place of frames, where a cache has them


class Batch(TypedDict):
    """B clips. L is the longest sequence; prompts are padded on the left, prompts with answers on the right.

    It has `frames` or `features`; neither where B is 0, for a process whose share of a step is empty.
    """

    clip: list[str]
    gloss: Tensor  # int64 (B,)
    frames: NotRequired[Tensor]  # uint8 (B, T, 3, H, W)
    features: NotRequired[Tensor]  # (B, V, D)
    input_ids: Tensor  # int64 (B, L)
    attention_mask: Tensor  # int64 (B, L), 1 where there is a token
    labels: Tensor  # int64 (B, L), IGNORED except at the answer and its end token


def collate_training(samples: Sequence[Sample], pad_id: int) -> Batch:
    """Prompts with answers, padded on the right; labels are the answer and its end token and nothing else."""
    labels = [[IGNORED] * len(sample.prompt) + sample.answer for sample in samples]
    return _batch(samples, [sample.prompt + sample.answer for sample in samples], labels, pad_id, "right")


def collate_ranking(samples: Sequence[Sample], pad_id: int) -> Batch:
    """Prompts alone, padded on the left so that each ends where its answer would begin; no labels."""
    labels = [[IGNORED] * len(sample.prompt) for sample in samples]
    return _batch(samples, [sample.prompt for sample in samples], labels, pad_id, "left")


def _batch(
    samples: Sequence[Sample], rows: Sequence[list[int]], labels: Sequence[list[int]], pad_id: int, side: str
) -> Batch:
    def padded(lists: Sequence[list[int]], filler: int) -> Tensor:
        if not lists:
            return torch.empty(0, 0, dtype=torch.int64)
        return pad_sequence([torch.tensor(row) for row in lists], True, filler, side)

    batch = Batch(
        clip=[sample.clip for sample in samples],
        gloss=torch.tensor([sample.gloss for sample in samples], dtype=torch.int64),
        input_ids=padded(rows, pad_id),
        attention_mask=padded([[1] * len(row) for row in rows], 0),
        labels=padded(labels, IGNORED),
    )
    if frames := [sample.frames for sample in samples if sample.frames is not None]:
        batch["frames"] = torch.stack(frames)
    if features := [sample.features for sample in samples if sample.features is not None]:
        batch["features"] = torch.stack(features)
    return batch
