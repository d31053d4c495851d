"""Which checkpoint is meant, whether it is here, and what its training needs, without asking the network."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slr.core.env import CONF
from slr.core.errors import UserError
from slr.models import memory_plan
from slr.models.memory_plan import Shape, Work

# OpenGVLab/InternVL3_5-2B-HF's config.json, as far as memory depends on it, for machines that do not have it yet.
INTERNVL3_5_2B = json.loads(Path(__file__).with_name("internvl3_5_2b.json").read_text(encoding="utf-8"))
WEIGHTS_2B = 4_700_000_000  # bytes of its safetensors: 2.35 billion numbers in bf16
# Of each kind of hardware: bytes of a number, and whether NF4 runs there.
NUMBERS = {"cuda": (2, True), "mps": (4, False), "directml": (4, False), "cpu": (4, True)}
# Prompt and answer around the frames, and the words around a frame's own tokens, in Qwen's: at most 8 too many.
TOKENS, TOKENS_OF_A_FRAME = 48, 8
RANK, LAYERS_WITH_LORA = 16, ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")  # as conf/train.yaml
NF4_BYTES = 4.127 / 8  # of a number, its scales quantised too (QLoRA, arXiv 2305.14314, section 3)


def of_option(model: str) -> tuple[str, str | None]:
    """Checkpoint and revision of an option of conf/model; any other word is a checkpoint itself."""
    page = CONF / "model" / f"{model}.yaml"
    if "/" in model or not page.is_file():
        return model, None
    import yaml  # omegaconf brings it

    words = yaml.safe_load(page.read_text(encoding="utf-8"))
    return words["checkpoint"], words.get("revision")


def is_hub_name(model: str) -> bool:
    """Whether the model is one of the hub's."""
    checkpoint, _ = of_option(model)
    return checkpoint.count("/") == 1 and not Path(checkpoint).is_dir()


def local_folder(model: str, need_weights: bool) -> Path:
    """The folder of a model's checkpoint on this machine.

    Raises:
        UserError: it is not here, or not complete.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # of this child alone; huggingface_hub looks when it is imported
    from slr.models.hub import locate

    return locate(*of_option(model), need_weights)


def config_of(model: str) -> tuple[Mapping[str, Any], str]:
    """The configuration of the checkpoint if it is here, else the 2B's; and its name."""
    try:
        page = local_folder(model, need_weights=False) / "config.json"
        return json.loads(page.read_text(encoding="utf-8")), f"model={model}"
    except UserError:
        return INTERNVL3_5_2B, "InternVL3.5-2B"


def sizes(config: Mapping[str, Any]) -> tuple[Shape, int]:
    """A checkpoint's shape from its config.json, and how many tokens a frame becomes."""
    shape = memory_plan.shape_of(config)
    return shape, int((shape.patches - 1) * config.get("downsample_ratio", 0.5) ** 2)


def numbers(config: Mapping[str, Any]) -> tuple[int, int]:
    """Weights of the language layers' matrices, which NF4 stores in 4 bits, and of all the rest, norms left out."""
    shape, _ = sizes(config)
    layer = 2 * shape.hidden * (shape.queries + shape.keys) + 3 * shape.hidden * shape.mlp
    copies = 1 if config.get("tie_word_embeddings", True) else 2  # transformers ties where nothing is said
    vision_layer = 4 * shape.vision_hidden**2 + 2 * shape.vision_hidden * shape.vision_mlp
    vision = config["vision_config"]["num_hidden_layers"] * vision_layer + shape.patches * shape.vision_hidden
    projector = int(shape.vision_hidden / config.get("downsample_ratio", 0.5) ** 2) * shape.hidden + shape.hidden**2
    return shape.layers * layer, shape.words * shape.hidden * copies + vision + projector


def estimate(config: Mapping[str, Any], kind: str, budget: int, frames: int, batch: int) -> memory_plan.Plan:
    """The plan of a training step of a checkpoint, of which only `config`, its config.json, is there; bytes to use.

    The adapter and the checkpointing are the page's.

    Raises:
        UserError: not one clip fits.
    """
    number, four_bit = NUMBERS[kind]
    shape, tokens = sizes(config)
    matrices, rest = numbers(config)
    tokens = TOKENS + frames * (tokens + TOKENS_OF_A_FRAME)
    return memory_plan.plan(
        budget=budget,
        baseline=int(matrices * (NF4_BYTES if four_bit else number) + rest * number),
        trainable=memory_plan.adapter_numbers(shape, LAYERS_WITH_LORA, RANK),
        shape=shape,
        work=Work(frames, tokens, number, RANK, checkpointed=True, cached=False),
        batch=batch,
        micro_batch=None,
        disk=0,
    )
