import dataclasses
import importlib
import re
import sys

import pytest
import torch

from slr.core import directml, distributed, hardware
from slr.core.errors import UserError
from slr.core.hardware import (
    KINDS,
    Machine,
    decide,
    memory_advice,
    memory_free,
    memory_peak,
    memory_taken,
    pick,
    require,
    why,
)
from slr.training import directml as accelerator
from slr.training import loop

WORDS = {
    "precision": "auto",
    "tf32": False,
    "four_bit": True,
    "workers": 64,
    "frames_at_once": 16,
}


def on_cpu(**changes) -> Machine:
    return decide("cpu", **(WORDS | {"quantization": "auto"} | changes))


def test_the_cpu_computes_in_32_bits_and_says_what_was_chosen():
    machine = on_cpu()
    assert (machine.precision, machine.dtype, machine.quantization) == ("32-true", torch.float32, "nf4")
    assert machine.workers <= 64
    assert "quantisation auto is nf4 because cpu can do it" in machine.describe()
    assert "32-true because most processors emulate 16 bits" in machine.describe()
    assert "TF32 off" in machine.describe()
    assert "\n" not in machine.describe(why("cpu"))


def test_threads_leave_a_core_to_each_worker(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    torch.set_num_threads(8)
    on_cpu(workers=3)
    assert torch.get_num_threads() == 5
    on_cpu(workers=8)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_four_bits_where_there_are_none():
    assert on_cpu(four_bit=False).quantization == "none"
    assert "quantisation auto is none because hardware.four_bit is false" in on_cpu(four_bit=False).describe()
    with pytest.raises(UserError, match="cannot do 4-bit"):
        on_cpu(four_bit=False, quantization="nf4")


def test_fp16_on_the_cpu_is_refused_and_bf16_is_not():
    with pytest.raises(UserError, match=r"cpu has no such autocast.*use 32-true, bf16-true, 16-true, bf16-mixed"):
        on_cpu(precision="16-mixed")
    assert on_cpu(precision="bf16-mixed").dtype == torch.bfloat16


def test_tf32_is_set_both_ways():
    before = torch.get_float32_matmul_precision()
    for tf32, word in ((True, "high"), (False, "highest")):
        on_cpu(tf32=tf32)
        assert torch.get_float32_matmul_precision() == word
        assert torch.backends.cudnn.allow_tf32 is tf32
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("batch", "frames", "expected"), [(16, 8, 2), (16, 1, 16), (16, 4, 4), (16, 32, 1), (1, 1, 1), (3, 2, 3)]
)
def test_clips_ranked_together(batch, frames, expected):
    assert on_cpu().ranking_batch(batch, frames) == expected


def test_devices_that_are_not_here_are_refused():
    require("cpu")
    for device in ("gpu", ""):
        with pytest.raises(UserError, match="expected the device cpu, cuda, directml, mps"):
            require(device)
    for kind in KINDS[:-1]:
        if hardware.absent(kind):
            with pytest.raises(UserError, match=rf"hardware={kind}: expected such a device, found none: ") as caught:
                require(kind)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("present", [("cpu",), ("cpu", "directml"), ("cpu", "directml", "mps"), KINDS])
def test_auto_is_the_best_that_is_here_and_names_the_better_ones(present, monkeypatch):
    monkeypatch.setattr(hardware, "absent", lambda kind: None if kind in present else f"no {kind} here")
    best = present[-1] if present != KINDS else "cuda"
    assert pick() == best
    assert all(kind in why(best) for kind in KINDS[: KINDS.index(best)])
    assert why(best).startswith(f"auto chose {best}")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (None, r"not installed \(on Windows or WSL: uv sync .*--extra directml"),
        ('raise OSError("libd3d12.so: cannot open shared object file")', r"cannot start \(libd3d12\.so: .*WSL"),
        ("def device_count(): raise RuntimeError('Unknown error -2008740368')", r"cannot start \(Unknown error"),
        ("def device_count(): return 0", "update the graphics driver"),
        ("def device_count(): return 1", None),
    ],
)
def test_why_there_is_no_directml(source, says, tmp_path, monkeypatch):
    name = "torch_directml" if source else "torch_directml_of_nobody"
    monkeypatch.setattr(directml, "MODULE", name)
    if source:
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)
    reason = directml.absent()
    monkeypatch.delitem(sys.modules, name, raising=False)
    if says is None:
        assert reason is None
    else:
        [line] = (reason or "").splitlines()
        assert re.search(says, line)


@pytest.fixture
def anything(monkeypatch):
    """Every kind of device is here, or so it seems."""
    monkeypatch.setattr(hardware, "absent", lambda kind: None)
    monkeypatch.setattr(directml, "absent", lambda: None)
    monkeypatch.setattr(directml, "device", lambda: torch.device("privateuseone", 0))
    monkeypatch.setattr(directml, "name", lambda: "a card")


def decided(kind, **changes) -> Machine:
    return decide(kind, **(WORDS | {"four_bit": False, "quantization": "auto"} | changes))


@pytest.mark.usefixtures("anything")
@pytest.mark.parametrize(("kind", "device"), [("directml", "privateuseone:0"), ("mps", "mps")])
def test_other_cards_compute_in_32_or_true_16_bits(kind, device):
    machine = decided(kind)
    assert (machine.kind, machine.device, machine.precision) == (kind, device, "32-true")
    assert (machine.dtype, machine.quantization) == (torch.float32, "none")
    assert f"quantisation auto is none because {kind} cannot do it" in machine.describe()
    for precision, dtype in (("16-true", torch.float16), ("bf16-true", torch.bfloat16)):
        assert decided(kind, precision=precision).dtype == dtype
        assert not decided(kind, precision=precision).mixed
    for precision in ("16-mixed", "bf16-mixed"):
        with pytest.raises(UserError, match=f"{precision}: {kind} has no such autocast"):
            decided(kind, precision=precision)
    with pytest.raises(UserError, match=f"nf4: {kind} cannot do 4-bit"):
        decided(kind, quantization="nf4")


@pytest.mark.usefixtures("anything")
@pytest.mark.parametrize("kind", ["directml", "mps"])
def test_other_cards_work_with_one_process(kind, monkeypatch):
    monkeypatch.setattr(distributed, "place", lambda: distributed.Rank(0, 2, 2, 0))
    with pytest.raises(UserError, match=f"trainer=ddp: hardware={kind} works with one process"):
        decided(kind)


@pytest.mark.usefixtures("anything")
def test_training_elsewhere_than_asked_is_refused(monkeypatch):
    """As Lightning would train on the CPU, without a word, for an accelerator that it does not know."""
    monkeypatch.setattr(directml, "device", lambda: torch.device("cpu"))
    patience = loop.early_stopping("val/loss", 1)
    machine = dataclasses.replace(decided("directml"), device="privateuseone:0")
    with pytest.raises(UserError, match="hardware=directml: Lightning would train on cpu instead"):
        loop.build_trainer(machine, 1, None, loop.Callback(), patience)


@pytest.mark.usefixtures("anything")
def test_the_trainer_gets_directmls_own_device():
    strategy = accelerator.strategy()
    assert str(strategy.root_device) == "privateuseone:0"
    assert strategy.accelerator.name() == "directml"
    with pytest.raises(ValueError, match="expected DirectML's device"):
        strategy.accelerator.setup_device(torch.device("cpu"))


def test_running_out_of_memory_names_what_to_turn():
    with (
        pytest.raises(UserError, match=r"cpu ran out of memory .*try cache=features") as caught,
        memory_advice("cpu", "try cache=features"),
    ):
        torch.empty(2**60, dtype=torch.uint8)
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="shape"), memory_advice("cpu", ""):
        torch.zeros(2) @ torch.zeros(3, 3)


def test_memory_is_measured():
    before = memory_taken("cpu")
    held = torch.ones(50_000_000)
    assert memory_taken("cpu") - before > 0.9 * held.nbytes
    assert memory_free("cpu") > 0
    peak = memory_peak("cpu")
    assert peak is None or peak >= 0.99 * memory_taken("cpu")  # the kernel counts the two at different times
