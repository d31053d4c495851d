"""Free text about a clip: greedy, sampled or by beam search, through transformers' own `generate`.

The clip is given as features, so that the vision tower runs once for all questions and ways of decoding.

Axes: B clips, V features of a clip, L tokens of the prompt, D hidden width.
"""

from typing import Any

import torch
from torch import Tensor

from slr.models.generation_config import Decoding
from slr.models.internvl import Model, bare, embed

# Features (B, V, D) from `encode_frames` or a cache; token ids int64 (B, L), padded on the left, with V image tokens in
# each row; and mask (B, L), 0 where padding is.
Prompt = tuple[Tensor, Tensor, Tensor]
Answer = tuple[int, ...]  # tokens without the end token


def generate(model: Model, prompt: Prompt, end_id: int, decoding: Decoding) -> list[Answer]:
    """One answer for each clip; of a beam search the best.

    Args:
        prompt: of B clips.
        end_id: the token that ends an answer.
        decoding: how tokens are chosen; a seed gives the same answers for the same batch on the same machine.
    """
    if decoding.beams > 1:
        return [best for best, *_ in beam_search(model, prompt, decoding.beams, decoding.length, end_id)]
    drawn = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0} if decoding.temperature else {}
    device = prompt[0].device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(decoding.seed)
        return _generated(model, prompt, end_id, max_new_tokens=decoding.length, do_sample=bool(drawn), **drawn)


def beam_search(model: Model, prompt: Prompt, beams: int, length: int, end_id: int) -> list[list[Answer]]:
    """The `beams` best answers of a beam search of that width for each clip, best first.

    Answers are compared by their log-probability, not divided by their length, as in a ranking. The search is not
    restricted to a vocabulary: beams may be no gloss, cut off by `length`, or the same text with other tokens.

    Args:
        prompt, end_id: as for `generate`.
        beams: width of the search.
        length: tokens of an answer, at most.
    """
    settings: dict[str, Any] = {"max_new_tokens": length, "do_sample": False, "num_beams": beams}
    settings |= {"num_return_sequences": beams, "length_penalty": 0.0, "early_stopping": "never"}
    answers = _generated(model, prompt, end_id, **settings)
    return [answers[start : start + beams] for start in range(0, len(answers), beams)]


def _generated(model: Model, prompt: Prompt, end_id: int, **settings: Any) -> list[Answer]:  # noqa: ANN401
    """What transformers' `generate` gives, from nothing but these settings.

    Otherwise a checkpoint's own generation_config.json would count: Qwen's asks for sampling.
    """
    from transformers import GenerationConfig

    network: Any = bare(model)
    if network.model.language_model.training:
        raise ValueError("expected a model in evaluation mode; call model.eval() before generating")
    features, input_ids, attention_mask = prompt
    settings |= {"eos_token_id": end_id, "pad_token_id": end_id, "use_cache": True, "bos_token_id": None}
    kept = network.generation_config
    network.generation_config = GenerationConfig(eos_token_id=end_id, pad_token_id=end_id)
    try:
        with torch.no_grad():
            output = network.generate(
                inputs_embeds=embed(model, features, input_ids),
                attention_mask=attention_mask,
                generation_config=GenerationConfig(**settings),
            )
    finally:
        network.generation_config = kept
    # The end token also fills up.
    return [tuple(row[: row.index(end_id)] if end_id in row else row) for row in output.tolist()]
