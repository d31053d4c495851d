"""Which checkpoint is meant and whether it is here, without asking the network."""

import os
from pathlib import Path

from slr.doctor.libraries import PROJECT

# OpenGVLab/InternVL3_5-2B-HF's config.json, as far as memory depends on it, for machines that do not have it yet.
INTERNVL3_5_2B = {
    "downsample_ratio": 0.5,
    "tie_word_embeddings": False,
    "text_config": {
        "num_hidden_layers": 28,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
    },
    "vision_config": {
        "num_hidden_layers": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "image_size": [448, 448],
        "patch_size": [14, 14],
    },
}
WEIGHTS_2B = 4_700_000_000  # bytes of its safetensors: 2.35 billion numbers in bf16


def of_option(model: str) -> tuple[str, str | None]:
    """Checkpoint and revision of an option of conf/model; whatever is none is a checkpoint itself."""
    page = PROJECT / "conf" / "model" / f"{model}.yaml"
    if "/" in model or not page.is_file():
        return model, None
    import yaml  # omegaconf brings it

    words = yaml.safe_load(page.read_text(encoding="utf-8"))
    return words["checkpoint"], words.get("revision")


def name_of(model: str) -> str:
    """What to call a model on a line."""
    return f"model={model}"


def found(checkpoint: str, revision: str | None, need_weights: bool) -> Path:
    """The folder of a checkpoint that is on this machine.

    Raises:
        UserError: it is not, or not whole.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # of this child alone; huggingface_hub looks when it is imported
    from slr.models.hub import locate

    return locate(checkpoint, revision, need_weights)
