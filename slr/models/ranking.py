"""The exact probability of every gloss of a vocabulary: one pass over the prompt, one over the trie.

The nodes of the trie are fed as one sequence after the cached prompt. Each attends to the prompt and its own ancestors
only, at the position that it would have if its gloss alone followed the prompt, so it computes what that gloss alone
would (tree attention, SpecInfer, arXiv 2305.09781). If there are more nodes than the prompt has tokens, they are cut
into stretches that do not attend to one another, as further rows of the batch: otherwise attention would spend most of
its time on nodes that the mask then hides.

Axes: B clips, V features of a clip, L tokens of the prompt, K glosses, N trie nodes, S stretches of n nodes, E trie
edges, D hidden width.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from slr.models.internvl import Model, bare, embed, positions
from slr.models.trie import Trie

# What a pass over the trie takes at once, so that its memory grows neither with clips nor with the vocabulary:
LOGIT_BYTES = 32 * 2**20  # of float32 logits, at least those of one row for all clips and `WORDS_AT_ONCE` words
ROWS_AT_ONCE = 4096  # trie nodes of all clips besides the ancestors of each stretch, at least one for each clip
WORDS_AT_ONCE = 2**14  # words whose weights are made float32 together
LEAST_STRETCH = 64  # nodes; many short stretches cost more than they save


class RankOutput(NamedTuple):
    """A model's ranking of some clips.

    A gloss's probability is that of all its tokens and its end token after the clip's prompt, over all words of the
    tokenizer, never renormalised.
    """

    log_probability: Tensor  # float32 (B, K), natural logarithms
    state: Tensor  # float32 (B, D), the last hidden state of the prompt's last token, which predicts the answer


@torch.no_grad()
def look(model: Model, features: Tensor, prompt_ids: Tensor, attention_mask: Tensor, trie: Trie) -> RankOutput:
    """Rank every gloss for each clip.

    Args:
        features: (B, V, D) from `encode_frames` or a cache.
        prompt_ids: int64 (B, L), padded on the left, so that every prompt ends in the last column.
        attention_mask: (B, L), 0 where padding is.
        trie: of the K glosses, from `build_trie`.

    Raises:
        ValueError: padding on the right, or a model in training mode, where dropout would make the ranking random.
    """
    if bare(model).model.language_model.training:
        raise ValueError("expected a model in evaluation mode; call model.eval() before ranking")
    _require_left_padding(attention_mask)
    hidden = _cached_states(model, features, prompt_ids, attention_mask, trie)
    edges = _edge_log_probabilities(model, hidden, trie, LOGIT_BYTES)
    return RankOutput(_along_paths(edges, trie), hidden[:, 0].float())


def sequence_log_probabilities(
    model: Model, features: Tensor, prompt_ids: Tensor, attention_mask: Tensor, trie: Trie, logit_bytes: int
) -> Tensor:
    """Log-probabilities (B, K) as of `look`, with a graph and in any mode, for a closed-set objective.

    Prompt and trie go through the model as one sequence, because layers cannot be checkpointed with a cache; logits are
    computed again in the backward pass, so that `logit_bytes` bounds them there too.
    """
    _require_left_padding(attention_mask)
    hidden = _uncached_states(model, features, prompt_ids, attention_mask, trie)
    return _along_paths(_edge_log_probabilities(model, hidden, trie, logit_bytes), trie)


def _require_left_padding(attention_mask: Tensor) -> None:
    if not bool(attention_mask[:, -1].all()):
        raise ValueError("expected prompts padded on the left: the last column must be no padding")


def _along_paths(edges: Tensor, trie: Trie) -> Tensor:
    """Log-probabilities of edges (B, E) summed along each gloss's path: (B, K)."""
    padded = torch.cat([edges, edges.new_zeros(len(edges), 1)], dim=1)  # the padding of a short path adds nothing
    return padded[:, torch.from_numpy(trie.path).to(edges.device)].sum(-1)


def _cached_states(model: Model, features: Tensor, prompt_ids: Tensor, attention_mask: Tensor, trie: Trie) -> Tensor:
    """Hidden states (B, 1 + N, D) that predict a token: the prompt's last, then one for each trie node."""
    language: Any = bare(model).model.language_model
    clips, length = prompt_ids.shape
    prompt = language(
        inputs_embeds=embed(model, features, prompt_ids),
        attention_mask=attention_mask,
        position_ids=positions(attention_mask),
        use_cache=True,
    )
    word = "cache" if "cache" in prompt else "past_key_values"  # renamed in transformers 5.24
    hidden = [prompt.last_hidden_state[:, -1:]]
    for layer in prompt[word].layers:  # otherwise it would keep the nodes, and not know about stretches
        layer.update = partial(_after, layer.keys, layer.values)
    at_once = max(1, ROWS_AT_ONCE // clips)
    for stretches in trie.stretches(min(at_once, max(length, LEAST_STRETCH)), at_once):
        embedded, places, seen = _nodes(model, attention_mask, trie, stretches.nodes, stretches.seen)
        states = language(
            inputs_embeds=embedded.flatten(0, 1),
            attention_mask=seen.flatten(0, 1),
            position_ids=places.flatten(0, 1),
            **{word: prompt[word]},
            use_cache=True,
        ).last_hidden_state
        new = torch.from_numpy(stretches.new).to(states.device)
        hidden.append(states.reshape(clips, -1, states.shape[-1])[:, new])
    return torch.cat(hidden, dim=1)


def _after(
    prompt_keys: Tensor, prompt_values: Tensor, keys: Tensor, values: Tensor, *_: object, **__: object
) -> tuple[Tensor, Tensor]:
    """What a layer of the cache gives to attention: the prompt's keys and values, then the new ones, not kept."""
    return _behind(prompt_keys, keys), _behind(prompt_values, values)


def _behind(prompt: Tensor, new: Tensor) -> Tensor:
    """(B, heads, L, d) and (B x S, heads, n, d) -> (B x S, heads, L + n, d): each stretch after its clip's prompt."""
    beside = new.unflatten(0, (len(prompt), -1))
    return torch.cat([prompt.unsqueeze(1).expand(-1, beside.shape[1], -1, -1, -1), beside], dim=3).flatten(0, 1)


def _uncached_states(model: Model, features: Tensor, prompt_ids: Tensor, attention_mask: Tensor, trie: Trie) -> Tensor:
    """As `_cached_states`, from one pass over prompt and trie as one sequence."""
    language: Any = bare(model).model.language_model
    clips, length = prompt_ids.shape
    every = np.arange(len(trie.token))[np.newaxis]
    embedded, places, nodes_see = (
        part.squeeze(1) for part in _nodes(model, attention_mask, trie, every, trie.ancestors[np.newaxis])
    )
    earlier = torch.ones(length, length, dtype=torch.bool, device=prompt_ids.device).tril()
    seen = (earlier & attention_mask.bool().unsqueeze(1)).unsqueeze(1)  # (B, 1, L, L)
    lowest = torch.finfo(embedded.dtype).min
    prompts_see = embedded.new_full((clips, 1, length, nodes_see.shape[3]), lowest)  # of the nodes none
    prompts_see[..., :length].masked_fill_(seen, 0)
    states = language(
        inputs_embeds=torch.cat([embed(model, features, prompt_ids), embedded], dim=1),
        attention_mask=torch.cat([prompts_see, nodes_see], dim=2),
        position_ids=torch.cat([positions(attention_mask), places], dim=1),
        use_cache=False,
    ).last_hidden_state
    return states[:, length - 1 :]


def _nodes(
    model: Model, attention_mask: Tensor, trie: Trie, nodes: NDArray[np.int64], seen: NDArray[np.bool_]
) -> tuple[Tensor, Tensor, Tensor]:
    """The input for nodes (S, n) after each prompt, which attend to one another as `seen` (S, n, n) says.

    Returns:
        Embeddings (B, S, n, D), positions (B, S, n), and what is added to attention's scores, the same for all heads,
        (B, S, 1, n, L + n): 0 if a node attends to a token or node, else the lowest number.
    """
    clips, length = attention_mask.shape
    token, depth, among = (
        torch.from_numpy(array).to(attention_mask.device) for array in (trie.token[nodes], trie.depth[nodes], seen)
    )
    embedded = bare(model).model.get_input_embeddings()(token).expand(clips, -1, -1, -1)
    places = attention_mask.long().sum(1).view(clips, 1, 1) + depth
    added = embedded.new_zeros(clips, *seen.shape[:2], length + seen.shape[2])
    lowest = torch.finfo(added.dtype).min
    added[..., :length].masked_fill_(attention_mask.view(clips, 1, 1, length) == 0, lowest)
    added[..., length:].masked_fill_(~among, lowest)
    return embedded, places, added.unsqueeze(2)


def _edge_log_probabilities(model: Model, hidden: Tensor, trie: Trie, logit_bytes: int) -> Tensor:
    """Log-probability of each edge's token at the edge's row, float32 (B, E). B x N x words never exists at once.

    Words are the outer loop, so that their weights become float32 once.
    """
    head: Any = bare(model).lm_head
    words = min(head.out_features, WORDS_AT_ONCE)
    rows = max(1, logit_bytes // (2 * 4 * len(hidden) * words))  # logits, and as much again for their exponentials
    edges, logits = [], []
    mass = hidden.new_full(hidden.shape[:2], -torch.inf, dtype=torch.float32)  # of the words so far, a logarithm
    for first in range(0, head.out_features, words):
        weight = head.weight[first : first + words].float()
        masses = []
        for row in range(0, hidden.shape[1], rows):
            # Edges are in row order, so those of a chunk are neighbours.
            start, stop = trie.edge_row.searchsorted([row, row + rows])
            token = trie.edge_token[start:stop] - first
            asked = np.flatnonzero((token >= 0) & (token < len(weight)))
            edges.append(start + asked)
            places = tuple(
                torch.from_numpy(place).to(hidden.device)
                for place in (trie.edge_row[start:stop][asked] - row, token[asked])
            )
            part, chosen = _mass_and_logits(weight, hidden[:, row : row + rows], places)
            masses.append(part)
            logits.append(chosen)
        mass = torch.logaddexp(mass, torch.cat(masses, dim=1))
    in_order, edge_row = (
        torch.from_numpy(index).to(hidden.device) for index in (np.concatenate(edges).argsort(), trie.edge_row)
    )
    return torch.cat(logits, dim=1)[:, in_order] - mass[:, edge_row]


def _mass_and_logits(weight: Tensor, states: Tensor, places: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Logarithm of the words' summed exponentials after each state (B, R); logits (B, e) at `places`, (row, word)."""

    def compute(weight: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        logits = _logits(weight, states)
        return logits.logsumexp(-1), logits[:, *places]

    if torch.is_grad_enabled():
        return checkpoint(compute, weight, states, use_reentrant=False)  # pyright: ignore[reportReturnType]
    return compute(weight, states)


def _logits(weight: Tensor, states: Tensor) -> Tensor:
    """Hidden states (B, R, D) -> float32 (B, R, W), also under autocast: bf16 has steps of an eighth at 16, so ties."""
    with torch.autocast(states.device.type, enabled=False):
        return functional.linear(states.float(), weight)
