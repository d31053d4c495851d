import colorsys

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from slr.data.augment import ColorJitter


class Fixed:
    """A generator that draws what it is told."""

    def __init__(self, *values):
        self.values = list(values)

    def uniform(self, low, high):
        return self.values.pop(0)


@pytest.fixture(scope="module")
def frames():
    return torch.from_numpy(np.random.default_rng(0).integers(40, 200, (5, 3, 24, 32), dtype=np.uint8))


@pytest.mark.parametrize("factor", [0.6, 1.2])
def test_brightness_and_saturation_equal_torchvision(frames, factor):
    jitter = ColorJitter(0.5, 0.5, 0.5, 0.1)
    brighter = jitter(frames, Fixed(factor, 1, 1, 0))
    assert (brighter.int() - reference.adjust_brightness(frames, factor).int()).abs().max() <= 1
    richer = jitter(frames, Fixed(1, 1, factor, 0))
    assert (richer.int() - reference.adjust_saturation(frames, factor).int()).abs().max() <= 1


def test_contrast_of_a_clip_of_equal_frames_equals_torchvision(frames):
    still = frames[:1].repeat(4, 1, 1, 1)
    ours = ColorJitter(0.5, 0.5, 0.5, 0.1)(still, Fixed(1, 0.7, 1, 0))
    assert (ours.int() - reference.adjust_contrast(still, 0.7).int()).abs().max() <= 1


def test_a_turn_of_hue_keeps_luma_and_moves_colours():
    clip = torch.tensor([150, 80, 80], dtype=torch.uint8).reshape(1, 3, 1, 1)
    turned = ColorJitter(0, 0, 0, 0.2)(clip, Fixed(1, 1, 1, 2 * np.pi / 12)).flatten().numpy() / 255
    before = clip.flatten().numpy() / 255
    assert abs(turned @ [0.299, 0.587, 0.114] - before @ [0.299, 0.587, 0.114]) < 0.01
    assert colorsys.rgb_to_hsv(*turned)[0] != pytest.approx(colorsys.rgb_to_hsv(*before)[0], abs=0.02)


def test_all_frames_get_the_same_draw(frames):
    still = frames[:1].repeat(6, 1, 1, 1)
    jittered = ColorJitter(0.3, 0.3, 0.3, 0.1)(still, np.random.default_rng(3))
    assert (jittered == jittered[:1]).all()
    assert (jittered != still).any()
    assert jittered.dtype == torch.uint8
