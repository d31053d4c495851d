"""First stage: the vision tower and the projector learn where hands and head are.

A linear head reads each projected token, which covers one cell of the picture: is a palm here, where in the picture, in
which shape; is the head here, and where. From answers in words alone, a vision tower this small learns nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import InternVLForConditionalGeneration

from slr.tiny_pretraining.clips import SHAPES, LabelledClip, draw_batches
from slr.tiny_pretraining.fit import fit

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as the checkpoint's processor has them
CELLS = 4  # in a row and in a column of the picture
TOKENS_PER_FRAME = CELLS**2
CLIPS_PER_STEP, FRAMES_PER_CLIP = 32, 2
RATE = 2e-3
_METRICS = ("loss", "palm found", "palm off by", "handshape", "head off by")
_SIZES = (1, 2, len(SHAPES), 1, 2)  # outputs for a token: palm here, its place, its shape, head here, its place


class CellLabels(NamedTuple):
    """What each cell holds, (F, 16, ...) for F frames; `palm` and `head` are 1 where one is, else 0."""

    palm: Tensor
    palm_place: Tensor
    shape: Tensor
    head: Tensor
    head_place: Tensor


def cell_labels(clips: Sequence[LabelledClip]) -> CellLabels:
    """Which of the 16 cells of each frame hold what. A palm or head outside the picture is in no cell."""
    palms = np.concatenate([clip.palms for clip in clips])
    shapes = np.concatenate([clip.shapes for clip in clips])
    heads = np.concatenate([np.broadcast_to(clip.head, (len(clip.palms), 2)) for clip in clips])
    palm, head = np.zeros((2, len(palms), TOKENS_PER_FRAME), dtype=np.float32)
    palm_place, head_place = np.zeros((2, len(palms), TOKENS_PER_FRAME, 2), dtype=np.float32)
    shape = np.zeros((len(palms), TOKENS_PER_FRAME), dtype=np.int64)
    for hand in (1, 0):  # the dominant hand last: it is drawn over the other
        rows, cells = _inside(palms[:, hand])
        palm[rows, cells] = 1
        palm_place[rows, cells] = palms[rows, hand]
        shape[rows, cells] = shapes[rows, hand]
    rows, cells = _inside(heads)
    head[rows, cells] = 1
    head_place[rows, cells] = heads[rows]
    return CellLabels(*map(torch.from_numpy, (palm, palm_place, shape, head, head_place)))


def project(model: InternVLForConditionalGeneration, clips: Sequence[LabelledClip]) -> Tensor:
    """Projected tokens (F, 16, D) of all frames of some clips, with a graph."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    pictures = torch.from_numpy(np.concatenate([clip.pictures for clip in clips]))
    features = model.model.get_image_features(pixel_values=(pictures.float() / 255 - mean) / std)
    return features.pooler_output  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]


def train_vision(model: InternVLForConditionalGeneration, steps: int, workers: int) -> None:
    """Train the vision tower and the projector in place."""
    head = nn.Linear(model.lm_head.in_features, sum(_SIZES))
    parts = nn.ModuleList([model.model.vision_tower, model.model.multi_modal_projector, head])
    batches = draw_batches(0, steps * CLIPS_PER_STEP, FRAMES_PER_CLIP, workers, CLIPS_PER_STEP)
    losses = (_loss(head(project(model, batch)), cell_labels(batch)) for batch in batches)
    fit("vision", parts, losses, steps, RATE, (0.9, 0.999), _METRICS)


def _inside(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose place is in the picture, and the cells they are in."""
    rows = np.flatnonzero(((places >= 0) & (places < 1)).all(axis=1))
    column, line = (places[rows] * CELLS).astype(int).T
    return rows, line * CELLS + column


def _loss(outputs: Tensor, labels: CellLabels) -> tuple[Tensor, Tensor]:
    """The loss, and metrics for the curve: loss, palms found, their error, handshapes right, head's error."""
    palm, palm_place, shape, head, head_place = outputs.split(_SIZES, dim=-1)
    is_palm, is_head = labels.palm > 0, labels.head > 0
    palm_error = (palm_place - labels.palm_place)[is_palm]
    head_error = (head_place - labels.head_place)[is_head]
    loss = (
        4 * functional.binary_cross_entropy_with_logits(palm[..., 0], labels.palm)
        + functional.binary_cross_entropy_with_logits(head[..., 0], labels.head)
        + 5 * functional.smooth_l1_loss(palm_error, torch.zeros_like(palm_error), beta=0.05)
        + 2 * functional.smooth_l1_loss(head_error, torch.zeros_like(head_error), beta=0.05)
        + 2 * functional.cross_entropy(shape[is_palm], labels.shape[is_palm])
    )
    raised = is_palm & (labels.shape > 0)
    right = (shape.argmax(-1) == labels.shape)[raised].float().mean()
    found = (palm[..., 0] > 0)[is_palm].float().mean()
    return loss, torch.stack(
        [loss, found, palm_error.norm(dim=-1).mean(), right, head_error.norm(dim=-1).mean()]
    ).detach()
