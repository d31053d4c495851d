"""What the machine computes with, which `hardware=` works, and how much memory a training step needs."""

import contextlib
import platform
import subprocess

from slr.core.errors import UserError
from slr.core.units import GB, format_bytes, parse_bytes
from slr.doctor.finding import FAULT, KINDS, WARNING, Check, DoctorArgs, Problem
from slr.doctor.libraries import torch_itself
from slr.doctor.models import config_of, estimate

CUDA_BUILD = "uv pip install --reinstall torch --torch-backend=auto"
CARDS = (8, 12, 16, 24, 48, 80)  # GB of common cards


def look_at_gpu(args: DoctorArgs) -> str:
    """The cards, their memory, and whether they have bf16."""
    torch = torch_itself()
    cards = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        with torch.cuda.device(index):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        halves = "bf16" if bf16 else "no bf16, 16-mixed instead"
        cards.append(f"{card.name}, {format_bytes(card.total_memory)}, {halves}")
    if cards:
        return f"{'; '.join(cards)}; driver {_driver() or 'unknown'}"
    if torch.backends.mps.is_available():
        return f"Apple's, {platform.machine()}; it shares the memory of the machine"
    if driver := _driver():
        why, remedy = "this torch is built without CUDA", "a torch that has CUDA"
        if torch.version.cuda:
            why, remedy = "torch does not see it", "a newer driver, or a torch for this one"
        raise Problem(f"driver {driver} is here, but {why}", f"{remedy}: {CUDA_BUILD}", args.lacking("hardware"))
    return "none; runs use the CPU"


def _driver() -> str:
    """The version of NVIDIA's driver, or nothing."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.check_output(words, stderr=subprocess.DEVNULL, text=True, timeout=10).partition("\n")[0]
    return ""


def look_at_hardware(args: DoctorArgs) -> str:
    """Which kinds work, and why the others do not."""
    torch_itself()
    from slr.core import hardware

    reasons = {kind: hardware.absent(kind) for kind in KINDS}
    if reason := reasons.get(args.hardware):
        remedy = f"check the driver with nvidia-smi, then {CUDA_BUILD}; or " if args.hardware == "cuda" else ""
        state = WARNING if args.hardware__memory else FAULT  # who names a card's memory may mean one elsewhere
        raise Problem(f"hardware={args.hardware}: {reason}", f"{remedy}use hardware=cpu", state)
    working = ", ".join(kind for kind, reason in reasons.items() if not reason)
    return "; ".join([f"{working} will work", *(f"{kind}: {reason}" for kind, reason in reasons.items() if reason)])


def look_at_memory(args: DoctorArgs) -> str:
    """What a step of `frames` x `batch` needs, and which micro-batch fits into `hardware.memory` or what is free."""
    torch_itself()
    from slr.core import hardware

    kind = hardware.pick() if args.hardware == "auto" else args.hardware
    if args.hardware__memory:
        budget, whose = parse_bytes(args.hardware__memory), "given"
    elif hardware.absent(kind):
        budget, whose = CARDS[-1] * GB, f"assumed, since {kind} is not here"
    else:
        budget, whose = hardware.memory_free(kind), "free"
    config, name = config_of(args.model)
    step = f"{name}, {args.frames} frames, batch {args.batch}, on {kind}"
    try:
        plan = estimate(config, kind, budget, args.frames, args.batch)
    except UserError as error:
        found, _, remedy = str(error).partition("; ")
        raise Problem(f"{step}: {found}", remedy, args.lacking("frames", "batch", "model", "hardware")) from error
    micro = f"micro-batch {plan.micro_batch}"
    return f"{step}: {format_bytes(plan.peak)} estimated with {micro}, {format_bytes(budget)} {whose}"


def look_at_cards(args: DoctorArgs) -> str:
    """The largest micro-batch that fits into CUDA cards of common sizes, which need not be here."""
    config, name = config_of(args.model)
    fits = []
    for size in CARDS:
        try:
            micro = estimate(config, "cuda", size * GB, args.frames, args.batch).micro_batch
        except UserError:
            micro = "none"
        fits.append(f"{micro} on {size} GB")
    return f"{name}, {args.frames} frames, batch {args.batch}: micro-batch {', '.join(fits)}"


CHECKS = [
    Check("gpu", look_at_gpu, f"check the driver with nvidia-smi, then {CUDA_BUILD}"),
    Check("hardware", look_at_hardware, "use hardware=cpu"),
    Check("memory", look_at_memory, "docs/performance.md says how memory is counted and what saves it"),
    Check("cards", look_at_cards, "docs/performance.md says how memory is counted and what saves it"),
]
