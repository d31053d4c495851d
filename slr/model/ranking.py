"""The exact probability of every gloss of a vocabulary: one pass over the prompt, one over the trie.

The nodes of the trie are fed as one sequence behind the cached prompt. Each sees the prompt and its own ancestors only,
and stands at the position that it would have if its gloss alone followed the prompt, so it computes what that gloss
alone would (tree attention, SpecInfer, arXiv 2305.09781).

Axes: B clips, V features of a clip, L tokens of the prompt, K glosses, N trie nodes, E trie edges, D hidden width.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from slr.model.trie import Trie
from slr.model.vlm import bare, embed, positions

if TYPE_CHECKING:
    from slr.model.vlm import Model

LOGIT_BYTES = 256 * 2**20
WORDS_AT_ONCE = 2**14  # whose weights are made float32 together


def rank(
    model: "Model",
    features: Tensor,
    prompt_ids: Tensor,
    attention_mask: Tensor,
    trie: Trie,
    logit_bytes: int = LOGIT_BYTES,
) -> Tensor:
    """Natural log of each gloss's exact probability after each clip's prompt, float32 (B, K), never renormalised.

    The probability is of all the gloss's tokens and its end token, over the whole vocabulary of the tokenizer.

    Args:
        features: (B, V, D) from `encode_frames` or a cache.
        prompt_ids: int64 (B, L), padded on the left, so that every prompt ends in the last column.
        attention_mask: (B, L), 0 where padding is.
        trie: of the K glosses, from `build_trie`.
        logit_bytes: how much memory float32 logits may take at once, at the least those of one row for B clips.

    Raises:
        ValueError: padding on the right, or a model in training mode, where dropout would make the ranking random.
    """
    if bare(model).model.language_model.training:
        raise ValueError("expected a model in evaluation mode; do call model.eval() before ranking")
    with torch.no_grad():
        return sequence_log_probabilities(model, features, prompt_ids, attention_mask, trie, logit_bytes)


def sequence_log_probabilities(
    model: "Model", features: Tensor, prompt_ids: Tensor, attention_mask: Tensor, trie: Trie, logit_bytes: int
) -> Tensor:
    """As `rank`, with a graph where gradients are on, and without its look at the model's mode."""
    if not bool(attention_mask[:, -1].all()):
        raise ValueError("expected prompts padded on the left: the last column must be no padding")
    hidden = _row_states(model, features, prompt_ids, attention_mask, trie)
    edges = _edge_log_probabilities(model, hidden, trie, logit_bytes)
    filled = torch.cat([edges, edges.new_zeros(len(edges), 1)], dim=1)  # what fills up a short path adds nothing
    return filled[:, torch.from_numpy(trie.path).to(edges.device)].sum(-1)


def _row_states(model: "Model", features: Tensor, prompt_ids: Tensor, attention_mask: Tensor, trie: Trie) -> Tensor:
    """Hidden states (B, 1 + N, D) that predict a token: the prompt's last, then one for each trie node."""
    language: Any = bare(model).model.language_model
    prompt = language(
        inputs_embeds=embed(model, features, prompt_ids),
        attention_mask=attention_mask,
        position_ids=positions(attention_mask),
        use_cache=True,
    )
    last = prompt.last_hidden_state[:, -1:]
    if len(trie.token) == 0:
        return last
    cached = prompt.past_key_values.get_seq_length()
    if cached != prompt_ids.shape[1]:  # gradient checkpointing in training mode leaves the cache empty
        raise ValueError(f"expected the model to cache {prompt_ids.shape[1]} tokens, found {cached}")

    device = prompt_ids.device
    token, depth = (torch.from_numpy(array).to(device) for array in (trie.token, trie.depth))
    embedded = language.get_input_embeddings()(token).expand(len(prompt_ids), -1, -1)
    nodes = language(
        inputs_embeds=embedded,
        attention_mask=_tree_mask(attention_mask, trie, embedded.dtype),
        position_ids=attention_mask.long().sum(1, keepdim=True) + depth,
        past_key_values=prompt.past_key_values,
        use_cache=True,
    )
    return torch.cat([last, nodes.last_hidden_state], dim=1)


def _tree_mask(attention_mask: Tensor, trie: Trie, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores, (B, 1, N, L + N): 0 for the prompt and a node's ancestors, else the lowest."""
    clips, length = attention_mask.shape
    ancestors = torch.from_numpy(trie.ancestors).to(attention_mask.device)
    seen = torch.cat(
        [
            attention_mask.bool().view(clips, 1, 1, length).expand(-1, -1, len(ancestors), -1),
            ancestors.expand(clips, 1, -1, -1),
        ],
        dim=-1,
    )
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def _edge_log_probabilities(model: "Model", hidden: Tensor, trie: Trie, logit_bytes: int) -> Tensor:
    """Log-probability of each edge's token at the edge's row, float32 (B, E). B x N x words never exists at once."""
    head: Any = bare(model).lm_head
    rows = max(1, logit_bytes // (4 * len(hidden) * head.out_features))
    found = []
    for first in range(0, hidden.shape[1], rows):
        logits = _logits(head, hidden[:, first : first + rows])
        # Edges are in row order, so those of a chunk are neighbours.
        start, stop = trie.edge_row.searchsorted([first, first + rows])
        row, token = (
            torch.from_numpy(array[start:stop]).to(hidden.device) for array in (trie.edge_row - first, trie.edge_token)
        )
        found.append(logits[:, row, token] - logits.logsumexp(-1)[:, row])
    return torch.cat(found, dim=1)


def _logits(head: Any, states: Tensor) -> Tensor:  # noqa: ANN401
    """Hidden states (B, R, D) -> float32 (B, R, W), also under autocast: bf16 has steps of an eighth at 16, so ties."""
    with torch.autocast(states.device.type, enabled=False):
        parts = [functional.linear(states.float(), weight.float()) for weight in head.weight.split(WORDS_AT_ONCE)]
    return torch.cat(parts, dim=-1)
