"""The session's verbs for trees: counts by path, greedy steps, and calls that may all fail."""

from __future__ import annotations

import asyncio

import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import AllFailedError
from itscale.events import Trace
from itscale.methods.session import Session
from itscale.models.fake import FakeModel
from itscale.randomness import Seeded
from itscale.types import Sampling
from tests.methods.trees import PROMPT, TREE


def session_of(model: FakeModel, max_tokens: int = 64) -> Session:
    """A session by itself."""
    return Session(PROMPT, model, None, Ledger(Budget()), Seeded(0), Trace(), Sampling(), max_tokens)


def test_each_path_gets_its_own_number_of_children():
    """One call a path, children in the order of the paths."""

    async def counts() -> list[int]:
        session = session_of(FakeModel(TREE))
        [first] = await session.extend([session.root], 30)
        growing = [path for path in first if session.can_grow(path)][:3]
        return [len(children) for children in await session.extend(growing, [1, 4, 2])]

    assert asyncio.run(counts()) == [1, 4, 2]


def test_a_greedy_step_is_the_likeliest_whatever_the_temperature():
    """All of twenty greedy steps agree, where twenty sampled ones do not."""

    async def texts(greedy: bool) -> set[str]:
        session = session_of(FakeModel(TREE))
        groups = await session.extend([session.root] * 20, greedy=greedy)
        return {path.text for group in groups for path in group}

    assert asyncio.run(texts(True)) == {"a|"}
    assert len(asyncio.run(texts(False))) > 1


def test_calls_that_are_not_required_may_all_fail():
    """Then no path has a child; required, the same is an error."""

    async def extend(required: bool) -> list:
        session = session_of(FakeModel(TREE, fail=lambda call: True))
        return await session.extend([session.root, session.root], required=required)

    assert asyncio.run(extend(False)) == [[], []]
    with pytest.raises(AllFailedError, match="failed as told"):
        asyncio.run(extend(True))


def test_a_path_that_ended_or_has_no_tokens_left_cannot_grow():
    """An open path with tokens left can."""

    async def by_text() -> dict[str, bool]:
        session = session_of(FakeModel(TREE), max_tokens=2)
        [first] = await session.extend([session.root], 20)
        [second] = await session.extend([next(path for path in first if path.text == "b|")], 20)
        return {path.text: session.can_grow(path) for path in [*first, *second]}

    can_grow = asyncio.run(by_text())
    assert [can_grow[text] for text in ("a|", "b|", "x", "b|a|")] == [True, True, False, False]
