"""First stage: the vision tower and the projector learn to see hands.

A linear head reads each projected token, which covers one cell of the picture: is a palm in this cell, where in the
picture is it, what shape does it have; is the head here, and where. Told only by answers in words, a vision tower
this small learns nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import InternVLForConditionalGeneration

from slr.models.tiny.pretraining.build import MEAN, STD, TOKENS_PER_FRAME
from slr.models.tiny.pretraining.lessons import SHAPES, Lesson, draw_lessons

CELLS = round(TOKENS_PER_FRAME**0.5)
LESSONS_PER_STEP = 32
FRAMES_PER_LESSON = 2
_FIGURES = ("loss", "palm found", "palm off by", "handshape", "head off by")
_SIZES = (1, 2, len(SHAPES), 1, 2)
"""Outputs for a token: palm here, palm's place, palm's shape, head here, head's place."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What the tokens should tell, (F, 16, ...) for F frames; `palm` and `head` are 1 where the thing is, else 0."""

    palm: Tensor
    palm_place: Tensor
    shape: Tensor
    head: Tensor
    head_place: Tensor


def cell_truth(lessons: Sequence[Lesson]) -> Truth:
    """Which of the 16 cells of each frame hold what. A palm or head outside the picture is in no cell."""
    palms = np.concatenate([lesson.palms for lesson in lessons])
    shapes = np.concatenate([lesson.shapes for lesson in lessons])
    heads = np.concatenate([np.broadcast_to(lesson.head, (len(lesson.palms), 2)) for lesson in lessons])
    frames = len(palms)
    palm, shape = np.zeros((frames, TOKENS_PER_FRAME)), np.zeros((frames, TOKENS_PER_FRAME), dtype=np.int64)
    palm_place = np.zeros((frames, TOKENS_PER_FRAME, 2))
    head, head_place = np.zeros((frames, TOKENS_PER_FRAME)), np.zeros((frames, TOKENS_PER_FRAME, 2))
    for which in (1, 0):  # the dominant hand last: it is drawn over the other
        rows, cells = _inside(palms[:, which])
        palm[rows, cells] = 1
        palm_place[rows, cells] = palms[rows, which]
        shape[rows, cells] = shapes[rows, which]
    rows, cells = _inside(heads)
    head[rows, cells] = 1
    head_place[rows, cells] = heads[rows]
    palm, palm_place, head, head_place = (
        torch.from_numpy(a.astype(np.float32)) for a in (palm, palm_place, head, head_place)
    )
    return Truth(palm, palm_place, torch.from_numpy(shape), head, head_place)


def to_pixels(pictures: np.ndarray) -> Tensor:
    """uint8 (..., 3, H, W) to the normalised float32 that the model takes."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (torch.from_numpy(pictures).float() / 255 - mean) / std


def see(model: InternVLForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Projected tokens (F, 16, D) of frames (F, 3, 96, 96)."""
    features = model.model.get_image_features(pixel_values=pixels)
    return features.pooler_output  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]


def train_seeing(
    model: InternVLForConditionalGeneration, steps: int, rate: float, workers: int, log: Callable[[str], None]
) -> None:
    """Train the vision tower and the projector in place; `log` gets a line of the curve every 100 steps."""
    head = nn.Linear(model.lm_head.in_features, sum(_SIZES))
    parts = nn.ModuleList([model.model.vision_tower, model.model.multi_modal_projector, head])
    optimiser = torch.optim.AdamW(parts.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warm_cosine(step, steps))
    batch: list[Lesson] = []
    figures: list[Tensor] = []
    for lesson in draw_lessons(0, steps * LESSONS_PER_STEP, FRAMES_PER_LESSON, workers):
        batch.append(lesson)
        if len(batch) < LESSONS_PER_STEP:
            continue
        features = see(model, to_pixels(np.concatenate([lesson.pictures for lesson in batch])))
        loss, figure = _loss(head(features), cell_truth(batch))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        figures.append(figure)
        batch.clear()
        if len(figures) == 100:
            log(f"seeing {schedule.last_epoch:5d}  {curve_line(_FIGURES, figures)}")
            figures.clear()


def warm_cosine(step: int, steps: int, warm: int = 100) -> float:
    """Factor of the learning rate: linear warm-up, then half a cosine down to a fiftieth."""
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * (1 + cos(pi * (step - warm) / max(steps - warm, 1))) / 2


def curve_line(names: Sequence[str], figures: Sequence[Tensor]) -> str:
    """The figures' means over the last steps, with their names."""
    means = torch.stack(list(figures)).nanmean(0).tolist()
    return "  ".join(f"{name} {mean:.3f}" for name, mean in zip(names, means, strict=True))


def _inside(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose place is in the picture, and the cells they are in."""
    rows = np.flatnonzero(((places >= 0) & (places < 1)).all(axis=1))
    column, line = (places[rows] * CELLS).astype(int).T
    return rows, line * CELLS + column


def _loss(told: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
    """The loss, and figures for the curve: loss, palms found, their error, handshapes right, head's error."""
    palm, palm_place, shape, head, head_place = told.split(_SIZES, dim=-1)
    is_palm, is_head = truth.palm > 0, truth.head > 0
    palm_error = (palm_place - truth.palm_place)[is_palm]
    head_error = (head_place - truth.head_place)[is_head]
    loss = (
        4 * F.binary_cross_entropy_with_logits(palm[..., 0], truth.palm)
        + F.binary_cross_entropy_with_logits(head[..., 0], truth.head)
        + 5 * F.smooth_l1_loss(palm_error, torch.zeros_like(palm_error), beta=0.05)
        + 2 * F.smooth_l1_loss(head_error, torch.zeros_like(head_error), beta=0.05)
        + 2 * F.cross_entropy(shape[is_palm], truth.shape[is_palm])
    )
    raised = is_palm & (truth.shape > 0)
    right = (shape.argmax(-1) == truth.shape)[raised].float().mean()
    found = (palm[..., 0] > 0)[is_palm].float().mean()
    off = palm_error.norm(dim=-1).mean(), head_error.norm(dim=-1).mean()
    return loss, torch.stack([loss, found, off[0], right, off[1]]).detach()
