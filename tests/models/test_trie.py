"""The trie against a walk over plain nested dictionaries."""

import random

import numpy as np
import pytest

from slr.core.errors import UserError
from slr.models.trie import build_trie

END = 0


def random_sequences(count: int, seed: int) -> list[list[int]]:
    """Distinct glosses of 1-5 tokens from a small alphabet, so that many share prefixes or are prefixes of others."""
    rng = random.Random(seed)
    found: set[tuple[int, ...]] = set()
    while len(found) < count:
        found.add(tuple(rng.randrange(1, 12) for _ in range(rng.randint(1, 5))))
    chosen = [[*sequence, END] for sequence in found]
    rng.shuffle(chosen)
    return chosen


def tokens_before(trie, row: int) -> list[int]:
    """Walk up from a row by parents alone."""
    node, tokens = row - 1, []
    while node >= 0:
        tokens.append(int(trie.token[node]))
        node = int(trie.parent[node])
    return tokens[::-1]


@pytest.mark.parametrize("seed", range(3))
def test_every_gloss_reads_its_own_tokens_after_its_own_prefix(seed):
    sequences = random_sequences(300, seed)
    trie = build_trie(sequences)
    for path, sequence in zip(trie.path, sequences, strict=True):
        edges = [edge for edge in path if edge < len(trie.edge_row)]
        assert [int(trie.edge_token[edge]) for edge in edges] == sequence
        assert [tokens_before(trie, trie.edge_row[edge]) for edge in edges] == [
            sequence[:i] for i in range(len(sequence))
        ]


def test_nodes_are_those_of_a_nested_dictionary_without_its_leaves():
    sequences = random_sequences(200, 3)
    root: dict = {}
    for sequence in sequences:
        level = root
        for token in sequence:
            level = level.setdefault(token, {})

    def inner(level: dict) -> int:
        return sum(1 + inner(below) for below in level.values() if below)

    def edges(level: dict) -> int:
        return sum(1 + edges(below) for below in level.values())

    trie = build_trie(sequences)
    assert len(trie.token) == inner(root)
    assert len(trie.edge_row) == edges(root)
    assert END not in trie.token


def test_a_node_sees_itself_and_its_way_up_only():
    trie = build_trie(random_sequences(120, 4))
    for node in range(len(trie.token)):
        way, above = {node}, int(trie.parent[node])
        while above >= 0:
            assert above < node  # depth-first: a parent stands first
            way.add(above)
            above = int(trie.parent[above])
        assert set(np.flatnonzero(trie.ancestors[node])) == way
        assert trie.depth[node] == len(way) - 1


@pytest.mark.parametrize(("limit", "at_once"), [(1, 1), (7, 7), (7, 30), (50, 100), (1000, 1000)])
def test_stretches_hold_every_node_once_as_new_with_its_whole_way_up(limit, at_once):
    trie = build_trie(random_sequences(120, 6))
    found = []
    for part in trie.stretches(limit, at_once):
        assert len(part.new) <= at_once
        nodes = part.nodes.flatten()
        found += nodes[part.new].tolist()
        for place in part.new:
            stretch, row = divmod(int(place), part.nodes.shape[1])
            way, above = [], int(nodes[place])
            while above >= 0:
                way.append(above)
                above = int(trie.parent[above])
            assert sorted(part.nodes[stretch][part.seen[stretch, row]].tolist()) == sorted(way)  # none twice
        assert max(np.bincount(part.new // part.nodes.shape[1])) <= limit
    assert found == list(range(len(trie.token)))


def test_edges_are_in_row_order():
    trie = build_trie(random_sequences(120, 5))
    assert (np.diff(trie.edge_row) >= 0).all()


def test_glosses_of_one_token_and_of_none_but_the_end():
    trie = build_trie([[3, END], [END]])
    assert trie.token.tolist() == [3]
    assert trie.edge_row.tolist() == [0, 0, 1]
    assert trie.ancestors.tolist() == [[True]]
    alone = build_trie([[END]])
    assert alone.token.shape == (0,)
    assert alone.ancestors.shape == (0, 0)


def test_two_glosses_with_one_sequence_are_refused_by_name():
    with pytest.raises(UserError, match=r"'book'.*'livre'") as error:
        build_trie([[1, END], [2, END], [1, END]], ["book", "tree", "livre"])
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="number 0 and number 2"):
        build_trie([[1, END], [2, END], [1, END]])


@pytest.mark.parametrize("nothing", [[], [[]], [[1], []]])
def test_nothing_to_rank_is_a_mistake_of_the_caller(nothing):
    with pytest.raises(ValueError, match="at least one"):
        build_trie(nothing)
