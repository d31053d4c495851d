"""Our inputs against transformers' own `InternVLProcessor`, given the right size, mean and deviation."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from slr.core.errors import UserError
from slr.models.hub import locate
from slr.models.processor import load_inputs

PROMPT = "Which sign is shown in these frames?"


@pytest.fixture(scope="module", params=["tiny", "2b"])
def checkpoint(request):
    """The packaged processor, and the 2B's where it lies beside the checkout."""
    if request.param == "tiny":
        return str(locate("tiny", None))
    return str(request.getfixturevalue("shared") / "internvl3_5_processor")


@pytest.fixture(scope="module")
def inputs(checkpoint):
    return load_inputs(checkpoint, None)


@pytest.fixture(scope="module")
def processor(checkpoint, inputs):
    """transformers' processor, its video half corrected as OpenGVLab/InternVL issues 1184 and 1222 ask for."""
    from transformers import AutoConfig, AutoProcessor

    config = AutoConfig.from_pretrained(checkpoint)
    theirs = AutoProcessor.from_pretrained(checkpoint)
    height, width = config.vision_config.image_size
    theirs.video_processor.size = {"height": height, "width": width}
    theirs.video_processor.image_mean = theirs.image_processor.image_mean
    theirs.video_processor.image_std = theirs.image_processor.image_std
    return theirs


def noise(frames, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def their_answer(processor, frames, prompt=PROMPT):
    content = [{"type": "video", "video": frames}, {"type": "text", "text": prompt}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )


@pytest.mark.parametrize("frames", [1, 2, 8])
@pytest.mark.parametrize("prompt", [PROMPT, "", " Was heißt das?\n\nEin Wort, bitte: "])
def test_prompt_tokens_equal_the_processors(inputs, processor, frames, prompt):
    theirs = their_answer(processor, noise(frames, 40, 30), prompt)["input_ids"][0].tolist()
    ours = inputs.prompt_ids(prompt, frames)
    assert ours == theirs
    assert ours.count(inputs.image_token_id) == frames * inputs.tokens_per_frame


def test_eight_frames_of_the_2b_are_2048_image_tokens(shared):
    inputs = load_inputs(str(shared / "internvl3_5_processor"), None)
    assert inputs.prompt_ids(PROMPT, 8).count(inputs.image_token_id) == 2048
    assert inputs.image_size == (448, 448)
    assert inputs.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (97, 33), (720, 406), (96, 96), (448, 448)])
def test_pixels_equal_the_processors(inputs, processor, height, width):
    frames = noise(2, height, width)
    small = inputs.resize(frames)
    channels_first = torch.from_numpy(frames).permute(0, 3, 1, 2)
    resized = processor.video_processor(
        [channels_first], do_rescale=False, do_normalize=False, do_convert_rgb=False, return_tensors="pt"
    )["pixel_values_videos"][0]
    assert resized.dtype == small.dtype == torch.uint8
    assert torch.equal(small, resized)
    theirs = their_answer(processor, frames)["pixel_values"]
    assert (inputs.normalise(small, torch.float32) - theirs).abs().max() <= 1e-6


def test_a_batch_of_two_equals_two_batches_of_one(inputs, processor):
    clips = [noise(3, 60, 80, seed) for seed in (1, 2)]
    together = inputs.normalise(torch.stack([inputs.resize(clip) for clip in clips]), torch.float32)
    apart = [inputs.normalise(inputs.resize(clip), torch.float32) for clip in clips]
    assert torch.equal(together, torch.stack(apart))
    theirs = processor(
        text=[processor.tokenizer.video_token] * 2, videos=[list(clip) for clip in clips], return_tensors="pt"
    )["pixel_values"]
    assert (together.flatten(0, 1) - theirs).abs().max() <= 1e-6


def test_normalising_keeps_the_device_and_takes_the_dtype(inputs):
    pixels = torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8)
    assert inputs.normalise(pixels, torch.bfloat16).dtype == torch.bfloat16
    assert inputs.normalise(pixels.to("meta"), torch.float32).device.type == "meta"
    assert pixels.eq(0).all()  # not written to


def test_read_only_frames_are_taken_and_others_left_alone(inputs):
    frames = noise(1, 50, 50)
    before = frames.copy()
    frames.flags.writeable = False
    inputs.resize(frames)
    assert np.array_equal(frames, before)


@pytest.mark.parametrize(
    "gloss", ["book", "ice cream", "don't want", "über", "a", "HELLO(1)", "手", " lead", "u\u0308"]
)
def test_an_answer_is_what_the_chat_template_puts_after_the_prompt(inputs, processor, gloss):
    frames = noise(2, 16, 16)
    user = {"role": "user", "content": [{"type": "video", "video": frames}, {"type": "text", "text": PROMPT}]}
    answered = {"role": "assistant", "content": [{"type": "text", "text": gloss}]}
    theirs = processor.apply_chat_template([user, answered], tokenize=True, return_dict=True, return_tensors="pt")
    ids = theirs["input_ids"][0].tolist()
    ours = inputs.prompt_ids(PROMPT, 2) + inputs.answer_ids(gloss)
    assert ids[: len(ours)] == ours
    assert inputs.decode(ids[len(ours) :]).strip() == ""


def test_answers_decode_to_the_gloss_and_the_end(inputs):
    for gloss in ("book", "ice cream", "Müll,eimer='1'", "two  spaces"):
        ids = inputs.answer_ids(gloss)
        assert ids[-1] == inputs.end_id
        assert inputs.decode(ids[:-1]) == gloss


@pytest.mark.parametrize("gloss", ["", "  ", "\n"])
def test_a_blank_gloss_is_refused(inputs, gloss):
    with pytest.raises(UserError, match="at least one letter"):
        inputs.answer_ids(gloss)


@pytest.mark.parametrize("token", ["<|im_end|>", "<video>", "<IMG_CONTEXT>", "<|im_start|>"])
def test_special_tokens_in_words_are_refused(inputs, token):
    with pytest.raises(UserError, match="special token") as error:
        inputs.prompt_ids(f"{token}\nWhich sign?", 2)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="special token"):
        inputs.answer_ids(f"book{token}")


def test_asking_twice_gives_equal_lists_of_ones_own(inputs):
    first = inputs.prompt_ids(PROMPT, 4)
    first.append(-1)
    assert inputs.prompt_ids(PROMPT, 4) == first[:-1]


def test_pickled_inputs_are_small_and_know_what_was_asked(inputs):
    asked, answer = inputs.prompt_ids(PROMPT, 2), inputs.answer_ids("book")
    packed = pickle.dumps(inputs)
    assert len(packed) < 100_000
    again = pickle.loads(packed)
    assert "_words" not in vars(again)
    assert again.prompt_ids(PROMPT, 2) == asked
    assert again.answer_ids("book") == answer
    assert "_words" not in vars(again)  # a worker that meets no new words opens no tokenizer
    assert again.prompt_ids("New words", 1) == inputs.prompt_ids("New words", 1)


@pytest.mark.e2e
def test_nothing_here_needs_torchvision(checkpoint):
    code = f"""
import sys
sys.modules["torchvision"] = None          # any import of it fails
import numpy as np, torch
from slr.models.processor import load_inputs
inputs = load_inputs({checkpoint!r}, None)
assert inputs.prompt_ids("Which?", 2) and inputs.answer_ids("book")
inputs.normalise(inputs.resize(np.zeros((1, 9, 9, 3), np.uint8)), torch.float32)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def changed(tmp_path, file, **settings):
    folder = tmp_path / "checkpoint"
    shutil.copytree(locate("tiny", None), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return str(folder)


@pytest.mark.parametrize(
    ("file", "settings", "named"),
    [
        ("config.json", {"image_seq_length": 15}, "image_seq_length"),
        ("preprocessor_config.json", {"resample": 2}, "resample"),
        ("preprocessor_config.json", {"rescale_factor": 1.0}, "rescale_factor"),
        ("preprocessor_config.json", {"do_normalize": False}, "do_normalize"),
    ],
)
def test_a_checkpoint_that_prepares_frames_otherwise_is_refused(tmp_path, file, settings, named):
    with pytest.raises(UserError, match=named) as error:
        load_inputs(changed(tmp_path, file, **settings), None)
    assert "\n" not in str(error.value)


def test_colours_are_the_image_processors_wherever_they_are_written(tmp_path):
    wrong = {"size": {"height": 384, "width": 384}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    folder = changed(tmp_path, "video_preprocessor_config.json", **wrong)
    tiny = load_inputs("tiny", None)
    moved = load_inputs(folder, None)
    assert (moved.mean, moved.std, moved.image_size) == (tiny.mean, tiny.std, tiny.image_size)

    alone, common = (Path(folder) / f"{name}_config.json" for name in ("preprocessor", "processor"))
    common.write_text(json.dumps({"image_processor": json.loads(alone.read_text())}))  # as transformers 5 saves them
    alone.unlink()
    assert load_inputs(folder, None).mean == tiny.mean
