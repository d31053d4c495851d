"""What a tiny step finds on a device that lacks something; here the device is the CPU with a fault planted."""

import warnings

import pytest
import torch
from torch.nn import functional

from slr.core.errors import UserError
from slr.models import internvl, lora
from slr.models.processor import load_inputs
from slr.training.module import SignModule
from slr.training.preflight import COARSE, refuse_other_dropout, run_preflight, steps

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


def builder(fault=None, scope="language", objective="token", dtype=torch.float32):
    """Makes recognizers, the first of which, the device's own, has the fault."""
    made = []

    def build(device):
        network = lora.add_lora(
            internvl.load_vlm("tiny", None, "pretrained", "none", dtype, device, 0), scope, 4, 8, 0.0, TARGETS
        )
        words = load_inputs("tiny", None)
        one = SignModule(network, words, ["a", "book"], 1e-3, 0.01, 2, 1.0, objective, 0.1, 1, 0)
        if fault and not made:
            fault(internvl.bare(network).model.language_model.layers[1].mlp)
        made.append(one)
        return one

    return build


@pytest.mark.parametrize(("scope", "objective"), [("language", "closed_set"), ("full", "token"), ("none", "token")])
def test_a_device_that_computes_as_the_cpu_passes(scope, objective):
    assert run_preflight(builder(scope=scope, objective=objective), "mps", "cpu", exact=True) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_frozen_weights_in_16_bits_teach_nearly_the_same(dtype):
    # First weights decide: over seeds 0 to 9, bfloat16 gradients are 2.6 to 8.7 % off, three of ten above COARSE.
    torch.manual_seed(2)
    whole, half = builder()("cpu"), builder(dtype=dtype)("cpu")
    assert {one.dtype for one in half.network.parameters() if one.requires_grad} == {torch.float32}
    assert {one.dtype for one in half.network.parameters() if not one.requires_grad} == {dtype}
    start = lora.adapter_state(whole.network)
    expected, found = steps(whole, start), steps(half, start)
    for what, reference in expected.items():
        assert not torch.equal(found[what], reference)
        assert (found[what] - reference).abs().max() <= COARSE * reference.abs().max(), what


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            NotImplementedError("The operator 'aten::silu.out' is not currently implemented for the MPS device.\nAsk"),
            r"hardware=mps: aten::silu\.out is missing there",
        ),
        (RuntimeError("The parameter is incorrect.\nIn line 7"), r"hardware=mps: a tiny step fails \(The parameter is"),
    ],
)
def test_what_a_step_fails_at_is_one_line(error, says):
    def fail(*_):
        raise error

    with pytest.raises(UserError, match=says) as caught:
        run_preflight(builder(lambda mlp: mlp.register_forward_hook(fail)), "mps", "cpu", exact=True)
    assert "\n" not in str(caught.value)


def test_operators_that_are_left_to_the_cpu_are_told():
    def warn(*_):
        warnings.warn("The operator 'aten::lerp.out' is not currently supported on the DML backend", stacklevel=2)

    left = run_preflight(builder(lambda mlp: mlp.register_forward_hook(warn)), "directml", "cpu", exact=True)
    assert left == ["aten::lerp.out"]


@pytest.mark.parametrize("factor", [1.05, float("nan")])
def test_other_numbers_than_the_cpus_are_refused(factor):
    def bend(mlp):
        mlp.register_forward_hook(lambda *given: given[-1] * factor)

    with pytest.raises(UserError, match=r"hardware=mps: expected the CPU's numbers .* apart"):
        run_preflight(builder(bend), "mps", "cpu", exact=True)


def test_dropout_must_be_the_same_when_it_is_computed_again(monkeypatch):
    refuse_other_dropout("cpu", "cpu")
    own = torch.Generator().manual_seed(0)  # of which checkpointing knows nothing

    def other(x, p):
        return x * torch.bernoulli(torch.full_like(x, 1 - p), generator=own) / (1 - p)

    monkeypatch.setattr(functional, "dropout", other)
    with pytest.raises(UserError, match=r"hardware=mps: gradient_checkpointing=true would draw another dropout"):
        refuse_other_dropout("mps", "cpu")
