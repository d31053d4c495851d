"""What this machine can do, decided once and said in one line."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from slr import processes
from slr.errors import UserError
from slr.memory import parse


@dataclass(frozen=True)
class Machine:
    """Where a run computes, and how."""

    device: str  # cpu or cuda
    precision: str  # Lightning's word
    dtype: torch.dtype  # of the frozen weights that are not quantised
    quantization: str  # nf4 or none
    tf32: bool
    workers: int
    frames_at_once: int
    memory: int | None  # bytes that a run may use, where that was said
    micro_batch: int | None  # clips of a training step computed at once, where that was said
    reasons: tuple[str, ...]  # why, where something was chosen here

    def describe(self) -> str:
        """One line: device, numbers, quantisation, workers, and the reasons."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else f"{torch.get_num_threads()} threads"
        words = [f"{self.device} ({name})", self.precision, f"quantisation {self.quantization}"]
        words += [f"{self.workers} workers", f"ranking {self.frames_at_once} frames at once"]
        return "hardware: " + ", ".join(words) + "".join(f"; {reason}" for reason in self.reasons)

    def autocast(self) -> torch.autocast:
        """The precision of the run's arithmetic, as Lightning has it in training."""
        return torch.autocast(self.device, self.dtype, enabled=self.precision != "32-true")

    def ranking_batch(self, batch: int, frames: int) -> int:
        """Clips ranked at once, at least one, at most the batch; a setting, so that every ranking has equal digits."""
        return max(1, min(batch, self.frames_at_once // frames))


def pick() -> str:
    """The best kind of device that is present: cuda, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def require(device: str) -> None:
    """Refuse a device that is not here.

    Raises:
        UserError: an unknown device, or cuda where torch sees none.
    """
    if device not in ("cpu", "cuda"):
        raise UserError(f"expected the device cpu or cuda, found {device}")
    if device == "cuda" and not torch.cuda.is_available():
        why = "this torch has no CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        raise UserError(
            f"expected a CUDA device, found none: {why}; check the driver with nvidia-smi, or use the CPU "
            "(train.py hardware=cpu, evaluate.py device=cpu, slr.load(…, device='cpu'))"
        )


def decide(
    device: str,
    precision: str,
    tf32: bool,
    four_bit: bool,
    workers: int,
    frames_at_once: int,
    memory: str | None,
    micro_batch: int | None,
    quantization: str,
) -> Machine:
    """Settle what the configuration leaves open.

    Of several processes on a machine, each takes its part of the processors, or a card of its own.

    Args:
        device: cpu or cuda; must be present.
        precision: Lightning's word, or `auto`: 32-true on the CPU, bf16-mixed on a card that has bf16, else 16-mixed.
        tf32: matrix products in TensorFloat-32.
        four_bit: whether NF4 runs on this kind of hardware.
        workers: processes that decode, at most; no more than processors.
        frames_at_once: frames of clips that are ranked together.
        memory: what a run may use, such as 8GB; None is what is free when it starts.
        micro_batch: clips of a training step computed together; None is as many as fit.
        quantization: `auto` is nf4 where `four_bit`, else none.

    Raises:
        UserError: the device is absent, or nf4 is asked for where it cannot be had.
    """
    require(device)
    place = processes.place()
    if device == "cuda":
        _take_card(place.beside, place.index)
    reasons = []
    if precision == "auto" and device == "cpu":
        precision = "32-true"
    elif precision == "auto":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16-mixed" if has_bf16 else "16-mixed"
        reasons.append(f"{precision} because the card has {'bf16' if has_bf16 else 'no bf16'}")
    if precision == "16-mixed" and device == "cpu":
        raise UserError(
            "hardware.precision=16-mixed: the CPU has no 16-bit training but bf16; use 32-true or bf16-mixed"
        )
    if quantization == "nf4" and not four_bit:
        raise UserError(f"model.quantization=nf4: {device} cannot do 4-bit; use model.quantization=auto or none")
    if quantization == "auto":
        quantization = "nf4" if four_bit else "none"
        reasons.append(f"quantisation auto is {quantization} because {device} {'can' if four_bit else 'cannot'} do it")
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "32-true": torch.float32}[precision]
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    cores = max(1, (os.cpu_count() or 1) // place.beside)
    workers = min(workers, cores)
    if device == "cpu":  # threads that share a core with a worker wait for one another spinning: several times slower
        torch.set_num_threads(max(1, min(torch.get_num_threads(), cores - workers)))
    given = None if memory is None else parse(memory)
    return Machine(
        device, precision, dtype, quantization, tf32, workers, frames_at_once, given, micro_batch, tuple(reasons)
    )


def _take_card(beside: int, index: int) -> None:
    """Let "cuda" mean this process's own card. Slurm may show each process its own alone."""
    cards = torch.cuda.device_count()
    bound = cards == 1 and "SLURM_STEP_ID" in os.environ
    if beside > cards and not bound:
        raise UserError(
            f"expected a CUDA device for each of {beside} processes on this machine, found {cards}; "
            f"use trainer.devices={cards}"
        )
    torch.cuda.set_device(0 if bound else index)


def memory_taken(device: str) -> int:
    """Bytes that this process holds now: of the card's memory, or on the CPU resident."""
    return torch.cuda.memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss


def memory_free(device: str) -> int:
    """Bytes that could still be had."""
    return torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available


def memory_peak(device: str) -> int | None:
    """The most bytes that this process has held at once, as far as the system tells."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform != "linux":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def memory_told(device: str, knobs: str) -> Iterator[None]:
    """Say what to turn where the block runs out of memory.

    Raises:
        UserError: in place of torch's own error.
    """
    try:
        yield
    except RuntimeError as error:
        # The CPU's allocator has no exception of its own.
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator: can't allocate" not in str(error):
            raise
        raise UserError(
            f"{device} ran out of memory ({str(error).strip().splitlines()[0][:200]}); set hardware.micro_batch=1, or "
            f"hardware.memory to less than there is; or {knobs}"
        ) from error
