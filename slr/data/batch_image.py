"""A batch as one picture: what the model is shown, asked and told."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor


def draw_batch(frames: Tensor, captions: Sequence[str], side: int = 112, most: int = 8) -> Tensor:
    """Draw clips as rows of frames, each under its caption.

    Args:
        frames: uint8 (B, T, 3, H, W).
        captions: one line per clip.
        side: pixels of a drawn frame.
        most: clips drawn at most.

    Returns:
        uint8 (3, height, width).
    """
    rows = []
    for clip, caption in zip(frames[:most], captions[:most], strict=True):
        row = Image.new("RGB", (max(side * len(clip), 8 * side), side + 16), "white")
        ImageDraw.Draw(row).text((2, 2), caption, "black")
        for number, frame in enumerate(clip):
            picture = Image.fromarray(frame.permute(1, 2, 0).cpu().numpy()).resize((side, side))
            row.paste(picture, (number * side, 16))
        rows.append(np.asarray(row))
    return torch.from_numpy(np.concatenate(rows)).permute(2, 0, 1)
