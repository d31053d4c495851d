"""Colour jitter that treats all frames of a clip alike."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Luma of ITU-R BT.601, and the two axes of YIQ colour in which a turn of hue is a rotation.
TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


@dataclass(frozen=True)
class ColorJitter:
    """Random brightness, contrast, saturation and hue; one draw for the whole clip.

    Factors are uniform in [1-x, 1+x]; hue is uniform in [-hue, hue] turns. All four are linear in RGB, so a clip costs
    one 3×3 matrix and an offset.

    >>> still = ColorJitter(0, 0, 0, 0)
    >>> frames = torch.arange(2 * 3 * 2 * 2, dtype=torch.uint8).reshape(2, 3, 2, 2)
    >>> bool((still(frames, np.random.default_rng(0)) == frames).all())
    True
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __call__(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        """Jitter uint8 frames (T, 3, H, W) to uint8 frames of the same shape."""
        brightness, contrast, saturation = (
            rng.uniform(1 - strength, 1 + strength) for strength in (self.brightness, self.contrast, self.saturation)
        )
        angle = 2 * math.pi * rng.uniform(-self.hue, self.hue)
        cosine, sine = saturation * math.cos(angle), saturation * math.sin(angle)
        turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
        matrix = contrast * brightness * np.linalg.inv(TO_YIQ) @ turn @ TO_YIQ
        pixels = frames.float()
        # Contrast is about the clip's mean luma, as torchvision's is about the picture's.
        luma = TO_YIQ[0] @ pixels.mean(dim=(0, 2, 3)).double().numpy()
        offset = (1 - contrast) * brightness * luma
        mixed = torch.einsum("oc,tchw->tohw", torch.as_tensor(matrix, dtype=torch.float32), pixels)
        return (mixed + offset).round_().clamp_(0, 255).to(torch.uint8)
