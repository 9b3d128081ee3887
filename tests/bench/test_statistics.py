from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itscale.bench.paired import compare, holm, paired_difference
from itscale.bench.rows import CellKey, Row
from itscale.bench.statistics import cells_of, clustered_interval, summarise, wilson_interval
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
        task="coins",
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
    [cell] = summarise(rows, [CellKey("coins", 1, "", "", "majority", 4)])
    assert (cell.problems, cell.accuracy, cell.failures) == (4, 0.5, 1)
    assert (cell.ci_low, cell.ci_high) == wilson_interval(2, 4)


def test_costs_are_sums_over_problems():
    """Tokens and calls of a cell are added up; `per_problem` gives the mean."""
    rows = [
        _row("a", correct=True, generated_tokens=10, model_calls=4),
        _row("b", correct=False, generated_tokens=30, model_calls=4, scorer_tokens=7),
    ]
    [cell] = summarise(rows, [CellKey("coins", 1, "", "", "majority", 4)])
    assert (cell.generated_tokens, cell.model_calls, cell.scorer_tokens) == (40, 8, 7)
    assert cell.per_problem(cell.generated_tokens) == 20


def test_rows_of_other_cells_are_left_out_and_empty_cells_kept():
    """A summary is of the cells asked for, whatever else the rows hold."""
    cells = [CellKey("coins", 1, "", "", method, 4) for method in ("beam", "majority")]
    beam, majority = summarise([_row("a", correct=True)], cells)
    assert (beam.problems, beam.accuracy, majority.problems) == (0, 0.0, 1)
    assert summarise([_row("a", correct=True)], []) == []


def test_mcnemar_is_the_exact_binomial_test():
    """Nine problems only the first solves and one only the second: 2 (1 + 10) / 2^10."""
    first = {str(i): i < 9 for i in range(12)} | {"both": True}
    second = {str(i): i == 9 for i in range(12)} | {"both": True}
    paired = paired_difference(first, second)
    assert (paired.only_first, paired.only_second, paired.problems) == (9, 1, 13)
    assert paired.p_value == 22 / 1024
    assert paired.difference == pytest.approx(8 / 13)
    assert paired_difference(second, first).p_value == paired.p_value


def test_mcnemar_of_thousands_of_disputes():
    """As many as a large benchmark has; an even split is no difference, a lopsided one is beyond doubt."""
    ids = [str(i) for i in range(2400)]
    even = {i: k % 2 == 0 for k, i in enumerate(ids)}
    assert paired_difference(even, {i: not right for i, right in even.items()}).p_value == 1.0
    most = dict.fromkeys(ids, True) | {"0": False}
    assert 0 <= paired_difference(most, {i: not right for i, right in most.items()}).p_value < 1e-300


def test_methods_that_never_differ_are_not_told_apart():
    """No disputed problem: p is 1; problems only one of them has do not count."""
    paired = paired_difference({"a": True, "only mine": False}, {"a": True, "only yours": True})
    assert (paired.p_value, paired.problems, paired.difference) == (1.0, 1, 0.0)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 6))
def test_more_seeds_that_say_the_same_are_not_more_problems(outcomes: list[bool], seeds: int):
    """Runs that repeat their problem's outcome give the interval of the problems alone."""
    repeated = {str(i): [right] * seeds for i, right in enumerate(outcomes)}
    assert clustered_interval(repeated) == pytest.approx(wilson_interval(sum(outcomes), len(outcomes)))


def test_seeds_that_are_independent_count_as_runs():
    """Where problems do not differ at all, five seeds are worth five times the problems, nearly."""
    rng = np.random.default_rng(0)
    draws = {str(i): list(map(bool, row)) for i, row in enumerate(rng.random((200, 5)) < 0.4)}
    low, high = clustered_interval(draws)
    best_low, best_high = wilson_interval(sum(map(sum, draws.values())), 1000)
    assert best_high - best_low <= high - low < 1.15 * (best_high - best_low)


def test_problems_with_unequally_many_runs_are_worth_fewer():
    """Two problems of fifty runs, one always right, the other never, and eight of one run: about two."""
    uneven = {"a": [True] * 50, "b": [False] * 50} | {str(i): [i % 2 == 0] for i in range(8)}
    (low, high), (least, most) = clustered_interval(uneven), wilson_interval(1, 2)
    assert (low, high) == pytest.approx((least, most), abs=0.03)


def test_the_clustered_interval_covers_and_the_naive_one_does_not():
    """Problems of very different difficulty, five seeds each: 95 % promised, at least 93 % kept.

    2,000 studies of a fixed seed, so nothing is flaky; Wilson's on all runs covers under 80 %.
    """
    rng = np.random.default_rng(7)
    covered, naive, studies = 0, 0, 2000
    for _ in range(studies):
        right = rng.random((60, 5)) < rng.beta(0.5, 0.5, 60)[:, None]
        low, high = clustered_interval({str(i): row.tolist() for i, row in enumerate(right)})
        covered += low <= 0.5 <= high
        low, high = wilson_interval(int(right.sum()), 300)
        naive += low <= 0.5 <= high
    assert covered / studies > 0.93
    assert naive / studies < 0.8


def test_cells_are_those_of_the_rows():
    """In the order methods first appear, budgets ascending, one context after the other."""
    rows = [_row("a", correct=True), _row("b", correct=True)]
    assert cells_of(rows) == [CellKey("coins", 1, "", "", "majority", 4)]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_order_and_never_helps(p_values: list[float]):
    """Corrected values keep the order, are no smaller, and no larger than Bonferroni's."""
    corrected = holm(p_values)
    for (p, c), (q, d) in product(zip(p_values, corrected, strict=True), repeat=2):
        assert p <= c <= min(1.0, len(p_values) * p) + 1e-12
        assert not (p < q and c > d)


def _runs(method: str, outcomes: list[list[bool]]) -> list[Row]:
    rows = []
    for i, own in enumerate(outcomes):
        for seed, right in enumerate(own):
            row = _row(str(i), correct=right)
            rows.append(Row.from_json(row.to_json() | {"method": method, "seed": seed}))
    return rows


def test_comparisons_are_corrected_together():
    """Two tests of p = 2 / 2^8 and 1: the family of two doubles the smaller."""
    rows = _runs("a", [[True]] * 8) + _runs("b", [[False]] * 8) + _runs("c", [[True]] * 8)
    a, b, c = cells_of(rows)
    first, second = compare(rows, [(a, b), (a, c)])
    assert (first.paired.p_value, first.p_holm) == (2 / 2**8, 4 / 2**8)
    assert (second.paired.p_value, second.p_holm) == (1.0, 1.0)
    assert first.paired.difference == 1.0
    assert 0.4 < first.ci_low < first.ci_high == 1.0
    assert second.ci_low == pytest.approx(-second.ci_high)
    assert second.ci_high > 0.1  # eight problems without a difference do not prove there is none


def test_the_unit_of_a_comparison_is_the_problem():
    """Ten seeds on three problems stay three problems: the smallest p is 2 / 2^3, not 2 / 2^30."""
    rows = _runs("a", [[True] * 10] * 3) + _runs("b", [[False] * 10] * 3)
    [found] = compare(rows, [tuple(cells_of(rows))])
    assert found.paired.problems == 3
    assert found.paired.p_value == 0.25


def test_sign_flips_with_one_seed_are_mcnemar():
    """Both tests are the same sum over sign patterns where every problem has two equal seeds."""
    outcomes = [True] * 9 + [False] + [True] * 2
    rows = _runs("a", [[right] * 2 for right in outcomes]) + _runs(
        "b", [[not right if i < 10 else right] * 2 for i, right in enumerate(outcomes)]
    )
    [found] = compare(rows, [tuple(cells_of(rows))])
    assert found.paired.p_value == pytest.approx(22 / 1024)
