"""The trie pass against scoring every gloss alone with transformers' own forward, without a cache."""

import random

import pytest
import torch

from slr.models import ranking
from slr.models.internvl import checkpoint_layers, encode_frames, load_vlm
from slr.models.lora import add_lora
from slr.models.processor import load_inputs
from slr.models.ranking import LOGIT_BYTES, look, sequence_log_probabilities
from slr.models.trie import build_trie

FRAMES = 2
PROMPTS = ["Which sign?", "", "Look at the hands of the person: which of the signs that you know is it?"]


def rank(*given, **words):
    return look(*given, **words).log_probability


@pytest.fixture(scope="module")
def inputs():
    return load_inputs("tiny", None)


@pytest.fixture(scope="module")
def model():
    return load_vlm("tiny", None, "pretrained", "none", torch.float32, "cpu", 0)


@pytest.fixture(scope="module")
def pixels(inputs):
    noise = torch.randint(
        256, (len(PROMPTS), FRAMES, 3, *inputs.image_size), generator=torch.Generator().manual_seed(1)
    )
    return inputs.normalise(noise.to(torch.uint8), torch.float32)


def random_glosses(inputs, count, seed=0):
    """1-5 tokens each, half of them from a handful so that prefixes are shared, all tokens below the special ones."""
    rng = random.Random(seed)
    ordinary = min(inputs.image_token_id, inputs.end_id, inputs.pad_id)
    few = [rng.randrange(ordinary) for _ in range(6)]
    found: set[tuple[int, ...]] = set()
    while len(found) < count:
        length = rng.randint(1, 5)
        found.add(tuple(rng.choice(few) if rng.random() < 0.5 else rng.randrange(ordinary) for _ in range(length)))
    return [[*gloss, inputs.end_id] for gloss in sorted(found, key=lambda _: rng.random())]


def left_padded(inputs, prompts, frames=FRAMES):
    ids = [inputs.prompt_ids(prompt, frames) for prompt in prompts]
    longest = max(map(len, ids))
    padded = torch.tensor([[inputs.pad_id] * (longest - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
    return padded, mask


def one_by_one(model, inputs, pixels, prompt, glosses):
    """Brute force: log-probabilities (K,) of one clip."""
    start = inputs.prompt_ids(prompt, len(pixels))
    scores = []
    for gloss in glosses:
        logits = model(pixel_values=pixels, input_ids=torch.tensor([start + gloss]), use_cache=False).logits[0]
        words = logits.float().log_softmax(-1)[len(start) - 1 : -1]
        scores.append(words.gather(1, torch.tensor(gloss).unsqueeze(1)).sum())
    return torch.stack(scores)


@pytest.fixture(scope="module")
def glosses(inputs):
    return random_glosses(inputs, 320)


@pytest.fixture(scope="module")
def reference(model, inputs, pixels, glosses):
    with torch.no_grad():
        rows = [one_by_one(model, inputs, clip, prompt, glosses) for clip, prompt in zip(pixels, PROMPTS, strict=True)]
    return torch.stack(rows)


def check(ours, reference, largest=1e-4, gap=2e-4):
    assert ours.dtype == torch.float32
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= largest
    ahead = reference.unsqueeze(2) - reference.unsqueeze(1) > gap
    assert ahead.any()
    assert (ours.unsqueeze(2) > ours.unsqueeze(1))[ahead].all()


def test_clips_of_different_prompt_lengths_together(model, inputs, pixels, glosses, reference):
    ids, mask = left_padded(inputs, PROMPTS)
    assert len(set(mask.sum(1).tolist())) == len(PROMPTS)
    ours = rank(model, encode_frames(model, pixels), ids, mask, build_trie(glosses))
    check(ours, reference)


def test_each_clip_alone(model, inputs, pixels, glosses, reference):
    trie = build_trie(glosses)
    for index, prompt in enumerate(PROMPTS):
        ids, mask = left_padded(inputs, [prompt])
        one = slice(index, index + 1)
        check(rank(model, encode_frames(model, pixels[one]), ids, mask, trie), reference[one])


def test_probabilities_are_of_the_whole_vocabulary(model, inputs, pixels, glosses):
    ids, mask = left_padded(inputs, PROMPTS)
    mass = rank(model, encode_frames(model, pixels), ids, mask, build_trie(glosses)).exp().sum(1)
    assert ((mass > 0) & (mass < 1)).all()
    assert mass.unique().numel() == len(PROMPTS)  # renormalised, all would be 1


def test_order_of_glosses_is_the_vocabularys(model, inputs, pixels, glosses):
    ids, mask = left_padded(inputs, PROMPTS)
    features = encode_frames(model, pixels)
    forth = rank(model, features, ids, mask, build_trie(glosses))
    back = rank(model, features, ids, mask, build_trie(glosses[::-1]))
    assert (forth - back.flip(1)).abs().max() <= 1e-5


@pytest.mark.parametrize("logit_bytes", [1, 100_000])
@pytest.mark.parametrize("words", [100, 2**14])
def test_chunks_of_logits_change_nothing(model, inputs, pixels, glosses, logit_bytes, words, monkeypatch):
    ids, mask = left_padded(inputs, PROMPTS)
    features, trie = encode_frames(model, pixels), build_trie(glosses)
    whole = rank(model, features, ids, mask, trie)
    largest, honest = [], ranking._logits

    def watched(weight, states):
        logits = honest(weight, states)
        largest.append(4 * logits.numel())
        return logits

    monkeypatch.setattr(ranking, "_logits", watched)
    monkeypatch.setattr(ranking, "WORDS_AT_ONCE", words)
    monkeypatch.setattr(ranking, "LOGIT_BYTES", logit_bytes)
    chunked = rank(model, features, ids, mask, trie)
    assert max(largest) <= max(logit_bytes / 2, 4 * len(ids) * min(words, model.config.text_config.vocab_size))
    torch.testing.assert_close(chunked, whole, rtol=1e-6, atol=1e-5)  # eight digits of -80


@pytest.mark.parametrize("nodes", [1, 7, 100, 300])
def test_stretches_of_the_trie_change_nothing(model, inputs, pixels, glosses, reference, nodes, monkeypatch):
    """Stretches begin in the middle of subtrees, whose ancestors are then computed again."""
    ids, mask = left_padded(inputs, PROMPTS)
    trie = build_trie(glosses)
    assert any(len(part.new) < (part.seen.any(axis=2)).sum() for part in trie.stretches(nodes, nodes))
    monkeypatch.setattr(ranking, "ROWS_AT_ONCE", nodes * len(PROMPTS))
    check(rank(model, encode_frames(model, pixels), ids, mask, trie), reference)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_one_sequence_gives_what_the_cache_gives(inputs, pixels, glosses, reference, checkpointed):
    """In training mode too, where layers are computed twice; a LoRA without dropout that does nothing yet."""
    network = add_lora(
        load_vlm("tiny", None, "pretrained", "none", torch.float32, "cpu", 0), "language", 4, 8, 0, ["q_proj"]
    )
    if checkpointed:
        checkpoint_layers(network)
    ids, mask = left_padded(inputs, PROMPTS)
    features = encode_frames(network, pixels)
    scores = sequence_log_probabilities(network.train(), features, ids, mask, build_trie(glosses), 100_000)
    check(scores.detach(), reference)
    scores.sum().backward()
    assert all(p.grad.isfinite().all() for n, p in network.named_parameters() if "lora_B" in n)


def test_nothing_is_left_over_for_the_next_call(model, inputs, pixels, glosses):
    ids, mask = left_padded(inputs, PROMPTS)
    features, trie = encode_frames(model, pixels), build_trie(glosses)
    first = rank(model, features, ids, mask, trie)
    rank(model, features.flip(0), ids, mask, build_trie(glosses[:7]))
    assert torch.equal(rank(model, features, ids, mask, trie), first)


def test_more_padding_changes_nothing_and_gives_no_nan(model, inputs, pixels, glosses):
    ids, mask = left_padded(inputs, PROMPTS)
    features, trie = encode_frames(model, pixels), build_trie(glosses)
    wider = torch.nn.functional.pad(ids, (50, 0), value=inputs.pad_id)
    ours = rank(model, features, wider, torch.nn.functional.pad(mask, (50, 0)), trie)
    assert ours.isfinite().all()
    assert (ours - rank(model, features, ids, mask, trie)).abs().max() <= 1e-4


@pytest.mark.parametrize("glosses_of", [lambda end: [[end]], lambda end: [[end], [5, end]], lambda end: [[5, end]]])
def test_vocabularies_of_almost_nothing(model, inputs, pixels, glosses_of):
    ids, mask = left_padded(inputs, PROMPTS[:1])
    few = glosses_of(inputs.end_id)
    ours = rank(model, encode_frames(model, pixels[:1]), ids, mask, build_trie(few))
    with torch.no_grad():
        truth = one_by_one(model, inputs, pixels[0], PROMPTS[0], few)
    assert (ours[0] - truth).abs().max() <= 1e-4


def adapted(quantization, dtype):
    """The packaged model with an adapter that does something."""
    torch.manual_seed(3)
    base = load_vlm("tiny", None, "pretrained", quantization, dtype, "cpu", 0)
    wrapped = add_lora(base, "language", 4, 8, 0.1, ["q_proj", "v_proj", "up_proj"])
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return wrapped.eval()


def test_four_bits_and_an_adapter(inputs, pixels):
    wrapped = adapted("nf4", torch.float32)
    few = random_glosses(inputs, 60, seed=5)
    ids, mask = left_padded(inputs, PROMPTS)
    ours = rank(wrapped, encode_frames(wrapped, pixels), ids, mask, build_trie(few))
    with torch.no_grad():
        rows = [one_by_one(wrapped, inputs, clip, prompt, few) for clip, prompt in zip(pixels, PROMPTS, strict=True)]
    check(ours, torch.stack(rows))


@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_strays_no_further_than_brute_force_in_bf16(inputs, pixels, autocast):
    dtype = torch.float32 if autocast else torch.bfloat16
    whole, rough = adapted("none", torch.float32), adapted("none", dtype)
    few = random_glosses(inputs, 40, seed=6)
    ids, mask = left_padded(inputs, PROMPTS)
    with torch.no_grad():
        truth = one_by_one(whole, inputs, pixels[2], PROMPTS[2], few)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            ours = rank(rough, encode_frames(rough, pixels.to(dtype)), ids, mask, build_trie(few))
            theirs = one_by_one(rough, inputs, pixels[2].to(dtype), PROMPTS[2], few)
    assert ours.dtype == torch.float32
    stray = (theirs - truth).abs().mean()
    assert stray > 0
    assert (ours[2] - truth).abs().mean() < 2 * stray


@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_ties_no_glosses(inputs, pixels, autocast):
    """bf16 logits of single tokens would share a few hundred values; none may be above 0 either."""
    model = adapted("none", torch.float32 if autocast else torch.bfloat16)
    ordinary = min(inputs.image_token_id, inputs.end_id, inputs.pad_id)
    many = [[token, inputs.end_id] for token in range(ordinary)]
    ids, mask = left_padded(inputs, PROMPTS[:1])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        features = encode_frames(model, pixels[:1].to(model.dtype))
        ranked = rank(model, features, ids, mask, build_trie(many))[0]
    assert len(ranked.unique()) > 0.99 * len(many)
    assert ranked.max() <= 0


def test_eager_attention_takes_the_same_mask(inputs, pixels, glosses, reference):
    eager = load_vlm("tiny", None, "pretrained", "none", torch.float32, "cpu", 0)
    eager.set_attn_implementation("eager")
    ids, mask = left_padded(inputs, PROMPTS)
    check(rank(eager, encode_frames(eager, pixels), ids, mask, build_trie(glosses)), reference)


def test_gradients_equal_brute_forces(inputs, pixels):
    wrapped = adapted("none", torch.float32)
    few = random_glosses(inputs, 12, seed=7)
    ids, mask = left_padded(inputs, PROMPTS[:2])
    moving = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    features = encode_frames(wrapped, pixels[:2])
    scores = sequence_log_probabilities(wrapped, features, ids, mask, build_trie(few), LOGIT_BYTES)
    ours = torch.autograd.grad(scores.logsumexp(1).sum(), moving)
    rows = [one_by_one(wrapped, inputs, pixels[index], PROMPTS[index], few) for index in range(2)]
    theirs = torch.autograd.grad(torch.stack(rows).logsumexp(1).sum(), moving)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() <= 1e-4 * other.abs().max().clamp(min=1)


def test_ranking_leaves_no_graph_and_refuses_dropout(inputs, pixels):
    wrapped = adapted("none", torch.float32)
    ids, mask = left_padded(inputs, PROMPTS)
    features, trie = encode_frames(wrapped, pixels), build_trie(random_glosses(inputs, 5))
    assert not rank(wrapped, features, ids, mask, trie).requires_grad
    wrapped.train()
    with pytest.raises(ValueError, match="evaluation mode"):
        rank(wrapped, features, ids, mask, trie)


def test_padding_on_the_right_is_refused(model, inputs, pixels):
    ids, mask = left_padded(inputs, PROMPTS)
    with pytest.raises(ValueError, match="padded on the left"):
        rank(model, encode_frames(model, pixels), ids.flip(1), mask.flip(1), build_trie([[5, inputs.end_id]]))
