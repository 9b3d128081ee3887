from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itscale.bench.economy import (
    anytime_curve,
    cost_of_pass,
    effective_n,
    frontier_cost_of_pass,
    pareto_front,
)
from itscale.bench.rows import Row
from itscale.bench.statistics import cells_of, summarise, wilson_interval
from itscale.budget import Usage


def row(problem: str, method: str, n: int, tokens: int, *, correct: bool, seed: int = 0) -> Row:
    return Row(
        task="t", problem=problem, level=1, method=method, budget=n, seed=seed, correct=correct,
        any_correct=correct, answer=None, stop_reason="done", error=None,
        usage=Usage(generated_tokens=tokens, model_calls=n, seconds=tokens / 100),
    )  # fmt: skip


def test_cost_of_pass_is_a_ratio_of_means():
    """A quarter right at 40 tokens each: 160 tokens a right answer (the card's example), failures paid."""
    rows = [row(str(i), "m", 1, 40, correct=i % 4 == 0) for i in range(200)]
    found = cost_of_pass(rows, "tokens")
    assert found.value == 160
    assert 125 < found.low < 160 < found.high < 220
    uneven = [row("a", "m", 1, 10, correct=True), row("b", "m", 1, 90, correct=False)]
    assert cost_of_pass(uneven, "tokens").value == 100  # the mean of ratios would be infinite


def test_never_right_is_infinitely_dear():
    """And where few are right the interval reaches infinity, without a warning."""
    assert cost_of_pass([row("a", "m", 1, 10, correct=False)], "tokens").value == math.inf
    few = [row(str(i), "m", 1, 10, correct=i == 0) for i in range(5)]
    assert cost_of_pass(few, "tokens").high == math.inf
    with pytest.raises(ValueError, match="no runs"):
        cost_of_pass([], "tokens")


@pytest.mark.parametrize("n", [1, 5, 200])
def test_none_or_all_right_is_not_certain(n: int):
    """0 of n may be up to Wilson's bound, so the cost has a finite lower one; n of n may be less than all."""
    none, every = (
        cost_of_pass([row(str(i), "m", 1, 40, correct=right) for i in range(n)], "tokens")
        for right in (False, True)
    )
    assert (none.value, none.high) == (math.inf, math.inf)
    assert none.low == pytest.approx(40 / wilson_interval(0, n)[1])
    assert (every.value, every.low) == (40, 40)
    assert every.high == pytest.approx(40 / wilson_interval(n, n)[0])


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=6))
def test_the_frontier_never_rises_with_another_method(runs: list[tuple[int, bool]]):
    """More to choose from is never dearer, and what a method adds is a share from 0 to 1."""
    one = [row(str(i), "one", 1, 20, correct=i % 2 == 0) for i in range(len(runs))]
    other = [row(str(i), "other", 1, tokens, correct=right) for i, (tokens, right) in enumerate(runs)]
    alone, _ = frontier_cost_of_pass(one, "tokens")
    both, added = frontier_cost_of_pass(one + other, "tokens")
    assert both <= alone
    assert added["other"] == pytest.approx(1 - both / alone)
    assert all(-1e-9 <= share <= 1 for share in added.values())


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int]]):
    """Every point off the front is beaten or equalled by one on it; those on it beat each other nowhere."""
    front = [points[i] for i in pareto_front(points)]
    assert front == sorted(front)
    for cost, accuracy in points:
        assert any(c <= cost and a >= accuracy for c, a in front)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(front))


def test_a_limit_gives_each_problem_the_largest_run_it_can_pay():
    """Problem a is right from 10 tokens on, b from 40; N = 4 makes a wrong again at 30."""
    rows = [
        row("a", "m", 1, 10, correct=True), row("a", "m", 4, 30, correct=False),
        row("b", "m", 1, 12, correct=False), row("b", "m", 4, 40, correct=True),
    ]  # fmt: skip
    assert anytime_curve(rows, "tokens") == [(10, 0.5), (12, 0.5), (30, 0.0), (40, 0.5)]


def test_a_larger_budget_that_cost_less_is_taken_as_soon_as_it_can_be_paid():
    """N = 16 stopped early at 20 tokens: from there on it is the answer, whatever N = 4 took."""
    rows = [
        row("a", "m", 1, 10, correct=False), row("a", "m", 4, 50, correct=False),
        row("a", "m", 16, 20, correct=True),
    ]  # fmt: skip
    assert anytime_curve(rows, "tokens") == [(10, 0.0), (20, 1.0)]


def test_the_end_of_a_curve_is_the_accuracy_of_the_largest_budget():
    """Without a binding limit nothing is lost from the denominator."""
    rows = [row(str(i), "m", n, n * (10 + i), correct=(i + n) % 3 > 0) for i in range(9) for n in (1, 4, 16)]
    largest = [r.correct for r in rows if r.budget == 16]
    assert anytime_curve(rows, "tokens")[-1] == (16 * 18, sum(largest) / 9)


def test_effective_n_is_read_off_the_baseline():
    """Half way up in accuracy is half way along log N; infinite beyond the best, nothing below the first."""
    right = {1: 2, 4: 4, 16: 8}
    rows = [row(str(i), "majority", n, n, correct=i < k) for n, k in right.items() for i in range(10)]
    rows += [
        row(str(i), m, 4, 4, correct=i < k)
        for m, k in (("six", 6), ("nine", 9), ("one", 1), ("four", 4))
        for i in range(10)
    ]
    summaries = summarise(rows, cells_of(rows))
    baseline = [s for s in summaries if s.method == "majority"]
    by_name = {s.method: effective_n(s, baseline) for s in summaries}
    assert by_name["six"] == pytest.approx(8.0)
    assert by_name["four"] == pytest.approx(4.0)
    assert by_name["nine"] == math.inf
    assert by_name["one"] is None
