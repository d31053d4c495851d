"""Free text about clips against transformers' own pipeline from pixels, and beams against the exact ranking."""

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from transformers import GenerationConfig

from slr.core.errors import UserError
from slr.data.collate import Sample, collate_ranking
from slr.evaluation.free_text import exact_match
from slr.models.generation import Decoding, beam_search, generate
from slr.models.internvl import bare, encode_frames, load_vlm
from slr.models.lora import add_lora
from slr.models.processor import load_inputs
from slr.models.ranking import look
from slr.models.trie import build_trie

FRAMES = 2
PROMPTS = ("Which sign?", "", "Look at the hands: which of all the signs is it?")
LENGTH = 6


@pytest.fixture(scope="module")
def inputs():
    return load_inputs("tiny", None)


@pytest.fixture(scope="module")
def model():
    """The packaged model with an adapter that does something."""
    torch.manual_seed(3)
    wrapped = add_lora(
        load_vlm("tiny", None, "pretrained", "none", torch.float32, "cpu", 0), "language", 4, 8, 0.1, ["q_proj"]
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return wrapped.eval()


@pytest.fixture(scope="module")
def pixels(inputs):
    noise = torch.randint(
        256, (len(PROMPTS), FRAMES, 3, *inputs.image_size), generator=torch.Generator().manual_seed(1)
    )
    return inputs.normalise(noise.to(torch.uint8), torch.float32)


@pytest.fixture(scope="module")
def asked(inputs, model, pixels):
    """Features, ids and mask of three clips whose prompts differ in length."""
    samples = [Sample("", 0, inputs.prompt_ids(prompt, FRAMES), []) for prompt in PROMPTS]
    batch = collate_ranking(samples, inputs.pad_id)
    return encode_frames(model, pixels), batch["input_ids"], batch["attention_mask"]


def transformers_own(model, pixels, asked, inputs, **settings):
    """The same question, put to transformers from pixels: token rows, prompt cut off."""
    _, ids, mask = asked
    network = bare(model)
    found = network.generate(
        input_ids=ids,
        pixel_values=pixels.flatten(0, 1),
        attention_mask=mask,
        generation_config=GenerationConfig(
            max_new_tokens=LENGTH,
            eos_token_id=inputs.end_id,
            pad_token_id=inputs.end_id,
            **settings,
        ),
    )
    rows = found[:, ids.shape[1] :].tolist()
    return [tuple(row[: row.index(inputs.end_id)] if inputs.end_id in row else row) for row in rows]


def test_the_likeliest_words_are_transformers_own(model, pixels, asked, inputs):
    expected = transformers_own(model, pixels, asked, inputs, do_sample=False)
    assert generate(model, asked, inputs.end_id, Decoding(length=LENGTH)) == expected
    assert any(expected)


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.14"),
    reason="transformers 5.13 finds other beams from pixels than from features, and the exact ranking says the latter",
)
def test_beams_are_transformers_own(model, pixels, asked, inputs):
    settings = {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 0.0, "early_stopping": "never"}
    expected = transformers_own(model, pixels, asked, inputs, do_sample=False, **settings)
    beams = [beam for row in beam_search(model, asked, 4, LENGTH, inputs.end_id) for beam in row]
    assert beams == expected
    best = generate(model, asked, inputs.end_id, Decoding(length=LENGTH, beams=4))
    assert best == beams[::4]


def test_beams_that_ended_are_in_the_order_in_which_the_ranking_has_them(model, asked, inputs):
    features, ids, mask = asked
    compared = 0
    for clip, found in enumerate(beam_search(model, asked, 8, LENGTH, inputs.end_id)):
        ended = [beam for beam in found if 0 < len(beam) < LENGTH]
        if len(ended) < 2:
            continue
        row = slice(clip, clip + 1)
        trie = build_trie([[*beam, inputs.end_id] for beam in ended])
        exact = look(model, features[row], ids[row], mask[row], trie).log_probability[0]
        assert (exact.diff() <= 1e-4).all()
        compared += len(ended)
    assert compared


def test_drawing_follows_the_seed_and_leaves_the_generator_alone(model, asked, inputs):
    before = torch.get_rng_state()

    def drawn(seed, **settings):
        return generate(model, asked, inputs.end_id, Decoding(length=20, seed=seed, **settings))

    assert drawn(1, temperature=1.5) == drawn(1, temperature=1.5)
    assert len({str(drawn(seed, temperature=1.5)) for seed in range(4)}) > 1
    greedy = generate(model, asked, inputs.end_id, Decoding(length=20))
    assert drawn(5, temperature=1.5, top_p=1e-6) == greedy  # of a nucleus of one, that one is drawn
    assert torch.equal(torch.get_rng_state(), before)


def test_a_checkpoints_own_settings_have_no_say(model, asked, inputs):
    greedy = generate(model, asked, inputs.end_id, Decoding(length=LENGTH))
    network = bare(model)
    kept = network.generation_config
    network.generation_config = GenerationConfig(do_sample=True, temperature=9.0, top_k=3, repetition_penalty=5.0)
    try:
        assert generate(model, asked, inputs.end_id, Decoding(length=LENGTH)) == greedy
        assert network.generation_config.repetition_penalty == 5.0
    finally:
        network.generation_config = kept


def test_a_model_in_training_is_refused(model, asked, inputs):
    model.train()
    try:
        with pytest.raises(ValueError, match="evaluation mode"):
            generate(model, asked, inputs.end_id, Decoding())
    finally:
        model.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"length": 0},
        {"beams": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 1.0, "top_p": 1.1},
        {"top_p": 0.5},
        {"temperature": 1.0, "beams": 2},
    ],
)
def test_what_cannot_be_is_refused(settings):
    with pytest.raises(UserError, match="expected"):
        Decoding(**settings)


# ---- what free texts are worth


def test_exact_match_counts_by_hand():
    vocabulary = ["eat", "ice cream", "no"]
    texts = [
        ["eat", "no", "ice cream"],  # right at once
        ["no", " Ice  cream", "eat"],  # right in the second, whatever its spaces and capitals
        ["nope", "no", "no"],  # no gloss, then one twice
        ["", "eats", "eat eat"],  # nothing at all
    ]
    found = exact_match(texts, ["eat", "ice cream", "eat", "no"], vocabulary)
    assert found["n"] == 4
    assert found["top1"] == 0.25
    assert found["top5"] == 0.5
    assert found["no_gloss"] == 4 / 12  # nope, "", eats, eat eat
    assert found["doubled"] == 1 / 12
    assert found["beams"] == 3
    low, high = found["top1_interval"]
    assert 0 < low < 0.25 < high < 1


def test_wilson_interval_of_exact_match_against_statistics():
    from scipy.stats import norm

    found = exact_match([["a"]] * 7 + [["b"]] * 3, ["a"] * 10, ["a", "b"])
    z, p, n = norm.ppf(0.975), 0.7, 10
    centre, spread = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(centre - spread) / (1 + z**2 / n), (centre + spread) / (1 + z**2 / n)]
    np.testing.assert_allclose(found["top1_interval"], expected, atol=1e-9)


def test_beams_beyond_the_fifth_do_not_count():
    found = exact_match([["a", "b", "c", "d", "e", "f"]], ["f"], list("abcdef"))
    assert (found["top1"], found["top5"]) == (0.0, 0.0)
