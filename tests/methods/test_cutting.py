"""Paths cut anywhere, and split in more steps."""

from __future__ import annotations

import asyncio

import pytest

from itscale.budget import Budget, Ledger
from itscale.methods.cutting import cut_path, split_at
from itscale.models.fake import FakeModel
from itscale.randomness import Seeded
from itscale.types import End, Path, Sampling, Until
from tests.methods.trees import PROMPT, TREE, wordy


def whole_path(model: FakeModel, seed: int = 0, max_tokens: int = 64) -> Path:
    """A sampled answer."""
    call = model.extend(
        Path.root(PROMPT), 1, Until("end", max_tokens), Sampling(), Seeded(seed), Ledger(Budget())
    )
    return asyncio.run(call)[0]


def test_a_cut_is_the_beginning_with_what_is_known_of_it():
    """Every length: the first tokens, their text, their statistics; nothing that says it ended."""
    model = FakeModel(TREE)
    for path in (whole_path(model, seed) for seed in range(6)):
        for n in range(path.n_tokens + 1):
            part = cut_path(model, path, n)
            assert part.token_ids == path.token_ids[:n]
            assert path.text.startswith(part.text)
            assert not part.ended
            told = [x for step in part.steps for x in step.token_entropies]
            assert told == [x for step in path.steps for x in step.token_entropies][:n]
    assert cut_path(model, path, path.n_tokens).step.end is End.BOUNDARY


def test_only_a_part_of_a_step_is_forced():
    """A whole step that length ended was generated and stays so; a part was generated elsewhere."""
    model = wordy()
    path = whole_path(model, max_tokens=6)
    assert path.truncated
    assert not cut_path(model, path, 6).step.forced
    assert cut_path(model, path, 4).step.forced


def test_a_split_path_says_the_same():
    """More steps, the same tokens and text, the same end, log-probabilities that add up."""
    model = wordy()
    path = whole_path(model)
    parts = {}
    for n in (2, 5, 9):
        part = cut_path(model, path, n)
        parts[part.token_ids] = part.text
    split = split_at(path, {**parts, (4, 4): "not on this path"})
    assert [step.n_tokens for step in split.steps] == [2, 3, 4, path.n_tokens - 9]
    assert (split.token_ids, split.text, split.finished) == (path.token_ids, path.text, True)
    assert sum(step.logprob for step in split.steps) == pytest.approx(path.step.logprob)
