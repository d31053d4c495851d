"""What the machine computes with, which `hardware=` will work, and whether a training step fits into its memory."""

import json
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from slr.core import units
from slr.core.errors import UserError
from slr.doctor.finding import FAULT, OK, Asked, Check, Finding
from slr.doctor.libraries import PROJECT, torch_itself
from slr.doctor.models import INTERNVL3_5_2B, found, name_of, of_option
from slr.models import memory_plan
from slr.models.memory_plan import Shape, Work

# Kinds of hardware, best first: bytes of a number, and whether NF4 runs there.
KINDS = {"cuda": (2, True), "mps": (4, False), "directml": (4, False), "cpu": (4, True)}
CUDA_BUILD = "uv pip install --reinstall torch --torch-backend=auto"
# Prompt and answer around the frames, and the words around a frame's own tokens, in Qwen's: at most 8 too many.
TOKENS, TOKENS_OF_A_FRAME = 48, 8
RANK, LAYERS_WITH_LORA = 16, ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")  # as conf/train.yaml
NF4_BYTES = 4.127 / 8  # of a number, its scales quantised too (QLoRA, arXiv 2305.14314, section 3)


def look_at_gpu(asked: Asked) -> Iterator[Finding]:
    """Cards, their memory, and what they can do."""
    torch = torch_itself()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            with torch.cuda.device(index):
                bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            halves = "yes" if bf16 else "no, 16-mixed instead"
            said = f"{card.name}, {units.format_bytes(card.total_memory)}, bf16 {halves}"
            yield Finding("gpu", OK, f"{said}, driver {_driver() or 'unknown'}")
    elif torch.backends.mps.is_available():
        yield Finding("gpu", OK, f"Apple's, {platform.machine()}; it shares the memory of the machine")
    elif driver := _driver():
        why = "torch does not see it" if torch.version.cuda else "this torch is built without CUDA"
        remedy = "a newer driver, or a torch for this one" if torch.version.cuda else "a torch that has CUDA"
        yield Finding(
            "gpu", asked.lacking("hardware"), f"driver {driver} is here, but {why}", f"{remedy}: {CUDA_BUILD}"
        )
    else:
        yield Finding("gpu", OK, "none; runs use the CPU")


def _driver() -> str:
    """The version of NVIDIA's driver, or nothing."""
    program = shutil.which("nvidia-smi")
    if not program:
        return ""
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""


def why_not(kind: str) -> str:
    """What stands against a kind of hardware; nothing where it works."""
    torch_itself()
    from slr.core.hardware import absent  # torch

    if not (PROJECT / "conf" / "hardware" / f"{kind}.yaml").is_file():
        return "slr has no such option"
    return absent(kind) or ""


REMEDIES = {
    "cuda": f"check the driver with nvidia-smi, then {CUDA_BUILD}; or use hardware=cpu",
    "mps": "use hardware=cpu",
    "directml": "do that, or use hardware=cpu",
}


def look_at_hardware(asked: Asked) -> Iterator[Finding]:
    """Which kinds will work and why the others do not."""
    reasons = {kind: why_not(kind) for kind in KINDS}
    working = [kind for kind, reason in reasons.items() if not reason]
    others = "".join(f"; {kind}: {reason}" for kind, reason in reasons.items() if reason)
    if asked.hardware not in ("auto", *KINDS):
        known = ", ".join(("auto", *KINDS))
        yield Finding("hardware", FAULT, f"hardware={asked.hardware} is unknown", f"use one of {known}")
    elif reason := reasons.get(asked.hardware):
        yield Finding("hardware", FAULT, f"hardware={asked.hardware}: {reason}", REMEDIES[asked.hardware])
    else:
        yield Finding("hardware", OK, f"{', '.join(working)} will work{others}")


def sizes(config: Mapping[str, Any]) -> tuple[Shape, int]:
    """A checkpoint's shape from its config.json, and how many tokens a frame becomes."""
    shape = memory_plan.shape_of(config)
    return shape, int((shape.patches - 1) * config.get("downsample_ratio", 0.5) ** 2)


def numbers(config: Mapping[str, Any]) -> tuple[int, int]:
    """Weights of the language layers' matrices, which NF4 stores in 4 bits, and of all the rest, norms left out."""
    shape, _ = sizes(config)
    vision = config["vision_config"]
    a_layer = 2 * shape.hidden * (shape.queries + shape.keys) + 3 * shape.hidden * shape.mlp
    copies = 1 if config.get("tie_word_embeddings", True) else 2  # transformers ties where nothing is said
    words = shape.words * shape.hidden * copies
    a_vision_layer = 4 * shape.vision_hidden**2 + 2 * shape.vision_hidden * shape.vision_mlp
    wide = int(shape.vision_hidden / config.get("downsample_ratio", 0.5) ** 2)
    projector = wide * shape.hidden + shape.hidden**2
    rest = words + vision["num_hidden_layers"] * a_vision_layer + shape.patches * shape.vision_hidden + projector
    return shape.layers * a_layer, rest


def estimate(config: Mapping[str, Any], kind: str, budget: int, frames: int, batch: int) -> memory_plan.Plan:
    """The plan of a training step before a model is loaded, with the page's adapter and checkpointing.

    Args:
        config: of the checkpoint, as its config.json has it.
        kind: of hardware.
        budget: bytes.
        frames, batch: of a step.

    Raises:
        UserError: not one clip fits.
    """
    number, four_bit = KINDS[kind]
    shape, tokens = sizes(config)
    matrices, rest = numbers(config)
    work = Work(frames, TOKENS + frames * (tokens + TOKENS_OF_A_FRAME), number, RANK, checkpointed=True, cached=False)
    return memory_plan.plan(
        budget=budget,
        baseline=int(matrices * (NF4_BYTES if four_bit else number) + rest * number),
        trainable=memory_plan.adapter_numbers(config["text_config"], LAYERS_WITH_LORA, RANK),
        shape=shape,
        work=work,
        batch=batch,
        micro_batch=None,
        disk=0,
    )


def look_at_memory(asked: Asked) -> Iterator[Finding]:
    """Whether a step of `frames` x `batch` fits, by count."""
    torch = torch_itself()
    kind = next((kind for kind in KINDS if asked.hardware in ("auto", kind) and not why_not(kind)), "cpu")
    import psutil

    budget = torch.cuda.mem_get_info()[0] if kind == "cuda" else psutil.virtual_memory().available
    config, name = _config(asked)
    step = f"{name}, {asked.frames} frames, batch {asked.batch}, on {kind}"
    try:
        plan = estimate(config, kind, budget, asked.frames, asked.batch)
    except UserError as error:
        state = asked.lacking("frames", "batch", "model", "hardware")
        said, _, remedy = str(error).partition("; ")
        yield Finding("memory", state, f"{step}: {said}", remedy)
        return
    cut = f"{plan.micro_batch} of {plan.batch} clips at once"
    said = f"{step}: {units.format_bytes(plan.peak)} estimated of {units.format_bytes(plan.budget)} free, {cut}"
    yield Finding("memory", OK, said)


def _config(asked: Asked) -> tuple[Mapping[str, Any], str]:
    """The configuration of the checkpoint where it is here, else the 2B's; and its name."""
    checkpoint, revision = of_option(asked.model)
    try:
        folder = found(checkpoint, revision, need_weights=False)
        return json.loads((folder / "config.json").read_text(encoding="utf-8")), name_of(asked.model)
    except UserError:
        return INTERNVL3_5_2B, "InternVL3.5-2B"


CHECKS = [
    Check("gpu", look_at_gpu, f"check the driver with nvidia-smi, then {CUDA_BUILD}"),
    Check("hardware", look_at_hardware, "use hardware=cpu"),
    Check("memory", look_at_memory, "docs/performance.md says how memory is counted and what saves it"),
]
