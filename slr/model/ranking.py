"""The exact probability of every gloss of a vocabulary: one pass over the prompt, one over the trie.

The nodes of the trie are fed as one sequence behind the cached prompt. Each sees the prompt and its own ancestors only,
and stands at the position that it would have if its gloss alone followed the prompt, so it computes what that gloss
alone would (tree attention, SpecInfer, arXiv 2305.09781).

Axes: B clips, V features of a clip, L tokens of the prompt, K glosses, N trie nodes, E trie edges, D hidden width.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from slr.model.trie import Trie
from slr.model.vlm import bare, embed, positions

if TYPE_CHECKING:
    from slr.model.vlm import Model

LOGIT_BYTES = 256 * 2**20
NODES_AT_ONCE = 512  # so that what attention needs does not grow with the vocabulary
WORDS_AT_ONCE = 2**14  # whose weights are made float32 together


@torch.no_grad()
def rank(
    model: "Model",
    features: Tensor,
    prompt_ids: Tensor,
    attention_mask: Tensor,
    trie: Trie,
    logit_bytes: int = LOGIT_BYTES,
    nodes_at_once: int = NODES_AT_ONCE,
) -> Tensor:
    """Natural log of each gloss's exact probability after each clip's prompt, float32 (B, K), never renormalised.

    The probability is of all the gloss's tokens and its end token, over the whole vocabulary of the tokenizer.

    Args:
        features: (B, V, D) from `encode_frames` or a cache.
        prompt_ids: int64 (B, L), padded on the left, so that every prompt ends in the last column.
        attention_mask: (B, L), 0 where padding is.
        trie: of the K glosses, from `build_trie`.
        logit_bytes: how much memory float32 logits may take at once, at the least those of one row for B clips.
        nodes_at_once: how many trie nodes follow the cached prompt together, besides the ancestors of the first.

    Raises:
        ValueError: padding on the right, or a model in training mode, where dropout would make the ranking random.
    """
    if bare(model).model.language_model.training:
        raise ValueError("expected a model in evaluation mode; do call model.eval() before ranking")
    _demand_left_padding(attention_mask)
    hidden = _cached_states(model, features, prompt_ids, attention_mask, trie, nodes_at_once)
    return _along_paths(_edge_log_probabilities(model, hidden, trie, logit_bytes), trie)


def sequence_log_probabilities(
    model: "Model", features: Tensor, prompt_ids: Tensor, attention_mask: Tensor, trie: Trie, logit_bytes: int
) -> Tensor:
    """As `rank`, with a graph and in any mode: what a closed-set objective learns from.

    Prompt and trie go through the model as one sequence, so that its layers can be checkpointed, which a cache forbids;
    logits are computed again in the backward pass, so that `logit_bytes` bounds them there too.
    """
    _demand_left_padding(attention_mask)
    hidden = _uncached_states(model, features, prompt_ids, attention_mask, trie)
    return _along_paths(_edge_log_probabilities(model, hidden, trie, logit_bytes), trie)


def _demand_left_padding(attention_mask: Tensor) -> None:
    if not bool(attention_mask[:, -1].all()):
        raise ValueError("expected prompts padded on the left: the last column must be no padding")


def _along_paths(edges: Tensor, trie: Trie) -> Tensor:
    """Log-probabilities of edges (B, E) summed along each gloss's path: (B, K)."""
    filled = torch.cat([edges, edges.new_zeros(len(edges), 1)], dim=1)  # what fills up a short path adds nothing
    return filled[:, torch.from_numpy(trie.path).to(edges.device)].sum(-1)


def _cached_states(
    model: "Model", features: Tensor, prompt_ids: Tensor, attention_mask: Tensor, trie: Trie, nodes_at_once: int
) -> Tensor:
    """Hidden states (B, 1 + N, D) that predict a token: the prompt's last, then one for each trie node."""
    language: Any = bare(model).model.language_model
    prompt = language(
        inputs_embeds=embed(model, features, prompt_ids),
        attention_mask=attention_mask,
        position_ids=positions(attention_mask),
        use_cache=True,
    )
    cache, found = prompt.past_key_values, [prompt.last_hidden_state[:, -1:]]
    for nodes, repeated in trie.chunks(nodes_at_once):
        embedded, places, seen = _nodes(model, attention_mask, trie, nodes)
        states = language(
            inputs_embeds=embedded,
            attention_mask=_added(seen, embedded.dtype),
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        found.append(states[:, repeated:])
        cache.crop(-len(nodes))
    return torch.cat(found, dim=1)


def _uncached_states(
    model: "Model", features: Tensor, prompt_ids: Tensor, attention_mask: Tensor, trie: Trie
) -> Tensor:
    """As `_cached_states`, from one pass over prompt and trie."""
    language: Any = bare(model).model.language_model
    clips, length = prompt_ids.shape
    embedded, places, seen = _nodes(model, attention_mask, trie, np.arange(len(trie.token)))
    earlier = torch.ones(length, length, dtype=torch.bool, device=prompt_ids.device).tril()
    prompt = (earlier & attention_mask.bool().unsqueeze(1)).unsqueeze(1)  # (B, 1, L, L)
    nothing = prompt.new_zeros(clips, 1, length, seen.shape[2])  # a prompt sees no node
    whole = torch.cat([torch.cat([prompt, nothing], dim=3), seen], dim=2)
    states = language(
        inputs_embeds=torch.cat([embed(model, features, prompt_ids), embedded], dim=1),
        attention_mask=_added(whole, embedded.dtype),
        position_ids=torch.cat([positions(attention_mask), places], dim=1),
        use_cache=False,
    ).last_hidden_state
    return states[:, length - 1 :]


def _nodes(
    model: "Model", attention_mask: Tensor, trie: Trie, nodes: NDArray[np.int64]
) -> tuple[Tensor, Tensor, Tensor]:
    """Some n nodes behind each prompt: embedded (B, n, D), positions (B, n), what they see bool (B, 1, n, L + n)."""
    clips, length = attention_mask.shape
    token, depth, ancestors = (
        torch.from_numpy(array).to(attention_mask.device)
        for array in (trie.token[nodes], trie.depth[nodes], trie.ancestors[np.ix_(nodes, nodes)])
    )
    embedded = bare(model).model.get_input_embeddings()(token).expand(clips, -1, -1)
    places = attention_mask.long().sum(1, keepdim=True) + depth
    seen = torch.cat(
        [
            attention_mask.bool().view(clips, 1, 1, length).expand(-1, -1, len(nodes), -1),
            ancestors.expand(clips, 1, -1, -1),
        ],
        dim=-1,
    )
    return embedded, places, seen


def _added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores, the same for all heads: 0 where `seen`, else the lowest number."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def _edge_log_probabilities(model: "Model", hidden: Tensor, trie: Trie, logit_bytes: int) -> Tensor:
    """Log-probability of each edge's token at the edge's row, float32 (B, E). B x N x words never exists at once."""
    head: Any = bare(model).lm_head
    rows = max(1, logit_bytes // (4 * len(hidden) * head.out_features))
    found = []
    for first in range(0, hidden.shape[1], rows):
        # Edges are in row order, so those of a chunk are neighbours.
        start, stop = trie.edge_row.searchsorted([first, first + rows])
        row, token = (
            torch.from_numpy(array[start:stop]).to(hidden.device) for array in (trie.edge_row - first, trie.edge_token)
        )
        chunk = hidden[:, first : first + rows]
        if torch.is_grad_enabled():
            found.append(checkpoint(_predicted, head, chunk, row, token, use_reentrant=False))
        else:
            found.append(_predicted(head, chunk, row, token))
    return torch.cat(found, dim=1)


def _predicted(head: Any, states: Tensor, row: Tensor, token: Tensor) -> Tensor:  # noqa: ANN401
    """Log-probability (B, e) of `token[i]` after hidden state `row[i]` of (B, R, D)."""
    logits = _logits(head, states)
    return logits[:, row, token] - logits.logsumexp(-1)[:, row]


def _logits(head: Any, states: Tensor) -> Tensor:  # noqa: ANN401
    """Hidden states (B, R, D) -> float32 (B, R, W), also under autocast: bf16 has steps of an eighth at 16, so ties."""
    with torch.autocast(states.device.type, enabled=False):
        parts = [functional.linear(states.float(), weight.float()) for weight in head.weight.split(WORDS_AT_ONCE)]
    return torch.cat(parts, dim=-1)
