"""The prefix tree of a vocabulary's tokens, laid out as arrays for one pass of the language model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from slr.core.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Stretches:
    """S stretches of a trie's nodes side by side, each with the ancestors of its nodes."""

    nodes: np.ndarray  # int64 (S, n), ascending; shorter stretches are padded with 0
    seen: (
        np.ndarray
    )  # bool (S, n, n), True at [s, i, j] if node j is node i or an ancestor of it; False for all padding
    new: np.ndarray  # int64, ascending; the places of S x n with nodes that no earlier stretch had, in their order


@dataclass(frozen=True, slots=True, eq=False)
class Trie:
    """Inner nodes of the prefix tree of K token sequences, and where each sequence reads its log-probabilities.

    A node is a proper, non-empty prefix of a sequence. What follows the last token of a sequence is never needed, so
    leaves (end tokens) have no node. Nodes are in depth-first order: a parent comes before its children and a subtree
    is contiguous. *Row* 0 is the prompt's last position, row n + 1 is node n: each row predicts a next token.
    """

    token: np.ndarray  # int64 (N,), the token that a node feeds to the model
    parent: np.ndarray  # int64 (N,), index of the node before it; -1 if that is the prompt
    depth: np.ndarray  # int64 (N,), number of tokens between the prompt and the node: 0 for a first token
    ancestors: np.ndarray  # bool (N, N), True at [n, m] if node m is node n or an ancestor of it
    edge_row: np.ndarray  # int64 (E,), ascending; the row at which the edge's token is predicted
    edge_token: np.ndarray  # int64 (E,), the predicted token; every (row, token) once, however many sequences share it
    path: np.ndarray  # int64 (K, longest), the edges of each sequence; short ones are padded with E, past the last edge

    def stretches(self, limit: int, at_once: int) -> Iterator[Stretches]:
        """All nodes in order, cut into nearly equal stretches, several side by side.

        Args:
            limit: new nodes in one stretch, at least 1.
            at_once: new nodes in all stretches side by side, at least `limit`.

        >>> [two] = build_trie([[5, 6, 0], [5, 7, 0], [8, 0]]).stretches(2, 4)
        >>> two.nodes.tolist(), two.new.tolist()
        ([[0, 1, 0], [0, 2, 3]], [0, 1, 4, 5])
        """
        if not len(self.token):
            return
        number = -(-len(self.token) // limit)
        even = -(-len(self.token) // number)
        stretches = [self._with_ancestors(first, even) for first in range(0, len(self.token), even)]
        for first in range(0, len(stretches), at_once // even):
            yield self._beside(stretches[first : first + at_once // even])

    def _with_ancestors(self, first: int, length: int) -> tuple[np.ndarray, int]:
        """Nodes from `first` on after their earlier ancestors, which are those of `first`; and the number of these."""
        above = np.flatnonzero(self.ancestors[first, :first])
        return np.concatenate([above, np.arange(first, min(first + length, len(self.token)))]), len(above)

    def _beside(self, stretches: Sequence[tuple[np.ndarray, int]]) -> Stretches:
        longest = max(len(nodes) for nodes, _ in stretches)
        side = np.zeros((len(stretches), longest), dtype=np.int64)
        seen = np.zeros((len(stretches), longest, longest), dtype=bool)
        new = []
        for number, (nodes, repeated) in enumerate(stretches):
            side[number, : len(nodes)] = nodes
            seen[number, : len(nodes), : len(nodes)] = self.ancestors[np.ix_(nodes, nodes)]
            new.append(number * longest + np.arange(repeated, len(nodes)))
        return Stretches(side, seen, np.concatenate(new))


def build_trie(sequences: Sequence[Sequence[int]], glosses: Sequence[str] | None = None) -> Trie:
    """Share the prefixes of K token sequences, end tokens included, between one another.

    Args:
        sequences: the tokens of each gloss with its end token, which separates a gloss from longer ones.
        glosses: the K names for the error message; without them it gives numbers.

    Raises:
        UserError: two sequences are equal, so that no model can tell their glosses apart.
        ValueError: there is no sequence, or an empty one.

    >>> trie = build_trie([[5, 0], [5, 6, 0], [7, 0]])    # 0 ends a gloss; the first is a prefix of the second
    >>> trie.token.tolist(), trie.parent.tolist(), trie.depth.tolist()
    ([5, 6, 7], [-1, 0, -1], [0, 1, 0])
    >>> trie.ancestors.astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    >>> list(zip(trie.edge_row.tolist(), trie.edge_token.tolist()))
    [(0, 5), (0, 7), (1, 0), (1, 6), (2, 0), (3, 0)]
    >>> trie.path.tolist()                                # 6 is padding
    [[0, 2, 6], [0, 3, 4], [1, 5, 6]]
    """
    whole = [tuple(sequence) for sequence in sequences]
    if not whole or not all(whole):
        raise ValueError("build_trie needs at least one sequence, and none of them empty")
    _refuse_duplicates(whole, glosses)

    # Sorted prefixes are the tree in depth-first order.
    nodes = sorted({sequence[:length] for sequence in whole for length in range(1, len(sequence))})
    row = {(): 0} | {prefix: index + 1 for index, prefix in enumerate(nodes)}
    parent = np.array([row[prefix[:-1]] - 1 for prefix in nodes], dtype=np.int64)

    steps = [[(row[sequence[:i]], token) for i, token in enumerate(sequence)] for sequence in whole]
    edges = sorted({edge for step in steps for edge in step})
    number = {edge: index for index, edge in enumerate(edges)}
    path = np.full((len(whole), max(map(len, whole))), len(edges), dtype=np.int64)
    for k, step in enumerate(steps):
        path[k, : len(step)] = [number[edge] for edge in step]

    return Trie(
        token=np.array([prefix[-1] for prefix in nodes], dtype=np.int64),
        parent=parent,
        depth=np.array([len(prefix) - 1 for prefix in nodes], dtype=np.int64),
        ancestors=_ancestors(parent),
        edge_row=np.array([row for row, _ in edges], dtype=np.int64),
        edge_token=np.array([token for _, token in edges], dtype=np.int64),
        path=path,
    )


def _refuse_duplicates(sequences: list[tuple[int, ...]], glosses: Sequence[str] | None) -> None:
    first: dict[tuple[int, ...], int] = {}
    for k, sequence in enumerate(sequences):
        if (earlier := first.setdefault(sequence, k)) != k:
            both = " and ".join(f"{glosses[i]!r}" if glosses else f"number {i}" for i in (earlier, k))
            raise UserError(
                f"expected glosses that the tokenizer can tell apart, found {both} with the same tokens "
                f"{list(sequence)}; rename or remove one of them"
            )


def _ancestors(parent: np.ndarray) -> np.ndarray:
    seen = np.eye(len(parent), dtype=bool)
    for node, above in enumerate(parent):  # parents come first, so theirs is complete
        if above >= 0:
            seen[node] |= seen[above]
    return seen
