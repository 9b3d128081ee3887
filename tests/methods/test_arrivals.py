"""Samples that are still running when no more are wanted: cancelled upstream, and charged exactly."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter

import pytest

from itscale.budget import Budget
from itscale.errors import AllFailedError
from itscale.events import Pruned
from itscale.methods import AdaptiveConsistency, Majority, ShortMAtK
from itscale.methods.arrivals import Arrivals
from itscale.models.fake import FakeModel
from itscale.testing import enumerate_law
from itscale.types import Prompt

PROMPT = Prompt.user("count")
END = {"$": 1.0}


class InTurn(FakeModel):
    """Call i takes `lengths[i]` tokens in all to say `answers[i]`, one turn of the loop each."""

    def __init__(self, lengths, answers):
        super().__init__({(): END})
        self.lengths, self.answers = lengths, answers

    async def extend(self, path, n, until, sampling, rng, ledger):
        call, self.calls = self.calls, self.calls + 1
        length, answer = self.lengths[call], f"\nAnswer: {self.answers[call]}"

        def next_token(prefix):
            return {"t" if len(prefix) < length - 2 else answer if len(prefix) == length - 2 else "$": 1.0}

        one = FakeModel(next_token, vocabulary=["t", answer, "$"], latency_s=1.0)
        self.running += 1
        try:
            return await one.extend(path, n, until, sampling, rng, ledger)
        finally:
            self.running -= 1
            self.tokens_generated += one.tokens_generated


REAL_SLEEP = asyncio.sleep


@pytest.fixture(autouse=True)
def _sleep(monkeypatch):
    """A token takes one turn of the event loop, so that speed is exact."""
    monkeypatch.setattr("itscale.models.fake.asyncio.sleep", lambda _: REAL_SLEEP(0))


def run(method, model, n, **limits):
    return asyncio.run(method.run(PROMPT, model, None, Budget(generations=n, **limits)))


@pytest.mark.parametrize(("m", "expected"), [(1, 80 * 5), (3, 830), (5, 1210)])
def test_short_m_at_k_pays_what_the_formula_says(m, expected):
    """Lengths 80, 120, 210, 300, 500 in any order: sum of the first m plus (k - m) times the m-th.

    The news that the m-th has arrived takes turns of the loop, in which others draw a few tokens more.
    """
    for lengths in ((300, 80, 500, 120, 210), (80, 120, 210, 300, 500)):
        model = InTurn(lengths, "abcde")
        result = run(ShortMAtK(m=m), model, 5)
        assert len(result.candidates) == m
        assert sorted(c.path.n_tokens for c in result.candidates) == sorted(lengths)[:m]
        assert result.usage.generated_tokens == model.tokens_generated
        assert expected <= model.tokens_generated <= expected + 6 * (5 - m)
        assert result.usage.discarded_tokens == model.tokens_generated - sum(sorted(lengths)[:m])
        assert model.running == 0
        assert model.calls == result.usage.model_calls == 5


def test_the_shortest_chain_breaks_a_tie():
    """Two votes each: the answer whose shortest chain is shortest, and that chain, wins."""
    result = run(ShortMAtK(m=4), InTurn((9, 8, 5, 30), "abba"), 4)
    assert (result.answer, result.candidates[result.chosen].path.n_tokens) == ("b", 5)
    result = run(ShortMAtK(m=1), InTurn((9, 8, 5, 30), "abcd"), 4)
    assert result.answer == "c"


def test_short_m_at_k_law_with_lengths():
    """Exact law of the majority of the m shortest, ties to the shortest, then the first."""
    texts = {"\nAnswer: 1": (0.3, 1), "x\nAnswer: 2": (0.3, 2), "xy\nAnswer: 1": (0.4, 3)}
    table = {
        (): {"\nAnswer: 1": 0.3, "x": 0.7},
        ("x",): {"\nAnswer: 2": 3 / 7, "y": 4 / 7},
        ("x", "y"): {"\nAnswer: 1": 1.0},
        ("\nAnswer: 1",): END,
        ("x", "\nAnswer: 2"): END,
        ("x", "y", "\nAnswer: 1"): END,
    }

    async def one(rng):
        model = FakeModel(table, latency_s=1.0)
        return (await ShortMAtK(m=2).run(PROMPT, model, None, Budget(generations=3), rng)).text

    expected: Counter = Counter()
    for drawn in itertools.product(texts, repeat=3):
        first = sorted(range(3), key=lambda i: (texts[drawn[i]][1], i))[:2]
        votes = Counter(drawn[i][-1] for i in first)
        shortest = {a: min((texts[drawn[i]][1], i) for i in first if drawn[i][-1] == a) for a in votes}
        winner = min(votes, key=lambda a: (-votes[a], shortest[a]))
        expected[drawn[shortest[winner][1]]] += math.prod(texts[text][0] for text in drawn)
    assert enumerate_law(one) == pytest.approx(dict(expected))


def test_early_stop_cancels_what_cannot_change_the_answer():
    """Three of five agree: the two long ones are cancelled and charged for what they had.

    Candidates are in the order of their seeds, not of arrival.
    """
    model = InTurn((10, 200, 12, 300, 11), "axaya")
    result = run(Majority(early_stop=True), model, 5)
    assert result.answer == "a"
    assert [c.path.n_tokens for c in result.candidates] == [10, 12, 11]
    assert result.usage.generated_tokens == model.tokens_generated <= 33 + 2 * (12 + 6)
    assert model.running == 0


def test_early_stop_waits_while_a_tie_is_possible():
    """Two of four are no safe lead: the tie goes to the answer of the earliest seed, which still runs."""
    result = run(Majority(early_stop=True), InTurn((50, 10, 11, 51), "baab"), 4)
    assert len(result.candidates) == 4
    assert result.answer == "b"


def test_adaptive_consistency_does_not_depend_on_speed():
    """Whatever order samples arrive in, they are looked at in that of their seeds."""
    answers = "abaaaaab"
    results = [
        run(AdaptiveConsistency(confidence=0.8), InTurn(lengths, answers), 8)
        for lengths in ([9] * 8, [50, 40, 30, 20, 10, 9, 8, 7], [7, 60, 9, 50, 8, 40, 7, 30])
    ]
    assert {"".join(c.answer for c in result.candidates) for result in results} == {"abaa"}
    assert {result.usage.model_calls for result in results} == {4}


def test_what_arrives_together_and_is_not_wanted_is_pruned():
    """Finished in the same turn as the last wanted one: paid for, no candidate, in the trace."""
    result = run(ShortMAtK(m=1), InTurn((5, 5, 90), "abc"), 3)
    assert [c.answer for c in result.candidates] == ["a"]
    assert [len(event.paths) for event in result.trace.events if isinstance(event, Pruned)] == [1]


def test_a_failed_sample_costs_one_candidate():
    """The others go on; when all fail the error is typed."""
    table = {(): {"Answer: 1": 1.0}, ("Answer: 1",): END}
    model = FakeModel(table, fail=lambda call: call == 0)
    result = run(AdaptiveConsistency(), model, 8)
    assert (result.answer, len(result.candidates), result.usage.failed_calls) == ("1", 4, 1)
    with pytest.raises(AllFailedError):
        run(ShortMAtK(), FakeModel(table, fail=lambda call: True), 3)


def test_a_cancelled_run_cancels_its_samples():
    """Nothing keeps running behind the back of somebody who has left."""
    model = InTurn((500, 500), "ab")

    async def leave():
        task = asyncio.ensure_future(ShortMAtK().run(PROMPT, model, None, Budget(generations=2)))
        for _ in range(20):
            await REAL_SLEEP(0)
        running = model.running
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return running

    assert asyncio.run(leave()) == 2
    assert model.running == 0


def test_arrivals_of_one_turn_come_lowest_number_first():
    """Whatever waits longer comes later; cancelling gives back those nobody took."""

    async def collect():
        async def call(i):
            await REAL_SLEEP(0 if i < 3 else 60)
            return i

        arrivals = Arrivals(call)
        arrivals.start(4)
        first = [await arrivals.next(), await arrivals.next()]
        return first, await arrivals.cancel(), arrivals.waiting

    assert asyncio.run(collect()) == ([0, 1], [2], False)
