"""LoRA on a chosen part of InternVL: adding it, counting it, watching its gradients, keeping it on disk."""

import copy
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slr.core.errors import UserError
from slr.core.files import replacing
from slr.models.internvl import bare

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import InternVLForConditionalGeneration

    from slr.models.internvl import Model

# By full name: `q_proj` alone would match the vision tower too.
SCOPES = {"language": r"model\.language_model\.layers\.\d+\."}
PARTS = {
    "vision_tower": "vision",
    "multi_modal_projector": "projector",
    "embed_tokens": "embeddings",
    "language_model": "language",
    "lm_head": "lm_head",
}
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def add_lora(model: "Model", scope: str, r: int, alpha: int, dropout: float, targets: Sequence[str]) -> "Model":
    """Put low-rank adapters (Hu et al. 2021, arXiv 2106.09685) beside the matrices of a scope; nothing else trains.

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
    from peft import LoraConfig

    _refuse_unmatched(model, scope, targets)
    pattern = SCOPES[scope] + rf"(?:\w+\.)*(?:{'|'.join(map(re.escape, targets))})"
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern, bias="none")
    return _wrapped(bare(model), config)


def _wrapped(model: "InternVLForConditionalGeneration", config: "LoraConfig") -> "PeftModel":
    from peft import get_peft_model

    with warnings.catch_warnings():  # peft 0.21 asks transformers 5.23 under a name that it has deprecated
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        return get_peft_model(model, config)


def _refuse_unmatched(model: "Model", scope: str, targets: Sequence[str]) -> None:
    layers = [
        name
        for name, module in bare(model).named_modules()
        if isinstance(module, torch.nn.Linear) and re.match(SCOPES[scope], name)
    ]
    allowed = sorted({name.rpartition(".")[2] for name in layers})
    unmatched = [target for target in targets if target not in allowed]
    if unmatched or not targets:
        raise UserError(
            f"expected lora.targets among {', '.join(allowed) or 'none: this model has no such layers'}, found "
            f"{', '.join(unmatched) or 'an empty list'}; do correct lora.targets, or choose lora=none"
        )


@dataclass(frozen=True, slots=True)
class CensusRow:
    """How many parameters of one kind a model has.

    Attributes:
        part: vision, projector, embeddings, language (layers and norms), lm_head; adapters as `language adapter` etc.
        dtype: torch's name, or `nf4` for 4-bit numbers.
        trainable: whether an optimiser moves them.
        tensors: how many tensors they lie in.
        parameters: how many numbers they are; two 4-bit numbers in a byte are two.
    """

    part: str
    dtype: str
    trainable: bool
    tensors: int
    parameters: int


def census(model: "Model") -> list[CensusRow]:
    """Every parameter once (tied ones too), by part, dtype and trainable, in the order in which the model has them."""
    found: dict[tuple[str, str, bool], list[int]] = {}
    for name, parameter in model.named_parameters():
        dtype, count = _size(parameter)
        found.setdefault((_part(name), dtype, parameter.requires_grad), []).append(count)
    return [CensusRow(*kind, tensors=len(counts), parameters=sum(counts)) for kind, counts in found.items()]


def _part(name: str) -> str:
    part = next((part for word, part in PARTS.items() if f".{word}." in f".{name}"), "other")
    return f"{part} adapter" if "lora_" in name else part


def _size(parameter: Tensor) -> tuple[str, int]:
    state = getattr(parameter, "quant_state", None)  # bitsandbytes packs the numbers and keeps their true shape here
    if state is not None:
        return state.quant_type, state.shape.numel()
    return str(parameter.dtype).removeprefix("torch."), parameter.numel()


def gradient_census(model: "Model", a_moves: bool) -> list[str]:
    """Names of adapter tensors whose gradient after a backward pass cannot be right; empty where all is well.

    A gradient that is missing or not finite never is. Zero is wrong for every B; for A it is right until B, which
    starts at zero, has moved. Gradients lost silently are a known trap (huggingface/peft issue 2880).

    Args:
        a_moves: whether an optimiser step with a learning rate above zero has been made before this backward pass.
    """

    def right(name: str, gradient: Tensor | None) -> bool:
        if gradient is None or not gradient.isfinite().all():
            return False
        return bool(gradient.any()) or ("lora_A" in name and not a_moves)

    return [name for name, parameter in _adapter(model) if not right(name, parameter.grad)]


def adapter_state(model: "Model") -> dict[str, Tensor]:
    """The trainable tensors by their names in this model, detached and copied to the CPU: what a checkpoint keeps."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in _adapter(model)}


def load_adapter_state(model: "Model", state: dict[str, Tensor]) -> None:
    """Copy what `adapter_state` gave into a model with the same adapters.

    Raises:
        UserError: names or shapes differ.
    """
    own = dict(_adapter(model))
    _refuse_difference(state, own, "the checkpoint")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def _adapter(model: "Model") -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def save_adapter(model: "PeftModel", folder: Path) -> None:
    """Write the adapter as PEFT does, so that `PeftModel.from_pretrained` reads it; weights as safetensors."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    # PEFT would otherwise ask the hub whether the vocabulary was enlarged.
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {name: tensor.contiguous().cpu() for name, tensor in weights.items()}
    with replacing(folder / ADAPTER_WEIGHTS) as part:
        save_file(weights, part, metadata={"format": "pt"})
    config = copy.copy(model.peft_config["default"])
    config.inference_mode = True
    base = type(bare(model))
    auto = {"base_model_class": base.__name__, "parent_library": base.__module__}  # what AutoPeftModel looks for
    config.save_pretrained(str(folder), auto_mapping_dict=auto)


def load_adapter(model: "Model", folder: Path) -> "PeftModel":
    """Put a saved adapter on a model that has none, frozen.

    Raises:
        UserError: the folder holds no adapter as safetensors, or one for another model.
        ValueError: the model has an adapter already.
    """
    from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    inner = bare(model)
    if inner is not model:
        raise ValueError("expected a model without an adapter: load_adapter takes rank and scale from the file")
    # PEFT would go on to look for pickled weights, and for a hub name.
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"expected an adapter in {folder}, found no {name}; do name a run's adapter folder")
    config: Any = LoraConfig.from_pretrained(str(folder))
    adapted = _wrapped(inner, config)
    weights = load_file(folder / ADAPTER_WEIGHTS)
    _refuse_difference(weights, get_peft_model_state_dict(adapted, save_embedding_layers=False), str(folder))
    set_peft_model_state_dict(adapted, weights)
    return adapted.requires_grad_(False).eval()


def load_exported(model: "Model", file: Path) -> None:
    """Copy the weights that `save_adapter` wrote into a model with the same adapter, which goes on to learn.

    Args:
        model: with its adapter.
        file: `adapter_model.safetensors`.

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


def merged(model: "Model") -> "InternVLForConditionalGeneration":
    """The model with its adapter folded into its matrices.

    They must not be quantised: a merge into 4 bits changes what they say (peft issue 2321).
    """
    adapted: Any = model
    return adapted.merge_and_unload() if bare(model) is not model else adapted


def _refuse_difference(found: dict[str, Any], expected: dict[str, Any], place: str) -> None:
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (found, expected)]
    differing = sorted(
        name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)
    )
    if differing:
        raise UserError(
            f"expected adapter tensors that fit this model in {place}, found {len(differing)} that do not, first "
            f"{differing[0]}; do use the model, lora scope and rank that it was trained with"
        )
