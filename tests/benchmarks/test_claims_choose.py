"""Claims that choose among a pool choose as the methods do; shares of PETS are those of smaller budgets."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from benchmarks.claims import best_of_majority as claim
from benchmarks.claims.flaws import labelled
from benchmarks.claims.pets import spent
from benchmarks.claims.self_evaluation import stopped
from itscale.allocation import PetsOffline
from itscale.bench.resampling import Forecast
from itscale.budget import Budget
from itscale.methods import BestOfMajority, BestOfN, Majority
from itscale.scorers.base import OutcomeScorer
from itscale.types import Prompt
from tests.methods.test_stopping_promises import Stream

METHODS = {
    "best-of-n": BestOfN(),
    "majority": Majority(),
    "best-of-majority": BestOfMajority(alpha=claim.ALPHA),
}


class ByNumber(OutcomeScorer):
    """The score of sample i, which the stream writes as its token."""

    name = "by number"

    def __init__(self, scores):
        self.scores = scores

    async def score(self, path, ledger):
        return float(self.scores[path.token_ids[0]])


@pytest.mark.parametrize("name", METHODS)
def test_a_choice_from_the_pool_is_the_method_s(name):
    """Fifty streams of 20 samples with random scores: the answer handed in is the same."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        answers = tuple(map(str, rng.choice(5, 20, p=rng.dirichlet([0.7] * 5))))
        scores = rng.normal(size=20)
        run = METHODS[name].run(
            Prompt.user("q"), Stream(answers), ByNumber(scores), Budget(generations=20), 0
        )
        assert asyncio.run(run).answer == answers[claim.METHODS[name](answers, scores)]


def test_a_smaller_budget_is_a_beginning_of_a_larger_one():
    """PETS does not look at what is left, so one pass tells the shares of all budgets."""
    rng = np.random.default_rng(1)
    answers = [list(map(str, rng.choice(4, 30))) for _ in range(6)]
    rule = PetsOffline(in_flight=1)
    assert spent(rule, answers, [12, 40]) == [spent(rule, answers, [12])[0], spent(rule, answers, [40])[0]]
    assert [sum(own) for own in spent(rule, answers, [12, 40])] == [12, 40]


def test_self_evaluation_stops_at_the_first_score_that_is_high_enough():
    """And returns the best of those seen; without one it has seen all."""
    used, chosen = stopped(np.array([[0.2, 0.9, 0.95], [0.3, 0.1, 0.2]]), 0.8)
    assert used.tolist() == [2, 3]
    assert chosen.tolist() == [1, 0]


def test_labelled_samples_keep_their_questions():
    """Right and accepted, sample by sample."""
    samples = labelled(np.array([[True, False], [False, False]]), np.array([[True, True], [False, True]]))
    assert samples == [[(True, True), (False, True)], [(False, False), (False, True)]]
    assert Forecast(samples).rates() == (0.25, 1.0, pytest.approx(2 / 3))
