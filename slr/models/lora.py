"""LoRA on a chosen part of InternVL: add it, count parameters, check its gradients, save and load it."""

import copy
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from slr.core.errors import UserError
from slr.core.files import replacing
from slr.models.internvl import Model, bare

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import InternVLForConditionalGeneration

# By full name: `q_proj` alone would match the vision tower too.
LANGUAGE_LAYERS = r"model\.language_model\.layers\.\d+\."
PARTS = {
    "vision_tower": "vision",
    "multi_modal_projector": "projector",
    "embed_tokens": "embeddings",
    "language_model": "language",
    "lm_head": "lm_head",
}
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def add_lora(model: Model, scope: str, r: int, alpha: int, dropout: float, targets: Sequence[str]) -> Model:
    """Add low-rank adapters (Hu et al. 2021, arXiv 2106.09685) to the matrices of a scope; nothing else trains.

    Changes `model` in place and returns it wrapped by PEFT, or as it is for the scopes `none`, where nothing trains,
    and `full`, where the language layers' own weights do. What trains is float32 whatever the model's dtype. A is drawn
    from torch's global generator, B starts at zero, so that outputs do not change.

    Args:
        scope: `language` is every layer of the language model; `full` those layers themselves, with their norms; the
            vision tower, the projector and the embeddings are never touched.
        r: rank.
        alpha: the product of A and B is scaled by alpha / r.
        dropout: of the adapter's input, in training.
        targets: last names of matrices within a layer, such as `q_proj`.

    Raises:
        UserError: a target, or the whole scope, matches no matrix.
    """
    if scope == "none":
        return model
    if scope == "full":
        layers: Any = bare(model).model.language_model.layers
        layers.float().requires_grad_(True)
        return model
    from peft import LoraConfig, get_peft_model

    _refuse_unmatched(model, targets)
    pattern = LANGUAGE_LAYERS + rf"(?:\w+\.)*(?:{'|'.join(map(re.escape, targets))})"
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern, bias="none")
    with warnings.catch_warnings():  # peft 0.21 asks transformers 5.23 under a name that it has deprecated
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        return get_peft_model(bare(model), config)


def _refuse_unmatched(model: Model, targets: Sequence[str]) -> None:
    linear = [name for name, module in bare(model).named_modules() if isinstance(module, torch.nn.Linear)]
    allowed = sorted({name.rpartition(".")[2] for name in linear if re.match(LANGUAGE_LAYERS, name)})
    unmatched = [target for target in targets if target not in allowed]
    if unmatched or not targets:
        raise UserError(
            f"expected lora.targets among {', '.join(allowed) or 'none: this model has no such layers'}, found "
            f"{', '.join(unmatched) or 'an empty list'}; correct lora.targets, or use lora=none"
        )


class CensusRow(NamedTuple):
    """How many parameters of one kind a model has."""

    part: (
        str  # vision, projector, embeddings, language (layers and norms), lm_head; adapters as `language adapter` etc.
    )
    dtype: str  # torch's name, or `nf4` for 4-bit numbers
    trainable: bool
    parameters: int  # two 4-bit numbers in a byte count as two


def census(model: Model) -> list[CensusRow]:
    """Every parameter once (tied ones too), by part, dtype and trainable, in the order in which the model has them."""
    counts: Counter[tuple[str, str, bool]] = Counter()
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)  # bitsandbytes packs the numbers and keeps their shape here
        dtype = state.quant_type if state else str(parameter.dtype).removeprefix("torch.")
        part = next((part for word, part in PARTS.items() if f".{word}." in f".{name}"), "other")
        part += " adapter" if "lora_" in name else ""
        counts[part, dtype, parameter.requires_grad] += (state.shape if state else parameter.shape).numel()
    return [CensusRow(*kind, parameters=count) for kind, count in counts.items()]


def gradient_census(model: Model, a_moves: bool) -> list[str]:
    """Names of adapter tensors whose gradient after a backward pass cannot be right; empty if all are right.

    A gradient that is missing or not finite is always wrong. Zero is wrong for every B; for A it is right until B,
    which starts at zero, has changed: until an optimiser step was made before this backward pass, `a_moves`. Gradients
    lost silently are a known problem (huggingface/peft issue 2880).
    """

    def right(name: str, gradient: Tensor | None) -> bool:
        may_be_zero = "lora_A" in name and not a_moves
        return gradient is not None and bool(gradient.isfinite().all() and (gradient.any() or may_be_zero))

    return [name for name, parameter in _adapter(model) if not right(name, parameter.grad)]


def adapter_state(model: Model) -> dict[str, Tensor]:
    """The trainable tensors by name, detached and copied to the CPU: what a checkpoint keeps."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in _adapter(model)}


def load_adapter_state(model: Model, state: dict[str, Tensor]) -> None:
    """Copy an `adapter_state` into a model with the same adapters.

    Raises:
        UserError: names or shapes differ.
    """
    own = dict(_adapter(model))
    _refuse_difference(state, own, "the checkpoint")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def _adapter(model: Model) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def save_adapter(model: "PeftModel", folder: Path) -> None:
    """Write the adapter as PEFT does, so that `PeftModel.from_pretrained` reads it; weights as safetensors."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    # Otherwise PEFT asks the hub whether the vocabulary was enlarged.
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {name: tensor.contiguous().cpu() for name, tensor in weights.items()}
    with replacing(folder / ADAPTER_WEIGHTS) as part:
        save_file(weights, part, metadata={"format": "pt"})
    config = copy.copy(model.peft_config["default"])
    config.inference_mode = True
    base = type(bare(model))
    auto = {"base_model_class": base.__name__, "parent_library": base.__module__}  # what AutoPeftModel looks for
    config.save_pretrained(str(folder), auto_mapping_dict=auto)


def load_exported(model: Model, file: Path) -> None:
    """Copy the weights that `save_adapter` wrote to a file into a model with the same adapter, which stays trainable.

    Raises:
        UserError: the file holds no tensors, or names or shapes differ.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    adapted: Any = model
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"expected an adapter's weights in {file}, found none that can be read ({error})") from None
    _refuse_difference(weights, get_peft_model_state_dict(adapted, save_embedding_layers=False), str(file))
    set_peft_model_state_dict(adapted, weights)


def merged(model: Model) -> "InternVLForConditionalGeneration":
    """The model with its adapter merged into its matrices, which must not be in 4 bits (peft issue 2321)."""
    adapted: Any = model
    return adapted.merge_and_unload() if bare(model) is not model else adapted


def _refuse_difference(found: dict[str, Any], expected: dict[str, Any], place: str) -> None:
    shapes = [{(name, tuple(tensor.shape)) for name, tensor in tensors.items()} for tensors in (found, expected)]
    if differing := sorted({name for name, _ in shapes[0] ^ shapes[1]}):
        raise UserError(
            f"expected adapter tensors that fit this model in {place}, found {len(differing)} that do not, first "
            f"{differing[0]}; use the model, lora scope and rank that it was trained with"
        )
