"""InternVL as functions: load it, frames → features, tokens → hidden states, hidden states → loss.

Axes: B clips, T frames, h, w pixels, V features of a clip (T x tokens per frame), L tokens, D hidden width, W words of
the tokenizer.
"""

import logging
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from slr.core.errors import UserError
from slr.models.hub import locate
from slr.models.memory_plan import Shape, shape_of

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import InternVLForConditionalGeneration

Model: TypeAlias = "InternVLForConditionalGeneration | PeftModel"
# Full names: bare names do not match below the first level, and the vision tower would be quantised too.
KEPT_WHOLE = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
# On import it warns about an optional kernel for the repacking that `_pretrained` switches off.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
NF4_BLOCK = 64  # numbers that share a scale
IGNORED = -100  # the label of a token that is not predicted, as torch and transformers have it


def load_vlm(
    checkpoint: str,
    revision: str | None,
    weights: str,
    quantization: str,
    dtype: torch.dtype,
    device: torch.device | str,
    seed: int,
) -> "InternVLForConditionalGeneration":
    """InternVL with every parameter frozen, in evaluation mode, on `device`.

    Args:
        checkpoint, revision: as for `locate`.
        weights: `pretrained` reads them; `random` builds from the configuration alone, also on the meta device.
        quantization: `none`, or `nf4`, which stores the language layers' matrices in 4 bits, their scales quantised
            once more (QLoRA, arXiv 2305.14314); vision tower, projector, embeddings, norms and head stay in `dtype`.
            Works on the CPU.
        dtype: of what is not quantised, and of the computation.
        seed: of random weights; means nothing otherwise. The global generator is left as it was.

    Raises:
        UserError: the checkpoint cannot be found, or does not hold every weight.
    """
    folder = locate(checkpoint, revision, need_weights=weights == "pretrained")
    device = torch.device(device)
    if weights == "pretrained":
        model = _pretrained(folder, quantization, dtype, device)
    elif quantization == "none":
        model = _random(folder, dtype, device, seed)
    else:  # transformers quantises while it reads a file, so random weights are written to one first
        with tempfile.TemporaryDirectory() as written:
            _random(folder, dtype, torch.device("cpu"), seed).save_pretrained(written)
            model = _pretrained(Path(written), quantization, dtype, device)
    model.name_or_path = checkpoint  # the base's name in an adapter's file, instead of a folder of this machine
    return model.requires_grad_(False).eval()


def _pretrained(
    folder: Path, quantization: str, dtype: torch.dtype, device: torch.device
) -> "InternVLForConditionalGeneration":
    from transformers import BitsAndBytesConfig, InternVLForConditionalGeneration

    if not hasattr(torch.nn.Module, "set_submodule"):  # before torch 2.5; transformers quantises by it
        InternVLForConditionalGeneration.set_submodule = lambda model, name, module: setattr(  # pyright: ignore
            model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], module
        )
    config = None
    if quantization == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=KEPT_WHOLE,
        )
    loaded: Any = InternVLForConditionalGeneration.from_pretrained(
        folder,
        dtype=dtype,
        device_map={"": device},
        quantization_config=config,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    model, report = loaded
    missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if missing:  # transformers would fill them with random numbers and go on
        raise UserError(
            f"expected every weight of the model in {folder}, found {len(missing)} missing or of another shape, first "
            f"{missing[0]}; download the checkpoint again"
        )
    _refuse_odd_widths(model)
    for layer in model.modules():
        # bitsandbytes 0.50 repacks a layer at its first evaluation on a CPU with AVX512-BF16. From then on the layer
        # computes in bf16, and in training passes no gradient through.
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return model


def _refuse_odd_widths(model: "InternVLForConditionalGeneration") -> None:
    """bitsandbytes 0.50 stores NF4 in blocks of 64 and reads it back wrongly, on CPUs, where a row ends inside one."""
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None and state.shape[-1] % NF4_BLOCK:
            raise UserError(
                f"model.quantization=nf4: {name} has {state.shape[-1]} columns, no multiple of {NF4_BLOCK}, which "
                "bitsandbytes would read back wrongly; use model.quantization=none"
            )


def _random(folder: Path, dtype: torch.dtype, device: torch.device, seed: int) -> "InternVLForConditionalGeneration":
    from transformers import AutoConfig, InternVLForConditionalGeneration

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        return InternVLForConditionalGeneration._from_config(config, dtype=dtype)


def quantises(device: str) -> bool:
    """Whether bitsandbytes says that NF4 runs on a type of device, by torch's name."""
    import bitsandbytes

    return device in bitsandbytes.supported_torch_devices


def refuse_other(model: Model, device: torch.device | str, dtype: torch.dtype, quantization: str) -> None:
    """Check a model's device, dtype and quantization on its tensors. Trainable ones are float32 in any case.

    Raises:
        UserError: a tensor is on another device, has another dtype, or is in 4 bits but should not be, or the reverse.
    """
    wanted = torch.device(device).type
    four_bit = 0
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        quantised = getattr(tensor, "quant_state", None) is not None
        four_bit += quantised
        if tensor.device.type != wanted:
            raise UserError(f"expected the model on {wanted}, found {name} on {tensor.device}; choose another hardware")
        expected = torch.float32 if tensor.requires_grad else dtype
        if isinstance(tensor, torch.nn.Parameter) and not quantised and tensor.dtype != expected:
            raise UserError(f"expected the model's numbers in {expected}, found {name} in {tensor.dtype}")
    if (quantization == "nf4") != (four_bit > 0):
        raise UserError(f"expected model.quantization={quantization}, found {four_bit} matrices in 4 bits")


def bare(model: Model) -> "InternVLForConditionalGeneration":
    """The transformers model without PEFT's wrapper around it. LoRA acts inside its layers either way."""
    outer: Any = model
    return outer.get_base_model() if hasattr(outer, "get_base_model") else outer


def shape(model: Model) -> Shape:
    """The sizes that the model's memory depends on."""
    return shape_of(bare(model).config.to_dict())


def checkpoint_layers(model: Model) -> None:
    """Have the language layers recompute their activations in the backward pass instead of keeping them.

    Acts in training mode only, and without a key-value cache. Not reentrant, so gradients reach the adapter although no
    input requires them.
    """
    language: Any = bare(model).model.language_model
    # Renamed in transformers 5.23, where the old name warns.
    enable = getattr(language, "activation_checkpointing_enable", None) or language.gradient_checkpointing_enable
    warnings.filterwarnings("ignore", ".*torch.cpu.amp.autocast", FutureWarning)  # torch 2.4 of its own checkpointing
    enable({"use_reentrant": False})


@torch.no_grad()
def encode_frames(model: Model, pixels: Tensor) -> Tensor:
    """Normalised frames float (B, T, 3, h, w) -> projected features (B, V, D) in the model's dtype, without graph."""
    core = bare(model).model
    core.vision_tower.eval()  # always frozen: a trainer's model.train() must not turn its dropout on
    core.multi_modal_projector.eval()
    features: Any = core.get_image_features(
        pixel_values=pixels.flatten(0, 1),
        vision_feature_layer=core.config.vision_feature_layer,
        vision_feature_select_strategy=core.config.vision_feature_select_strategy,
    )
    return features.pooler_output.reshape(len(pixels), -1, features.pooler_output.shape[-1])


def embed(model: Model, features: Tensor, input_ids: Tensor) -> Tensor:
    """Token ids int64 (B, L) -> (B, L, D), features (B, V, D) in the places of the image token.

    Raises:
        ValueError: a clip whose image tokens are not exactly V, so that frames would be lost or go to another clip.
    """
    core = bare(model).model
    places = input_ids == core.config.image_token_id
    if (places.sum(1) != features.shape[1]).any():
        raise ValueError(f"expected {features.shape[1]} image tokens a clip, found {places.sum(1).tolist()}")
    embedded = core.get_input_embeddings()(input_ids)
    return embedded.masked_scatter(places.unsqueeze(-1), features.to(embedded.dtype))


def positions(attention_mask: Tensor) -> Tensor:
    """Position of each token among those that are not padding, (B, L) -> int64 (B, L); padding itself is at 0.

    >>> positions(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])).tolist()
    [[0, 0, 0, 1], [0, 1, 2, 2]]
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def hidden_states(model: Model, features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states (B, L, D) of the language model, after its final norm.

    Args:
        features: (B, V, D) from `encode_frames` or a cache.
        input_ids: int64 (B, L), the image token V times in each row.
        attention_mask: (B, L), 0 where padding is, on either side. Hidden states there mean nothing.
    """
    output = bare(model).model.language_model(
        inputs_embeds=embed(model, features, input_ids),
        attention_mask=attention_mask,
        position_ids=positions(attention_mask),
        use_cache=False,
    )
    return output.last_hidden_state


def answer_loss(model: Model, hidden: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy over each clip's answer tokens, float32 (B,), in nats.

    The head is applied only to the rows that predict an answer token: B x L x W never exists.

    Args:
        hidden: (B, L, D) from `hidden_states`.
        labels: int64 (B, L), aligned with the input ids; -100 except where the answer and its end token stand.
        smoothing: share of the target spread evenly over all words, in [0, 1), as in `torch.nn.CrossEntropyLoss`.
    """
    targets = labels[:, 1:]  # position i predicts token i + 1
    answered = targets != IGNORED
    logits = bare(model).lm_head(hidden[:, :-1][answered]).float()
    losses = functional.cross_entropy(logits, targets[answered], reduction="none", label_smoothing=smoothing)
    by_clip = torch.zeros(answered.shape, dtype=losses.dtype, device=losses.device).masked_scatter(answered, losses)
    return by_clip.sum(1) / answered.sum(1)
