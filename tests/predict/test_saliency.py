"""Frames that decide, against hiding them by hand and ranking the whole vocabulary anew."""

import numpy as np
import pytest
import torch

from slr.data.collate import Sample, collate_ranking
from slr.models import internvl, lora
from slr.models.processor import load_inputs
from slr.predict.saliency import occlusion
from slr.training.module import SignModule

GLOSSES = ["a", "mokitu", "ÄÖ", "don't want", "tuka"]
ASKED = ["don't want", "a"]
FRAMES = 5


@pytest.fixture(scope="module")
def recognizer():
    network = internvl.load_vlm("tiny", None, "pretrained", "none", torch.float32, "cpu", 0)
    torch.manual_seed(0)
    network = lora.add_lora(network, "language", 4, 8, 0.1, ["q_proj", "v_proj"])
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return SignModule(network, load_inputs("tiny", None), GLOSSES, 1e-3, 0.01, 2, 1.0, "token", 0.0, 1, 0).eval()


def batch_of(recognizer, *clips):
    """Clips uint8 (T, 3, h, w) as a batch for ranking."""
    inputs = recognizer.inputs
    prompt = inputs.prompt_ids("Name the sign.", FRAMES)
    samples = [
        Sample(str(n), 0, prompt, inputs.answer_ids("a"), torch.from_numpy(clip)) for n, clip in enumerate(clips)
    ]
    return collate_ranking(samples, inputs.pad_id)


@pytest.fixture(scope="module")
def clip(recognizer):
    """Noise of a colour of its own in each frame."""
    rng = np.random.default_rng(0)
    colour = rng.integers(20, 200, (FRAMES, 3, 1, 1))
    return (colour + rng.integers(0, 50, (FRAMES, 3, *recognizer.inputs.image_size))).astype(np.uint8)


def test_weights_are_what_the_whole_ranking_loses_when_a_frame_is_painted_over(recognizer, clip):
    mean = [round(float(clip[:, channel].mean())) for channel in range(3)]
    expected = np.zeros((FRAMES, len(ASKED)))
    columns = [GLOSSES.index(gloss) for gloss in ASKED]
    whole = recognizer.rank(batch_of(recognizer, clip))[0, columns].numpy()
    for frame in range(FRAMES):
        painted = clip.copy()
        for channel in range(3):
            painted[frame, channel] = mean[channel]
        expected[frame] = whole - recognizer.rank(batch_of(recognizer, painted))[0, columns].numpy()
    assert np.abs(expected).min() > 1e-4  # a network that looked at nothing would pass else
    for at_once in (1, 2, 16):
        found = occlusion(recognizer, batch_of(recognizer, clip), ASKED, at_once)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(found, occlusion(recognizer, batch_of(recognizer, clip), ASKED, 16))


def test_one_frame_is_hidden_too(recognizer, clip):
    inputs = recognizer.inputs
    prompt = inputs.prompt_ids("Name the sign.", 1)
    sample = Sample("0", 0, prompt, inputs.answer_ids("a"), torch.from_numpy(clip[:1]))
    assert occlusion(recognizer, collate_ranking([sample], inputs.pad_id), ["tuka"], 4).shape == (1, 1)


def test_a_frame_that_shows_nothing_decides_nothing(recognizer):
    flat = np.full((FRAMES, 3, *recognizer.inputs.image_size), 77, np.uint8)
    found = occlusion(recognizer, batch_of(recognizer, flat), ASKED, 16)
    np.testing.assert_allclose(found.numpy(), 0, atol=1e-4)


def test_more_than_one_clip_is_refused(recognizer, clip):
    with pytest.raises(ValueError, match="expected 1"):
        occlusion(recognizer, batch_of(recognizer, clip, clip), ASKED, 16)
