"""Draw a batch as one picture, with its prompts and answers."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor


def draw_batch(frames: Tensor, captions: Sequence[str], side: int = 112) -> Tensor:
    """Draw the first eight clips as rows of frames, each under its caption.

    Args:
        frames: uint8 (B, T, 3, H, W).
        captions: one line per clip.
        side: pixels of a drawn frame.

    Returns:
        uint8 (3, height, width).
    """
    rows = []
    for clip, caption in zip(frames[:8], captions[:8], strict=True):
        row = Image.new("RGB", (max(side * len(clip), 8 * side), side + 16), "white")
        ImageDraw.Draw(row).text((2, 2), caption, "black")
        for number, frame in enumerate(clip):
            picture = Image.fromarray(frame.permute(1, 2, 0).cpu().numpy()).resize((side, side))
            row.paste(picture, (number * side, 16))
        rows.append(np.asarray(row))
    return torch.from_numpy(np.concatenate(rows)).permute(2, 0, 1)
