import pytest
import torch

from slr.errors import UserError
from slr.hardware import Machine, decide, memory_free, memory_peak, memory_taken, memory_told, pick, require

WORDS = {
    "precision": "auto",
    "tf32": False,
    "four_bit": True,
    "workers": 64,
    "frames_at_once": 16,
    "memory": None,
    "micro_batch": None,
}


def on_cpu(**changes) -> Machine:
    return decide("cpu", **(WORDS | {"quantization": "auto"} | changes))


def test_the_cpu_computes_in_32_bits_and_says_what_was_chosen():
    machine = on_cpu()
    assert (machine.precision, machine.dtype, machine.quantization) == ("32-true", torch.float32, "nf4")
    assert machine.workers <= 64
    assert "quantisation auto is nf4 because cpu can do it" in machine.describe()
    assert "\n" not in machine.describe()


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
    assert "cannot" in on_cpu(four_bit=False).describe()
    with pytest.raises(UserError, match="cannot do 4-bit"):
        on_cpu(four_bit=False, quantization="nf4")


def test_fp16_on_the_cpu_is_refused_and_bf16_is_not():
    with pytest.raises(UserError, match="no 16-bit training"):
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
    for device in ("gpu", "mps", ""):
        with pytest.raises(UserError, match="expected the device cpu or cuda"):
            require(device)
    if not torch.cuda.is_available():
        assert pick() == "cpu"
        with pytest.raises(UserError, match="found none"):
            require("cuda")


def test_running_out_of_memory_names_what_to_turn():
    with (
        pytest.raises(UserError, match=r"cpu ran out of memory .*try cache=features") as caught,
        memory_told("cpu", "try cache=features"),
    ):
        torch.empty(2**60, dtype=torch.uint8)
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="shape"), memory_told("cpu", ""):
        torch.zeros(2) @ torch.zeros(3, 3)


def test_memory_is_measured():
    before = memory_taken("cpu")
    held = torch.ones(50_000_000)
    assert memory_taken("cpu") - before > 0.9 * held.nbytes
    assert memory_free("cpu") > 0
    peak = memory_peak("cpu")
    assert peak is None or peak >= 0.99 * memory_taken("cpu")  # the kernel counts the two at different times
