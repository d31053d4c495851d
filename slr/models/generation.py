"""Free text about a clip: greedy, sampled or by beam search, through transformers' own `generate`.

The clip is given as features, so that the vision tower runs once for all questions and ways of decoding.

Axes: B clips, V features of a clip, L tokens of the prompt, D hidden width.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slr.models.generation_config import Decoding
from slr.models.internvl import bare, embed

if TYPE_CHECKING:
    from slr.models.internvl import Model


def generate(
    model: "Model",
    features: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    end_id: int,
    decoding: Decoding,
) -> list[tuple[int, ...]]:
    """One answer for each clip, as tokens without the end token; of a beam search the best.

    Args:
        features: (B, V, D) from `encode_frames` or a cache.
        input_ids: int64 (B, L), padded on the left, the image token V times in each row.
        attention_mask: (B, L), 0 where padding is.
        end_id: the token that ends an answer.
        decoding: how tokens are chosen; a seed gives the same answers for the same batch on the same machine.
    """
    if decoding.beams > 1:
        answers = beam_search(model, features, input_ids, attention_mask, decoding.beams, decoding.length, end_id)
        return [best for best, *_ in answers]
    drawn = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0} if decoding.temperature else {}
    settings: dict[str, Any] = {"max_new_tokens": decoding.length, "do_sample": bool(drawn), **drawn}
    with torch.random.fork_rng([features.device] if features.device.type == "cuda" else []):
        torch.manual_seed(decoding.seed)
        output = _generated(model, features, input_ids, attention_mask, end_id, **settings)
    return [_until(row, end_id) for row in output]


def beam_search(
    model: "Model",
    features: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    beams: int,
    length: int,
    end_id: int,
) -> list[list[tuple[int, ...]]]:
    """The `beams` best answers of a beam search of that width for each clip, best first, without end tokens.

    Answers are compared by their log-probability, not divided by their length, as in a ranking. The search is not
    restricted to a vocabulary: beams may be no gloss, cut off by `length`, or the same text with other tokens.

    Args:
        features, input_ids, attention_mask, end_id: as for `generate`.
        beams: width of the search.
        length: tokens of an answer, at most.
    """
    settings: dict[str, Any] = {"max_new_tokens": length, "do_sample": False, "num_beams": beams}
    settings |= {"num_return_sequences": beams, "length_penalty": 0.0, "early_stopping": "never"}
    output = _generated(model, features, input_ids, attention_mask, end_id, **settings)
    answers = [_until(row, end_id) for row in output]
    return [answers[start : start + beams] for start in range(0, len(answers), beams)]


def _generated(
    model: "Model",
    features: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    end_id: int,
    **settings: Any,  # noqa: ANN401
) -> list[list[int]]:
    """Rows of new tokens from transformers' `generate`, by nothing but these settings.

    Otherwise a checkpoint's own generation_config.json would count: Qwen's asks for sampling.
    """
    from transformers import GenerationConfig

    network: Any = bare(model)
    if network.model.language_model.training:
        raise ValueError("expected a model in evaluation mode; call model.eval() before generating")
    settings |= {"eos_token_id": end_id, "pad_token_id": end_id, "use_cache": True, "bos_token_id": None}
    kept = network.generation_config
    network.generation_config = GenerationConfig(eos_token_id=end_id, pad_token_id=end_id)
    try:
        with torch.no_grad():
            return network.generate(
                inputs_embeds=embed(model, features, input_ids),
                attention_mask=attention_mask,
                generation_config=GenerationConfig(**settings),
            ).tolist()
    finally:
        network.generation_config = kept


def _until(row: list[int], end_id: int) -> tuple[int, ...]:
    """A row's tokens before the end token, which also fills up."""
    return tuple(row[: row.index(end_id)] if end_id in row else row)
