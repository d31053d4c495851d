"""Our paths through InternVL against transformers' own forward, loss and bitsandbytes' own quantiser."""

import json
import shutil

import pytest
import torch
from torch.nn import functional

from slr.core.errors import UserError
from slr.models.hub import locate
from slr.models.internvl import (
    answer_loss,
    bare,
    checkpoint_layers,
    embed,
    encode_frames,
    hidden_states,
    load_vlm,
    quantises,
    refuse_other,
)
from slr.models.lora import add_lora
from slr.models.processor import load_inputs

FRAMES = 2
WORDS = [("Which sign?", "book"), ("", "a"), ("Look at the hands: which of all the signs is it?", "ice cream, please")]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def inputs():
    return load_inputs("tiny", None)


@pytest.fixture(scope="module")
def model():
    return load("none")


@pytest.fixture(scope="module")
def pixels(inputs):
    noise = torch.randint(256, (len(WORDS), FRAMES, 3, *inputs.image_size), generator=torch.Generator().manual_seed(1))
    return inputs.normalise(noise.to(torch.uint8), torch.float32)


def load(quantization, weights="pretrained", checkpoint="tiny", device="cpu", dtype=torch.float32, seed=0):
    return load_vlm(checkpoint, None, weights, quantization, dtype, device, seed)


def adapted(quantization="none", dropout=0.0):
    """The packaged model with an adapter that does something, in training mode."""
    torch.manual_seed(3)
    wrapped = add_lora(load(quantization), "language", 4, 8, dropout, TARGETS)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return wrapped.train()


def batch(inputs, words=WORDS, side="left"):
    """Ids, mask and labels (-100 except the answer and its end), padded on one side."""
    rows = []
    for prompt, gloss in words:
        start, answer = inputs.prompt_ids(prompt, FRAMES), inputs.answer_ids(gloss)
        rows.append((start + answer, [1] * len(start + answer), [-100] * len(start) + answer))
    longest = max(len(row[0]) for row in rows)
    columns = []
    for values, fill in zip(zip(*rows, strict=True), (inputs.pad_id, 0, -100), strict=True):
        padded = [
            [fill] * (longest - len(row)) + row if side == "left" else row + [fill] * (longest - len(row))
            for row in values
        ]
        columns.append(torch.tensor(padded))
    return columns


# ---- loading


def copied(tmp_path, **settings):
    folder = tmp_path / "checkpoint"
    shutil.copytree(locate("tiny", None), folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def test_everything_is_frozen_and_in_evaluation_mode(model):
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    assert model.name_or_path == "tiny"


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copied(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "vision_tower" in name)
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"found 1 missing.*vision_tower") as error:
        load("none", checkpoint=str(folder))
    assert "\n" not in str(error.value)


def test_a_model_elsewhere_or_in_other_numbers_than_asked_is_refused(model):
    refuse_other(model, "cpu", torch.float32, "none")
    refuse_other(
        add_lora(load("none", dtype=torch.bfloat16), "language", 4, 8, 0.0, TARGETS), "cpu", torch.bfloat16, "none"
    )
    refuse_other(load("nf4"), "cpu", torch.float32, "nf4")
    with pytest.raises(UserError, match=r"expected the model on meta, found \S+ on cpu"):
        refuse_other(model, "meta", torch.float32, "none")
    with pytest.raises(UserError, match=r"numbers in torch\.bfloat16, found \S+ in torch\.float32"):
        refuse_other(model, "cpu", torch.bfloat16, "none")
    with pytest.raises(UserError, match="quantization=nf4, found 0 matrices"):
        refuse_other(model, "cpu", torch.float32, "nf4")
    with pytest.raises(UserError, match=r"quantization=none, found 28 matrices"):
        refuse_other(load("nf4"), "cpu", torch.float32, "none")


def test_a_width_that_bitsandbytes_reads_back_wrongly_is_refused(tmp_path):
    folder = copied(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 32
    (folder / "config.json").write_text(json.dumps(config))
    load("none", "random", str(folder))
    with pytest.raises(UserError, match=r"down_proj\.weight has \d+ columns, no multiple of 64"):
        load("nf4", "random", str(folder))


def test_bitsandbytes_is_asked_where_four_bits_run():
    assert quantises("cpu")
    assert not quantises("privateuseone")


def test_random_weights_follow_the_seed_and_leave_the_generator_alone():
    before = torch.get_rng_state()
    one, same, other = (load("none", "random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    names = [name for name, tensor in one.state_dict().items() if tensor.ndim == 2]
    for name in names:
        assert torch.equal(one.state_dict()[name], same.state_dict()[name])
    assert any(not torch.equal(one.state_dict()[name], other.state_dict()[name]) for name in names)


def test_the_2b_builds_on_the_meta_device(shared):
    big = load("none", "random", str(shared / "internvl3_5_processor"), "meta", torch.bfloat16)
    assert {(parameter.device.type, parameter.dtype) for parameter in big.parameters()} == {("meta", torch.bfloat16)}
    assert len(big.model.language_model.layers) == 28


@pytest.mark.parametrize("weights", ["pretrained", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_four_bits_are_the_language_layers_matrices_and_nothing_else(weights, dtype):
    import bitsandbytes

    whole, packed = (load(quantization, weights, dtype=dtype) for quantization in ("none", "nf4"))
    layers = {
        f"model.language_model.layers.{index}.{half}.{matrix}_proj.weight"
        for index in range(whole.config.text_config.num_hidden_layers)
        for half, matrices in (("self_attn", ["q", "k", "v", "o"]), ("mlp", ["gate", "up", "down"]))
        for matrix in matrices
    }
    truth = dict(whole.named_parameters())
    found = set()
    for name, parameter in packed.named_parameters():
        if getattr(parameter, "quant_state", None) is None:
            assert torch.equal(parameter, truth[name]), name
            assert parameter.dtype == dtype
            continue
        found.add(name)
        expected, state = bitsandbytes.functional.quantize_4bit(
            truth[name].data, blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        assert torch.equal(parameter.data, expected), name
        assert parameter.quant_state.nested  # double quantisation
        assert torch.equal(parameter.quant_state.absmax, state.absmax)
    assert found == layers


def test_a_head_tied_to_the_embeddings_stays_whole(tmp_path):
    folder = copied(tmp_path, tie_word_embeddings=True)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    tied = load("nf4", "random", str(folder))
    assert tied.lm_head.weight is tied.get_input_embeddings().weight
    assert tied.lm_head.weight.dtype == torch.float32


# ---- frames and tokens


def test_features_equal_transformers_own(model, inputs, pixels):
    ours = encode_frames(model, pixels)
    assert ours.shape == (len(pixels), FRAMES * inputs.tokens_per_frame, model.config.text_config.hidden_size)
    with torch.no_grad():
        theirs = model.get_image_features(pixel_values=pixels.flatten(0, 1))
    theirs = getattr(theirs, "pooler_output", theirs)
    assert torch.equal(ours.flatten(0, 1), theirs.flatten(0, 1))


def test_clips_do_not_mix(model, pixels):
    together = encode_frames(model, pixels)
    for index in range(len(pixels)):
        assert (encode_frames(model, pixels[index : index + 1]) - together[index]).abs().max() <= 1e-5


def test_the_vision_tower_has_no_graph_and_no_dropout_even_in_training(pixels):
    wrapped = adapted()
    core = bare(wrapped)
    first = encode_frames(wrapped, pixels)
    core.requires_grad_(True)
    wrapped.train()
    core.model.vision_tower.embeddings.dropout.p = 0.9
    again = encode_frames(wrapped, pixels)
    assert not again.requires_grad
    assert torch.equal(first, again)


@pytest.mark.parametrize("side", ["left", "right"])
def test_hidden_states_give_transformers_logits(model, inputs, pixels, side):
    ids, mask, _ = batch(inputs, side=side)
    hidden = hidden_states(model, encode_frames(model, pixels), ids, mask)
    for index in range(len(ids)):
        real = mask[index].bool()
        with torch.no_grad():
            theirs = model(pixel_values=pixels[index], input_ids=ids[index][real].unsqueeze(0)).logits[0]
        ours = model.lm_head(hidden[index][real])
        assert (ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().max() <= 1e-4


def test_frames_that_do_not_match_the_prompt_are_refused(model, inputs, pixels):
    ids, _, _ = batch(inputs)
    features = encode_frames(model, pixels)
    with pytest.raises(ValueError, match="image tokens a clip"):
        embed(model, features[:, : inputs.tokens_per_frame], ids)
    ids[0, ids[0] == inputs.image_token_id] = inputs.end_id  # one clip has none: its features would slip to the next
    with pytest.raises(ValueError, match="image tokens a clip"):
        embed(model, features, ids)


# ---- loss


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_each_clips_loss_equals_transformers_labels_path(inputs, pixels, side, quantization):
    model = load(quantization)
    ids, mask, labels = batch(inputs, side=side)
    hidden = hidden_states(model, encode_frames(model, pixels), ids, mask)
    ours = answer_loss(model, hidden, labels, smoothing=0.0)
    assert ours.dtype == torch.float32
    for index, words in enumerate(WORDS):
        alone, its_mask, its_labels = batch(inputs, [words])
        with torch.no_grad():
            theirs = model(pixel_values=pixels[index], input_ids=alone, attention_mask=its_mask, labels=its_labels).loss
        assert abs(ours[index] - theirs) <= 1e-5
        hidden_alone = hidden_states(model, encode_frames(model, pixels[index : index + 1]), alone, its_mask)
        assert abs(answer_loss(model, hidden_alone, its_labels, 0.0)[0] - theirs) <= 1e-5


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothing_is_torchs(model, inputs, pixels, smoothing):
    ids, mask, labels = batch(inputs)
    hidden = hidden_states(model, encode_frames(model, pixels), ids, mask)
    ours = answer_loss(model, hidden, labels, smoothing)
    everything = model.lm_head(hidden).float()
    for index in range(len(ids)):
        theirs = functional.cross_entropy(everything[index, :-1], labels[index, 1:], label_smoothing=smoothing)
        assert abs(ours[index] - theirs) <= 1e-5


def test_the_head_sees_the_rows_before_answer_tokens_only(model, inputs, pixels):
    ids, mask, labels = batch(inputs)
    hidden = hidden_states(model, encode_frames(model, pixels), ids, mask)
    seen = []
    watch = model.lm_head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    answer_loss(model, hidden, labels, 0.0)
    watch.remove()
    places = (labels != -100).nonzero().tolist()
    assert torch.equal(torch.cat(seen), torch.stack([hidden[clip, place - 1] for clip, place in places]))


# ---- gradients


def gradients(wrapped, inputs, pixels):
    ids, mask, labels = batch(inputs)
    wrapped.zero_grad()
    hidden = hidden_states(wrapped, encode_frames(wrapped, pixels), ids, mask)
    answer_loss(wrapped, hidden, labels, 0.1).mean().backward()
    return {name: parameter.grad.clone() for name, parameter in wrapped.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_no_gradient(inputs, pixels, quantization, dropout):
    wrapped = adapted(quantization, dropout)
    torch.manual_seed(9)
    plain = gradients(wrapped, inputs, pixels)
    assert all(gradient.any() for gradient in plain.values())
    calls = []
    layer = bare(wrapped).model.language_model.layers[0].mlp
    watch = layer.register_forward_pre_hook(lambda *_: calls.append(1))
    checkpoint_layers(wrapped)
    torch.manual_seed(9)
    saving = gradients(wrapped, inputs, pixels)
    watch.remove()
    assert len(calls) == 2  # once forward, once more in the backward pass: it does recompute
    for name, gradient in plain.items():
        assert (saving[name] - gradient).abs().max() <= 1e-6 * gradient.abs().max(), name


def test_checkpointing_leaves_the_vision_tower_alone():
    wrapped = adapted()
    checkpoint_layers(wrapped)
    core = bare(wrapped).model
    assert not any(getattr(module, "gradient_checkpointing", False) for module in core.vision_tower.modules())


def test_an_evaluation_between_two_steps_changes_no_gradient_of_four_bits(inputs, pixels):
    wrapped = adapted("nf4")
    before = gradients(wrapped, inputs, pixels)
    packed = {name: tensor.clone() for name, tensor in wrapped.state_dict().items() if tensor.dtype == torch.uint8}
    assert packed
    wrapped.eval()
    ids, mask, _ = batch(inputs)
    with torch.no_grad():
        hidden_states(wrapped, encode_frames(wrapped, pixels), ids, mask)
    after = gradients(wrapped.train(), inputs, pixels)
    for name, gradient in before.items():
        assert torch.equal(gradient, after[name]), name
    for name, tensor in wrapped.state_dict().items():
        assert name not in packed or torch.equal(tensor, packed[name])


def test_evaluation_and_training_compute_alike_in_four_bits(inputs, pixels):
    wrapped = adapted("nf4")
    ids, mask, _ = batch(inputs)
    features = encode_frames(wrapped, pixels)
    with torch.no_grad():
        training = hidden_states(wrapped, features, ids, mask)
        evaluating = hidden_states(wrapped.eval(), features, ids, mask)
    assert torch.equal(training[mask.bool()], evaluating[mask.bool()])
