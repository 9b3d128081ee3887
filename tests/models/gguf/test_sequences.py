"""The account of sequences and cells, held against a cache that marks cells as llama.cpp does."""

from __future__ import annotations

import gc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from itscale.models.gguf.sequences import Held, Sequences
from itscale.types import Path, Prompt


class Cache:
    """Cells with the sequences that see them, position by position."""

    def __init__(self) -> None:
        self.cells: list[tuple[int, int, set[int]]] = []  # position, token, who sees it

    def store(self, held: Held, n: int) -> None:
        """The last n tokens of a sequence, as decoding stores them."""
        for position in range(len(held.tokens) - n, len(held.tokens)):
            self.cells.append((position, int(held.tokens[position]), {held.slot}))

    def fork(self, source: int, target: int, n: int) -> None:
        for position, _, seen in self.cells:
            if source in seen and position < n:
                seen.add(target)

    def drop(self, slot: int) -> None:
        for _, _, seen in self.cells:
            seen.discard(slot)
        self.cells = [cell for cell in self.cells if cell[2]]

    def content(self, slot: int) -> list[int]:
        return [token for _, token, seen in sorted(self.cells, key=lambda c: c[0]) if slot in seen]


def added(sequences: Sequences, cache: Cache, held: Held, tokens: list[int]) -> None:
    sequences.append(held, tokens)
    cache.store(held, len(tokens))


def test_a_fork_costs_no_cell_and_survives_its_source():
    """Cells are shared, counted once, and freed with the last sequence that sees them."""
    cache = Cache()
    sequences = Sequences(4, 16, cache.fork, cache.drop)
    first = sequences.fork(None, 0)
    added(sequences, cache, first, [1, 2, 3])
    second = sequences.fork(first, 2)
    added(sequences, cache, second, [9])
    assert sequences.n_used == 4
    sequences.release(first)
    assert sequences.n_used == 3
    assert cache.content(second.slot) == [1, 2, 9]
    sequences.release(second)
    assert sequences.n_used == 0
    assert cache.cells == []


def test_the_closest_is_the_longest_common_beginning():
    """Found whoever computed it, also when it is only a part of what is held."""
    sequences = Sequences(4, 32, lambda *_: None, lambda _: None)
    paths = [Path.root(Prompt.user("q")) for _ in range(2)]
    for path, tokens in zip(paths, ([1, 2, 3, 4], [1, 2, 5]), strict=True):
        held = sequences.fork(None, 0)
        sequences.append(held, tokens)
        sequences.hold(held, path)
    held, shared = sequences.closest([1, 2, 5, 6])
    assert (held.tokens.tolist(), shared) == ([1, 2, 5], 3)
    held, shared = sequences.closest([1, 2, 3])
    assert (held.tokens.tolist(), shared) == ([1, 2, 3, 4], 3)
    assert sequences.closest([7]) == (None, 0)


def test_a_dead_path_frees_its_sequence():
    """Nothing keeps what nobody can ask for."""
    sequences = Sequences(2, 8, lambda *_: None, lambda _: None)
    path = Path.root(Prompt.user("q"))
    held = sequences.fork(None, 0)
    sequences.append(held, [1, 2])
    sequences.hold(held, path)
    del path
    gc.collect()
    sequences.collect()
    assert (sequences.n_held, sequences.n_used) == (0, 0)


def test_room_is_made_by_giving_up_what_was_used_longest_ago_and_nobody_needs():
    """A sequence in use stays, whatever is asked for."""
    sequences = Sequences(3, 6, lambda *_: None, lambda _: None)
    paths = [Path.root(Prompt.user("q")) for _ in range(3)]
    held = []
    for i, path in enumerate(paths):
        held.append(sequences.fork(None, 0))
        sequences.append(held[i], [i, i])
        sequences.hold(held[i], path)
    held[0].users = 1
    assert sequences.fits(2)
    assert (held[1].tokens.tolist(), held[0].tokens.tolist()) == ([], [0, 0])
    assert not sequences.fits(6)
    assert sequences.n_used == 2
    assert sequences.fork(held[0], 1) is not None


@given(st.lists(st.tuples(st.sampled_from(["fork", "append", "release"]), st.integers(0, 9)), max_size=40))
def test_the_account_is_the_cache_s(actions: list[tuple[str, int]]):
    """After any forks, appends and releases both sides agree on every sequence and on what is free."""
    cache = Cache()
    sequences = Sequences(4, 24, cache.fork, cache.drop)
    alive: list[Held] = []
    for what, number in actions:
        chosen = alive[number % len(alive)] if alive else None
        if what == "fork" and len(alive) < 4:
            new = sequences.fork(chosen, min(number, len(chosen.tokens)) if chosen else 0)
            assert new is not None
            alive.append(new)
        elif what == "append" and chosen is not None and sequences.fits(2):
            added(sequences, cache, chosen, [number, number + 1])
        elif what == "release" and chosen is not None:
            sequences.release(chosen)
            alive.remove(chosen)
        assert sequences.n_used == len(cache.cells)
        for held in alive:
            assert cache.content(held.slot) == held.tokens.tolist()
            assert len(np.unique(held.cells)) == len(held.cells)
