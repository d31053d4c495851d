"""The adapter: where it is, what it counts, which gradients it must get, and that PEFT itself reads what we write."""

import json
import re

import pytest
import torch

from slr.core.errors import UserError
from slr.models.internvl import answer_loss, bare, encode_frames, hidden_states, load_vlm
from slr.models.lora import (
    adapter_state,
    add_lora,
    census,
    gradient_census,
    load_adapter_state,
    load_exported,
    save_adapter,
)
from slr.models.processor import load_inputs

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def clip():
    """Frames, ids, mask and labels of one clip."""
    inputs = load_inputs("tiny", None)
    start, answer = inputs.prompt_ids("Which sign?", 2), inputs.answer_ids("book")
    noise = torch.randint(256, (1, 2, 3, *inputs.image_size), generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([start + answer])
    labels = torch.tensor([[-100] * len(start) + answer])
    return inputs.normalise(noise.to(torch.uint8), torch.float32), ids, torch.ones_like(ids), labels


def base(quantization="none", dtype=torch.float32):
    return load_vlm("tiny", None, "pretrained", quantization, dtype, "cpu", 0)


def adapted(quantization="none", r=4, moved=True, scope="language"):
    torch.manual_seed(3)
    wrapped = add_lora(base(quantization), scope, r, 8, 0.0, TARGETS)
    if moved:
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.05)
    return wrapped


def hidden(model, clip):
    pixels, ids, mask, _ = clip
    return hidden_states(model, encode_frames(model, pixels), ids, mask)


def backward(model, clip):
    model.zero_grad()
    answer_loss(model, hidden(model, clip), clip[-1], 0.0).mean().backward()


# ---- adding


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_only_the_named_matrices_of_language_layers_train(quantization):
    wrapped = adapted(quantization)
    trained = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    layers = bare(wrapped).config.text_config.num_hidden_layers
    assert len(trained) == layers * len(TARGETS) * 2
    form = re.compile(r".*\.language_model\.layers\.\d+\.(self_attn|mlp)\.(\w+)\.lora_[AB]\.default\.weight")
    assert {match[2] for name in trained if (match := form.fullmatch(name))} == set(TARGETS)
    assert all(form.fullmatch(name) for name in trained)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_new_adapter_changes_no_output(clip, quantization):
    with torch.no_grad():
        plain = hidden(base(quantization), clip)
        assert torch.equal(hidden(adapted(quantization, moved=False).eval(), clip), plain)
        assert not torch.equal(hidden(adapted(quantization).eval(), clip), plain)


def test_scope_none_adds_nothing():
    model = base()
    before = [name for name, _ in model.named_parameters()]
    assert add_lora(model, "none", 4, 8, 0.0, TARGETS) is model
    assert [name for name, _ in model.named_parameters()] == before
    assert not any(row.trainable for row in census(model))


@pytest.mark.parametrize(
    ("targets", "named"), [(["q_proj", "q_pro"], "found q_pro;"), ([], "empty list"), (["fc1"], "fc1")]
)
def test_targets_that_match_nothing_are_refused(targets, named):
    with pytest.raises(UserError, match=named) as error:
        add_lora(base(), "language", 4, 8, 0.0, targets)
    assert "gate_proj" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_scope_is_refused():
    model = base()
    del model.model.language_model.layers[:]
    with pytest.raises(UserError, match="no such layers"):
        add_lora(model, "language", 4, 8, 0.0, TARGETS)


def test_adapters_of_a_bf16_model_are_float32():
    wrapped = add_lora(base(dtype=torch.bfloat16), "language", 4, 8, 0.0, TARGETS)
    assert {row.dtype for row in census(wrapped) if row.trainable} == {"float32"}


# ---- counting


def test_the_2bs_census(shared):
    big = load_vlm(
        str(shared / "internvl3_5_processor"), None, "random", "none", torch.bfloat16, torch.device("meta"), 0
    )
    rows = census(add_lora(big, "language", 16, 32, 0.1, TARGETS))
    assert sum(row.parameters for row in rows if row.trainable) == 13_762_560
    assert sum(row.parameters for row in rows if row.trainable and row.part.startswith("vision")) == 0
    assert sum(row.parameters for row in rows if row.part == "vision") > 300e6
    # r x (inputs + outputs) of each matrix: 16 heads and 8 key-value heads of 128, width 2048, 6144 inside
    q, kv, o, mlp = 2048 + 2048, 2048 + 1024, 2048 + 2048, 2048 + 6144
    assert 16 * 28 * (q + 2 * kv + o + 2 * mlp) == 13_762_560


def test_the_census_counts_every_number_once_packed_or_not():
    whole, packed = base(), base("nf4")
    by_part = [{} for _ in range(2)]
    for counts, model in zip(by_part, (whole, packed), strict=True):
        for row in census(model):
            counts[row.part] = counts.get(row.part, 0) + row.parameters
    assert by_part[0] == by_part[1]
    assert sum(by_part[0].values()) == sum(parameter.numel() for parameter in whole.parameters())
    assert set(by_part[0]) == {"vision", "projector", "embeddings", "language", "lm_head"}
    assert {(row.part, row.dtype) for row in census(packed) if row.dtype != "float32"} == {("language", "nf4")}


def test_adapters_are_counted_by_the_part_they_sit_in():
    from peft import LoraConfig, inject_adapter_in_model

    careless = inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), base())  # both towers have a q_proj
    assert {row.part for row in census(careless) if row.trainable} == {"vision adapter", "language adapter"}


# ---- gradients


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_gradients_of_a_healthy_run(clip, quantization):
    wrapped = adapted(quantization, moved=False).train()
    adapter = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    names = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    assert gradient_census(wrapped, a_moves=False) == names  # no backward pass yet
    backward(wrapped, clip)
    assert gradient_census(wrapped, a_moves=False) == []
    assert gradient_census(wrapped, a_moves=True) == [name for name in names if "lora_A" in name]  # B is still zero
    torch.optim.AdamW(adapter, lr=1e-3).step()
    backward(wrapped, clip)
    assert gradient_census(wrapped, a_moves=True) == []


def test_a_detached_layer_is_named(clip):
    wrapped = adapted().train()
    planted = "base_model.model.model.language_model.layers.2.mlp.up_proj"
    wrapped.get_submodule(planted).register_forward_hook(lambda _, __, output: output.detach())
    backward(wrapped, clip)
    assert gradient_census(wrapped, a_moves=False) == [f"{planted}.lora_{half}.default.weight" for half in "AB"]


def test_gradients_that_are_not_finite_are_named(clip):
    wrapped = adapted().train()
    backward(wrapped, clip)
    name, parameter = next((name, p) for name, p in wrapped.named_parameters() if "lora_A" in name)
    parameter.grad[0, 0] = float("nan")
    assert gradient_census(wrapped, a_moves=False) == [name]


# ---- keeping


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own, from transformers 5.23
def test_peft_itself_reads_what_we_write(tmp_path, clip):
    from peft import PeftModel

    wrapped = adapted().eval()
    save_adapter(wrapped, tmp_path / "an adapter")
    files = sorted(path.name for path in (tmp_path / "an adapter").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    settings = json.loads((tmp_path / "an adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "tiny"
    assert settings["inference_mode"] is True
    assert wrapped.peft_config["default"].inference_mode is False  # ours goes on training
    theirs = PeftModel.from_pretrained(base(), tmp_path / "an adapter").eval()
    with torch.no_grad():
        assert torch.equal(hidden(theirs, clip), hidden(wrapped, clip))


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_loaded_weights_act_as_the_saved_ones(tmp_path, clip, quantization):
    wrapped = adapted(quantization).eval()
    save_adapter(wrapped, tmp_path)
    other = adapted(quantization, moved=False).eval()
    load_exported(other, tmp_path / "adapter_model.safetensors")
    with torch.no_grad():
        assert torch.equal(hidden(other, clip), hidden(wrapped, clip))
    assert any(parameter.requires_grad for parameter in other.parameters())


def test_weights_that_do_not_fit_are_refused(tmp_path):
    file = tmp_path / "adapter_model.safetensors"
    with pytest.raises(UserError, match="found none that can be read"):
        load_exported(adapted(), file)
    save_adapter(adapted(), tmp_path)
    with pytest.raises(UserError, match="lora_A") as error:
        load_exported(adapted(r=2), file)
    assert "\n" not in str(error.value)


def test_a_checkpoints_state_is_the_adapter_alone_and_comes_back(tmp_path, clip):
    wrapped = adapted("nf4").eval()
    torch.save(adapter_state(wrapped), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    assert sum(tensor.numel() for tensor in state.values()) == sum(
        row.parameters for row in census(wrapped) if row.part == "language adapter"
    )
    other = adapted("nf4", moved=False).eval()
    load_adapter_state(other, state)
    with torch.no_grad():
        assert torch.equal(hidden(other, clip), hidden(wrapped, clip))
    with torch.no_grad():  # the state was a copy: training on does not change it
        next(parameter for parameter in wrapped.parameters() if parameter.requires_grad).add_(1)
    assert any(not torch.equal(state[name], tensor) for name, tensor in adapter_state(wrapped).items())
    with pytest.raises(UserError, match="do not"):
        load_adapter_state(adapted("nf4", r=2), state)
    with pytest.raises(UserError, match="do not"):
        load_adapter_state(other, {})
