from __future__ import annotations

import math

import numpy as np
import pytest

from itscale.bench import laws
from itscale.bench.laws import compute_optimal, fit_coverage, fit_saturation
from itscale.bench.plan import plan_for
from itscale.bench.rows import Row
from itscale.budget import Usage
from itscale.errors import OptionError


def row(problem: str, method: str, n: int, *, correct: bool, tokens: int | None = None) -> Row:
    return Row(
        task="t", problem=problem, level=1, method=method, budget=n, seed=0, correct=correct,
        any_correct=correct, answer=None, stop_reason="done", error=None,
        usage=Usage(generated_tokens=10 * n if tokens is None else tokens),
    )  # fmt: skip


def test_the_power_law_is_found_again():
    """Success rates are drawn so that coverage is a power law in its exponent; the fit's interval holds
    both parameters, and its residuals are small."""
    rng = np.random.default_rng(3)
    rates = rng.beta(0.35, 1.2, 800)
    counts = [(256, int(right)) for right in rng.binomial(256, rates)]
    law = fit_coverage(counts)
    assert law.a.low < law.a.value < law.a.high < 0
    assert law.b.low < law.b.value < law.b.high < 0
    assert max(map(abs, law.residuals)) < 0.03
    exact = [float(np.mean(1 - (1 - rates) ** k)) for k in law.ks]
    assert law.measured == pytest.approx(exact, abs=0.04)
    assert law.samples_for(law.coverage(20.0)) == pytest.approx(20)


def test_coverage_close_to_one_does_not_bend_the_fit():
    """Where nearly all is solved, log(-log C) is nearly all noise: the fit follows the points it can see."""
    rng = np.random.default_rng(5)
    rates = rng.beta(1.5, 1.5, 200)
    law = fit_coverage([(64, int(right)) for right in rng.binomial(64, rates)])
    assert law.measured[-1] > 0.97
    assert max(map(abs, law.residuals)) < 0.04


def test_an_exact_power_law_has_no_residuals():
    """Where coverage is exp(a k^b) at every k the parameters come back."""
    ks = np.array([1, 2, 4, 8, 16])
    found = laws._line(ks, np.exp(-1.5 * ks**-0.4))
    assert found == pytest.approx((-1.5, -0.4))


def test_coverage_without_a_curve_is_refused():
    """Always or never solved, or one sample: nothing to fit."""
    for counts in ([(8, 8)] * 5, [(8, 0)] * 5, [(1, 1), (1, 0)], []):
        with pytest.raises(ValueError, match="no curve to fit"):
            fit_coverage(counts)


def test_saturation_is_found_and_its_point_is_where_gains_fall_below():
    """F_max 0.8 and p 0.3 come back from 2,000 problems, and N* is the first N whose next gain is small."""
    rng = np.random.default_rng(5)
    budgets = [1, 2, 4, 8, 16, 32]
    first = np.where(rng.random(2000) < 0.8, rng.geometric(0.3, 2000), 10**9)
    outcomes = np.stack([first <= n for n in budgets], axis=1).astype(float)
    law = fit_saturation(budgets, outcomes)
    assert law.ceiling.low <= 0.8 <= law.ceiling.high
    assert abs(law.rate.value - 0.3) < 0.03
    assert law.rate.low < law.rate.value < law.rate.high
    assert max(map(abs, law.residuals)) < 0.02
    star = law.saturated_at(0.01)
    gains = [law.accuracy(n + 1) - law.accuracy(n) for n in range(40)]
    assert star == next(n for n, gain in enumerate(gains) if gain < 0.01)
    with pytest.raises(ValueError, match="at least 2"):
        fit_saturation([4], outcomes[:, :1])


def hard_and_easy() -> list[Row]:
    """Easy problems: cheap is right. Hard ones: only the dear method is, at 100 tokens."""
    rows = []
    for i in range(100):
        easy = i % 2 == 0
        rows.append(row(str(i), "cheap", 1, correct=easy, tokens=10))
        rows.append(row(str(i), "dear", 1, correct=not easy, tokens=100))
    return rows


def test_choosing_by_difficulty_beats_one_choice_where_it_can():
    """Under 100 tokens each difficulty gets its own method and all are right; one for all gets half."""
    easiness = {str(i): float(i % 2 == 0) for i in range(100)}
    poor, rich = compute_optimal(hard_and_easy(), "tokens", easiness, limits=[5, 20, 100], bins=2)
    assert (poor.limit, rich.limit) == (20, 100)
    assert rich.by_difficulty == 1.0
    assert rich.one_for_all == 0.5
    assert [cell.method for cell in rich.choices] == ["cheap", "dear"]
    assert poor.by_difficulty == poor.one_for_all == 0.5


def test_choosing_among_noise_is_not_rewarded():
    """Thirty cells that all guess: on held-out problems the choice is worth a coin, not the best of 30."""
    rng = np.random.default_rng(11)
    rows = [
        row(str(i), f"m{j}", 1, correct=bool(rng.random() < 0.5), tokens=10)
        for i in range(200)
        for j in range(30)
    ]
    with pytest.raises(ValueError, match="9 problems are too few for 5 groups"):
        compute_optimal(rows, "tokens", {str(i): i / 200 for i in range(9)}, limits=[10])
    [found] = compute_optimal(rows, "tokens", {str(i): i / 200 for i in range(200)}, limits=[10])
    assert abs(found.by_difficulty - 0.5) < 0.1
    best = max(np.mean([r.correct for r in rows if r.method == f"m{j}"]) for j in range(30))
    assert best > 0.56


def rising(method: str, right: dict[int, int], tokens: int = 10) -> list[Row]:
    return [
        row(str(i), method, n, correct=i < k, tokens=n * tokens) for n, k in right.items() for i in range(100)
    ]


def test_the_plan_is_the_cheapest_that_reaches_the_target():
    """A line in log N from 50 at 4 to 90 at 16 is at 70 at N = 8, where 80 tokens are paid."""
    rows = (
        rising("good", {1: 30, 4: 50, 16: 90}) + rising("dear", {1: 80}, tokens=500) + rising("bad", {16: 60})
    )
    first, second, third = plan_for(rows, 0.7, "tokens")
    assert (first.cell.method, first.cell.budget, first.cost) == ("good", 8, pytest.approx(80))
    assert first.accuracy == pytest.approx(0.7)
    assert first.cost_low < 80 < first.cost_high < 160
    assert 0.35 < first.confidence < 0.75
    assert (second.cell.method, second.cell.budget, second.cost) == ("dear", 1, pytest.approx(500))
    assert second.confidence > 0.95
    assert (third.reaches, third.accuracy, third.cost_high) == (False, 0.6, math.inf)


def test_a_handful_of_problems_makes_nobody_sure():
    """Two of two right is little evidence for 80 %; a hundred of a hundred is enough."""
    [few] = plan_for([row(str(i), "m", 1, correct=True, tokens=9) for i in range(2)], 0.8, "tokens")
    assert few.reaches
    assert 0.4 < few.confidence < 0.7
    assert few.cost_high == math.inf
    [many] = plan_for(rising("m", {1: 100}), 0.8, "tokens")
    assert many.confidence == 1.0


def test_a_run_that_has_just_begun_is_no_plan():
    """Where no problem was run at every N a sentence says what to do; other methods are told all the same."""
    begun = [row("a", "m", 1, correct=True, tokens=9), row("b", "m", 4, correct=True, tokens=9)]
    with pytest.raises(OptionError, match="bench --resume"):
        plan_for(begun, 0.5, "tokens")
    assert [o.cell.method for o in plan_for([*begun, *rising("whole", {1: 60})], 0.5, "tokens")] == ["whole"]


def test_a_dip_is_not_a_reason_to_stop_earlier_or_pay_more():
    """Accuracy that falls at a larger N: the smaller one that reached the target stands."""
    [option] = plan_for(rising("m", {1: 40, 4: 80, 16: 70}), 0.8, "tokens")
    assert (option.reaches, option.cell.budget) == (True, 4)
    with pytest.raises(ValueError, match="target of 2"):
        plan_for(rising("m", {1: 40}), 2, "tokens")
