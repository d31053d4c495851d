"""What this machine can do, decided once and printed in one line."""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import psutil
import torch

from slr.core import directml, distributed
from slr.core.errors import UserError
from slr.core.units import counted

KINDS = ("cuda", "mps", "directml", "cpu")  # best first
BITS_16 = {"bf16": torch.bfloat16, "16": torch.float16}
MIXED = {"cuda": ("bf16-mixed", "16-mixed"), "cpu": ("bf16-mixed",)}
WHY_32 = {
    "cpu": "most processors emulate 16 bits",
    "directml": "DirectML has no autocast",
    "mps": "16 bits are untried",
}


@dataclass(frozen=True)
class Machine:
    """Where a run computes, and how."""

    kind: str  # one of KINDS
    device: str  # torch's name of the device
    precision: str  # 32-true; bf16-mixed, 16-mixed: autocast; bf16-true, 16-true: all but what learns is in 16 bits
    dtype: torch.dtype  # of the frozen weights that are not quantised
    quantization: str  # nf4 or none
    tf32: bool
    workers: int
    frames_at_once: int  # of clips that are ranked together
    reasons: tuple[str, ...]  # of what was chosen automatically

    def describe(self, chosen: str = "") -> str:
        """One line: device, numbers, quantisation, workers, and the reasons; `chosen` is that of the kind."""
        names = {"cuda": torch.cuda.get_device_name, "directml": directml.name, "mps": lambda: "Apple's GPU"}
        name = names[self.kind]() if self.kind in names else counted(torch.get_num_threads(), "thread")
        words = [f"{self.kind} ({name})", self.precision, f"quantisation {self.quantization}"]
        words += [f"TF32 {'on' if self.tf32 else 'off'}", counted(self.workers, "worker")]
        words += [f"ranking {counted(self.frames_at_once, 'frame')} at once"]
        return "; ".join(filter(None, [f"hardware: {', '.join(words)}", chosen, *self.reasons]))

    @property
    def mixed(self) -> bool:
        """Whether arithmetic is in fewer bits than the weights, by autocast."""
        return self.precision.endswith("-mixed")

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the run's arithmetic, the same as Lightning's in training."""
        return torch.autocast(self.device, self.dtype) if self.mixed else nullcontext()

    def ranking_batch(self, batch: int, frames: int) -> int:
        """Clips ranked at once, at least one, at most the batch; not by free memory, so that all digits are equal."""
        return max(1, min(batch, self.frames_at_once // frames))


def absent(kind: str) -> str | None:
    """Why a kind of device is not here, and what to do, in one line; None if it is here."""
    if kind == "cuda" and not torch.cuda.is_available():
        why = "this torch has no CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        return f"{why} (check the driver with nvidia-smi)"
    if kind == "mps" and not torch.backends.mps.is_available():
        return "torch sees no Apple GPU (it needs macOS 14 on Apple silicon)"
    return directml.absent() if kind == "directml" else None


def pick() -> str:
    """The best kind of device that is present."""
    return next(kind for kind in KINDS if absent(kind) is None)


def why(kind: str) -> str:
    """Why `hardware=auto` is this kind.

    >>> why("mps")
    'auto chose mps: found no cuda (slr doctor tells why)'
    """
    better = ", ".join(KINDS[: KINDS.index(kind)])
    return f"auto chose {kind}" + (f": found no {better} (slr doctor tells why)" if better else "")


def require(device: str) -> None:
    """Refuse a kind of device that is not here.

    Raises:
        UserError: an unknown kind, or one that this machine, or its packages, cannot offer.
    """
    if device not in KINDS:
        raise UserError(f"expected the device {', '.join(sorted(KINDS))}, found {device}")
    if lacking := absent(device):
        raise UserError(
            f"hardware={device}: expected such a device, found none: {lacking}; or use the CPU "
            "(train.py hardware=cpu, evaluate.py device=cpu, slr.load(…, device='cpu'))"
        )


def decide(
    device: str,
    precision: str,
    tf32: bool,
    four_bit: bool,
    workers: int,
    frames_at_once: int,
    quantization: str,
) -> Machine:
    """Settle what the configuration leaves open.

    Of several processes on a machine, each takes its part of the processors, or a card of its own.

    Args:
        device: one of `KINDS`, which is here; see `require`.
        precision: as of `Machine`, or `auto`: on CUDA bf16-mixed where the card has bf16, else 16-mixed; else 32-true.
        tf32, frames_at_once: as of `Machine`.
        four_bit: whether NF4 runs on this kind of hardware.
        workers: processes that decode, at most; no more than processors.
        quantization: `auto` is nf4 where `four_bit`, else none.

    Raises:
        UserError: the device cannot do what is asked.
    """
    place = distributed.place()
    if device == "cuda":
        _take_card(place.beside, place.index)
    elif device != "cpu" and place.world > 1:
        raise UserError(f"trainer=ddp: hardware={device} works with one process; use trainer=single, cuda or cpu")
    reasons = []
    if precision == "auto":
        precision, reason = _precision(device)
        reasons.append(f"{precision} because {reason}")
    elif precision.endswith("-mixed") and precision not in MIXED.get(device, ()):
        others = ", ".join(["32-true", "bf16-true", "16-true", *MIXED.get(device, ())])
        raise UserError(f"hardware.precision={precision}: {device} has no such autocast to train with; use {others}")
    if quantization == "nf4" and not four_bit:
        raise UserError(f"model.quantization=nf4: {device} cannot do 4-bit; use model.quantization=auto or none")
    if quantization == "auto":
        quantization = "nf4" if four_bit else "none"
        # bitsandbytes runs on those in MIXED; a run that began elsewhere stays as it began.
        lacking = "hardware.four_bit is false" if device in MIXED else f"{device} cannot do it"
        reasons.append(f"quantisation auto is {quantization} because {f'{device} can do it' if four_bit else lacking}")
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    return Machine(
        kind=device,
        device=str(directml.device()) if device == "directml" else device,
        precision=precision,
        dtype=BITS_16.get(precision.partition("-")[0], torch.float32),
        quantization=quantization,
        tf32=tf32,
        workers=_share_cores(device, workers, place.beside),
        frames_at_once=frames_at_once,
        reasons=tuple(reasons),
    )


def _share_cores(device: str, workers: int, beside: int) -> int:
    """The number of workers that get a core of their own; torch's threads take the rest."""
    cores = max(1, (os.cpu_count() or 1) // beside)
    workers = min(workers, cores)
    if device == "cpu":  # threads that share a core with a worker are several times slower
        torch.set_num_threads(max(1, min(torch.get_num_threads(), cores - workers)))
    return workers


def _precision(device: str) -> tuple[str, str]:
    """What `auto` is on a kind of device, and why."""
    if device != "cuda":
        return "32-true", WHY_32[device]
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return ("bf16-mixed", "the card has bf16") if has_bf16 else ("16-mixed", "the card has no bf16")


def _take_card(beside: int, index: int) -> None:
    """Set this process's card as the current one. Slurm may show each process only its own."""
    cards = torch.cuda.device_count()
    bound = cards == 1 and "SLURM_STEP_ID" in os.environ
    if beside > cards and not bound:
        raise UserError(
            f"expected a CUDA device for each of {beside} processes on this machine, found {cards}; "
            f"use trainer.devices={cards}"
        )
    torch.cuda.set_device(0 if bound else index)


def memory_taken(device: str) -> int:
    """Bytes that this process holds now: of the card's memory, or resident ones on the CPU and with DirectML."""
    if device == "mps":
        return torch.mps.driver_allocated_memory()
    return torch.cuda.memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss


def memory_free(device: str) -> int:
    """Bytes that are still free: of the card's memory, or of the machine's on the CPU and with DirectML."""
    if device == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available


def memory_peak(device: str) -> int | None:
    """The most bytes that this process has held at once; None if the system does not measure it."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if device != "cpu" or sys.platform != "linux":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def memory_advice(device: str, knobs: str) -> Iterator[None]:
    """Name the settings to change if the block runs out of memory.

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
