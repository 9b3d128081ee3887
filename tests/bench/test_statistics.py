from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itscale.bench.statistics import paired_difference, summarise, wilson_interval
from itscale.bench.store import Row
from itscale.budget import Usage


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_the_published_one(successes: int, trials: int, low: float, high: float):
    """Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3."""
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_interval_holds_the_share_and_mirrors(successes: int, failures: int):
    """It lies within [0, 1], contains the share, and that of the failures is its mirror image."""
    trials = successes + failures
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= high <= 1
    if trials:
        assert low <= successes / trials <= high
        mirrored = wilson_interval(failures, trials)
        assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


def test_nothing_tried_means_nothing_known():
    """Without trials every share is possible."""
    assert wilson_interval(0, 0) == (0.0, 1.0)


def _row(problem: str, *, correct: bool, error: str | None = None, **usage: int) -> Row:
    return Row(
        problem=problem,
        level=1,
        method="majority",
        budget=4,
        seed=0,
        correct=correct,
        any_correct=correct,
        answer=None,
        stop_reason=None if error else "done",
        error=error,
        usage=Usage(**usage),
    )


def test_a_failure_stays_in_the_denominator():
    """Two right, one wrong and one failed run are 50 %, not two thirds."""
    rows = [
        _row("a", correct=True),
        _row("b", correct=True),
        _row("c", correct=False),
        _row("d", correct=False, error="AllFailedError: gone"),
    ]
    [cell] = summarise(rows, [("majority", 4)], task="coins", level=1, seed=0)
    assert (cell.problems, cell.accuracy, cell.failures) == (4, 0.5, 1)
    assert (cell.ci_low, cell.ci_high) == wilson_interval(2, 4)


def test_costs_are_sums_over_problems():
    """Tokens and calls of a cell are added up; `per_problem` gives the mean."""
    rows = [
        _row("a", correct=True, generated_tokens=10, model_calls=4),
        _row("b", correct=False, generated_tokens=30, model_calls=4, scorer_tokens=7),
    ]
    [cell] = summarise(rows, [("majority", 4)], task="coins", level=1, seed=0)
    assert (cell.generated_tokens, cell.model_calls, cell.scorer_tokens) == (40, 8, 7)
    assert cell.per_problem(cell.generated_tokens) == 20


def test_rows_of_other_cells_are_left_out_and_empty_cells_kept():
    """A summary is of the cells asked for, whatever else the rows hold."""
    cells = [("beam", 4), ("majority", 4)]
    beam, majority = summarise([_row("a", correct=True)], cells, task="coins", level=1, seed=0)
    assert (beam.problems, beam.accuracy, majority.problems) == (0, 0.0, 1)
    assert summarise([_row("a", correct=True)], [], task="coins", level=1, seed=0) == []


def test_mcnemar_is_the_exact_binomial_test():
    """Nine problems only the first solves and one only the second: 2 (1 + 10) / 2^10."""
    first = {str(i): i < 9 for i in range(12)} | {"both": True}
    second = {str(i): i == 9 for i in range(12)} | {"both": True}
    paired = paired_difference(first, second)
    assert (paired.only_first, paired.only_second, paired.problems) == (9, 1, 13)
    assert paired.p_value == 22 / 1024
    assert paired.difference == pytest.approx(8 / 13)
    assert paired_difference(second, first).p_value == paired.p_value


def test_methods_that_never_differ_are_not_told_apart():
    """No disputed problem: p is 1; problems only one of them has do not count."""
    paired = paired_difference({"a": True, "only mine": False}, {"a": True, "only yours": True})
    assert (paired.p_value, paired.problems, paired.difference) == (1.0, 1, 0.0)
