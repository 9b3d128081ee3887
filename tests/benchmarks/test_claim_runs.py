"""What the claims on search compute from their runs."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest

from benchmarks.claims.runs import Runs, Sharpened, better, smallest_budget
from itscale.budget import Budget, Ledger
from itscale.scorers.fake import FakeProcessScorer
from itscale.types import End, Path, Prompt, Step


def runs(n: int, right: list[float]) -> Runs:
    """Runs of which only N and outcomes matter."""
    outcomes = np.array(right)
    return Runs("any", n, outcomes, outcomes, outcomes)


def test_the_smallest_budget_is_read_between_the_points_of_a_curve():
    """Halfway between 25 % at N = 4 and 75 % at N = 16 lies N = 8, in log N."""
    curve = [runs(4, [1, 0, 0, 0]), runs(16, [1, 1, 1, 0])]
    assert smallest_budget(curve, np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(8.0)
    assert smallest_budget(curve, np.array([1.0, 0.0, 0.0, 0.0])) == 4.0
    assert smallest_budget(curve, np.ones(4)) == math.inf


def test_a_resample_moves_both_sides():
    """Drawn questions count on the curve and on the goal alike."""
    curve = [runs(1, [1, 0]), runs(2, [1, 1])]
    goal = np.array([1.0, 1.0])
    assert smallest_budget(curve, goal) == pytest.approx(2.0)
    assert smallest_budget(curve, goal, np.array([0, 0])) == 1.0


def test_differences_are_paired():
    """Two methods right on different halves differ by nothing; one ahead everywhere by everything."""
    assert better(runs(1, [1, 0] * 50), runs(1, [0, 1] * 50)).value == 0
    assert better(runs(1, [1] * 40), runs(1, [0] * 40)).low == 1


def test_a_sharpened_scorer_keeps_the_order_and_multiplies_the_odds():
    """Over-confident, and otherwise the same judge."""
    path = Path.root(Prompt.user("q")).child(Step((0,), "a", End.EOS))
    scorer = FakeProcessScorer(lambda ids: 0.8)
    [score] = asyncio.run(Sharpened(scorer, 3.0).score(path, Ledger(Budget())))
    assert math.log(score / (1 - score)) == pytest.approx(3 * math.log(4))
