"""What the benchmarks share: clock, peak memory, what the machine can do at best, and the table."""

import contextlib
import ctypes
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from slr.core.files import write_whole

MIB = 2**20
M_MMAP_THRESHOLD = -3  # glibc's malloc.h
OWN_PAGES_FROM = 2**17  # bytes
# With one thread on a busy machine, the processor's time is what an idle one would take, but for the shared caches.
_clock: Callable[[], float] = time.process_time if "--cpu-time" in sys.argv else time.perf_counter


def progress(text: str) -> None:
    """Tell who waits; the table alone goes to standard output."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Cost:
    """What one piece of work takes; None where it did not fit into memory, or the system does not tell.

    Attributes:
        seconds: of wall time.
        memory: bytes at the peak: on CUDA all that torch held, weights included; on the CPU what the process grew by.
    """

    seconds: float | None
    memory: float | None


@dataclass
class Peak:
    """The most memory that was held inside `watched`, in bytes; None where the system does not tell."""

    bytes: float | None = None


@contextlib.contextmanager
def watched(device: torch.device) -> Iterator[Peak]:
    """Watch the peak of memory: torch's own count on CUDA, else the resident size's, above what it was at the start.

    Linux keeps that high-water mark itself and lets a process put it back, so no moment between two samples is missed.
    Meanwhile every large tensor has pages of its own, given back when it goes: what the C library would rather keep for
    the next one is nothing that the work needs, and can be several times as much. It costs time, so time other calls.
    """
    peak = Peak()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated()
    elif sys.platform == "linux":
        library = ctypes.CDLL(None)
        library.malloc_trim(0)  # what an earlier contestant freed must not be there for this one to reuse
        library.mallopt(M_MMAP_THRESHOLD, OWN_PAGES_FROM)
        Path("/proc/self/clear_refs").write_text("5")  # 5: the high-water mark is put back to what is resident now
        before = _resident("VmRSS")
        yield peak
        peak.bytes = max(0, _resident("VmHWM") - before)
        library.mallopt(M_MMAP_THRESHOLD, 2**25)  # where it ends up by itself
    else:
        yield peak


def _resident(mark: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{mark}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"expected {mark} in /proc/self/status, found none")


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return _clock()


def cost(work: Callable[[], object], device: torch.device, calls: int) -> Cost:
    """Seconds of one of `calls` calls, and the peak of another, in which memory that was given back is fetched anew."""
    with watched(device) as peak:
        work()
    started = now(device)
    for _ in range(calls):
        work()
    return Cost((now(device) - started) / calls, peak.bytes)


def in_turns(contestants: Mapping[str, Callable[[], Cost]], rounds: int) -> dict[str, Cost]:
    """The medians of each contestant over `rounds` rounds, after one round that does not count.

    In every round each has its turn, so that a load that comes and goes hits all alike.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            if number and costs[name] and costs[name][-1].seconds is None:
                continue  # did not fit; trying again costs time and tells nothing
            one = _if_it_fits(run)
            if number or one.seconds is None:
                costs[name].append(one)
            progress(f"  {name}: {_shown(one.seconds)} s{'' if number else ' (warming up)'}")
    return {
        name: Cost(_median(c.seconds for c in all_), _median(c.memory for c in all_)) for name, all_ in costs.items()
    }


def _if_it_fits(run: Callable[[], Cost]) -> Cost:
    try:
        return run()
    except torch.cuda.OutOfMemoryError:
        pass  # the error's traceback holds the tensors: what it held is let go outside
    gc.collect()
    torch.cuda.empty_cache()
    return Cost(None, None)


def _median(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second in products of large square matrices, the best that was seen."""
    best = 0.0
    for size in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        best = max(best, 2 * size**3 / _fastest(lambda one=one, other=other: one @ other, device))
    return best


def bandwidth(device: torch.device) -> float:
    """Bytes read and written a second in copying a large tensor, the best that was seen."""
    source = torch.ones(2**26 if device.type == "cpu" else 2**28, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), device)


def _fastest(work: Callable[[], object], device: torch.device, times: int = 10) -> float:
    seconds = []
    for _ in range(times + 1):  # the first call also finds its kernel
        started = now(device)
        work()
        seconds.append(now(device) - started)
    return min(seconds[1:])


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attention in `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def machine(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What measured, and what it can do at best: the ground that floors stand on."""
    cores = os.cpu_count() or 1
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "clock": "wall" if _clock is time.perf_counter else "processor",
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "dtype": str(dtype).removeprefix("torch."),
        "matrix_gflops": round(matrix_rate(device, dtype) / 1e9, 1),
        "bandwidth_gbs": round(bandwidth(device) / 1e9, 1),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes", "accelerate")},
        "python": platform.python_version(),
    }


def _processor() -> str:
    page = Path("/proc/cpuinfo")
    lines = page.read_text().splitlines() if page.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def growth(sizes: Sequence[int], values: Sequence[float | None]) -> float | None:
    """The exponent e of value ~ size^e over the larger half of the sizes, where constant costs no longer hide it.

    Least squares in logarithms; None with fewer than three values.

    >>> round(growth([1, 2, 4, 8, 16], [9, 9, 4 * 4**2, 4 * 8**2, 4 * 16**2]), 6)
    2.0
    """
    known = [(size, value) for size, value in zip(sizes, values, strict=True) if value]
    known = known[-max(3, (len(known) + 1) // 2) :]
    if len(known) < 3:
        return None
    return float(np.polyfit(*np.log(np.array(known, dtype=float)).T, deg=1)[0])


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        case: what was measured.
        ours, plain: the two contestants' figures; None where there is none.
        floor: what the measured machine would need at the least, in the same unit.
        unit: of the three.
        better: more, as for clips a second; less, as for seconds; or neither, and then there is no ratio.
    """

    case: str
    ours: float | None
    plain: float | None
    floor: float | None
    unit: str
    better: str = field(default="less", kw_only=True)

    @property
    def ratio(self) -> float | None:
        """How many times better ours is than plain, whichever way the unit points.

        >>> Row("step", 4.0, 2.0, None, "clips/s", better="more").ratio, Row("step", 4.0, 2.0, None, "s").ratio
        (2.0, 0.5)
        """
        if not self.ours or not self.plain or self.better == "neither":
            return None
        return self.ours / self.plain if self.better == "more" else self.plain / self.ours

    def plainly(self) -> dict[str, str | float | None]:
        """The row as JSON has it."""
        figures = {"ours": self.ours, "plain": self.plain, "floor": self.floor}
        return {"case": self.case, **figures, "unit": self.unit, "ratio": self.ratio}


def show(rows: Sequence[Row], target: Path | None, about: Mapping[str, Any]) -> None:
    """Print the machine and the table, and write both to `target` where one was named."""
    if target is not None:
        content = {"rows": [row.plainly() for row in rows], "machine": dict(about)}
        write_whole(target, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(", ".join(f"{key} {value}" for key, value in about.items() if key != "versions"))
    print(", ".join(f"{name} {number}" for name, number in about["versions"].items()))
    width = max(len(row.case) for row in rows)
    unit = max(4, *(len(row.unit) for row in rows))
    print(f"\n{'case':<{width}} {'ours':>10} {'plain':>10} {'floor':>10}  {'unit':<{unit}} {'ratio':>7}")
    for row in rows:
        figures = " ".join(f"{_shown(value):>10}" for value in (row.ours, row.plain, row.floor))
        ratio = "–" if row.ratio is None else f"{row.ratio:.2f}"
        print(f"{row.case:<{width}} {figures}  {row.unit:<{unit}} {ratio:>7}")


def _shown(value: float | None) -> str:
    """Three or four figures that tell something.

    >>> [_shown(value) for value in (None, 0, 0.01234, 3.14159, 271.828, 12345.6)]
    ['–', '0', '0.0123', '3.14', '272', '12,346']
    """
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
