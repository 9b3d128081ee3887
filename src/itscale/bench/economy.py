"""What accuracy costs: cost-of-pass and its frontier, Pareto front, anytime curves, effective N.

Cost-of-pass is the expected cost of one right answer, v = E[cost of an attempt] / P(right): Erol et
al. 2025, "Cost-of-Pass: An Economic Framework for Evaluating Language Models", arXiv 2504.13359. It
is a ratio of means, never the mean of ratios. Costs count every token charged, discarded ones
included, and failed runs cost what they cost and are not right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from itscale.bench.rows import CellKey, Row
from itscale.bench.statistics import CellSummary, clustered_interval
from itscale.budget import Usage

__all__ = [
    "COSTS",
    "Cost",
    "CostOfPass",
    "anytime_curve",
    "cost_of_pass",
    "effective_n",
    "frontier_cost_of_pass",
    "pareto_front",
]

Cost = Literal["tokens", "calls", "seconds", "dollars"]
COSTS: Mapping[Cost, Callable[[Usage], float]] = {
    "tokens": lambda usage: usage.generated_tokens,
    "calls": lambda usage: usage.model_calls,
    "seconds": lambda usage: usage.seconds,
    "dollars": lambda usage: usage.dollars,
}
"""What can be paid with. Seconds are wall time of runs that overlap; all others are what was charged."""
RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class CostOfPass:
    """The cost of one right answer, infinite where none is; 95 % bootstrap interval over problems."""

    value: float
    low: float
    high: float


def cost_of_pass(rows: Iterable[Row], cost: Cost, *, seed: int = 0) -> CostOfPass:
    """Mean cost of a run over the share of right ones, all rows together.

    Where every problem has the same share of right runs, none or all of them say, drawing problems again
    shows no doubt of it: the bounds are then the mean cost over those of the share (`clustered_interval`).

    Raises:
        ValueError: there are no rows.
    """
    spent: dict[str, float] = {}
    right: dict[str, list[bool]] = {}
    for row in rows:
        spent[row.problem] = spent.get(row.problem, 0.0) + COSTS[cost](row.usage)
        right.setdefault(row.problem, []).append(row.correct)
    if not spent:
        raise ValueError("the cost of no runs; give at least one row")
    costs, passes = np.array(list(spent.values())), np.array([sum(right[i]) for i in spent], dtype=float)
    value = _ratio(float(costs.sum()), float(passes.sum()))
    if len({sum(own) / len(own) for own in right.values()}) == 1:
        mean = float(costs.sum()) / sum(map(len, right.values()))
        least, most = clustered_interval(right)
        return CostOfPass(value, _ratio(mean, most), _ratio(mean, least))
    drawn = np.random.default_rng(seed).multinomial(
        len(costs), np.full(len(costs), 1 / len(costs)), RESAMPLES
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.nan_to_num(drawn @ costs / (drawn @ passes), nan=math.inf, posinf=math.inf)
    # An order statistic, not an interpolation: inf - inf is no number.
    low, high = np.quantile(ratios, [0.025, 0.975], method="nearest")
    return CostOfPass(value, float(low), float(high))


def frontier_cost_of_pass(rows: Sequence[Row], cost: Cost) -> tuple[float, dict[str, float]]:
    """The mean over problems of the cheapest cost-of-pass any cell reaches, and what each method adds.

    Pass rates of single problems are smoothed, (right + 1/2) / (runs + 1), since 0 of 1 is not never.
    What a method adds is its essentialness, 1 - V(all) / V(all but it): 0 where others are as cheap on
    every problem.

    Raises:
        ValueError: there are no rows.
    """
    values: dict[str, dict[str, float]] = {}
    grouped: dict[tuple[str, CellKey], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.problem, row.cell), []).append(row)
    if not grouped:
        raise ValueError("the frontier of no runs; give at least one row")
    for (problem, cell), own in grouped.items():
        smoothed = (sum(row.correct for row in own) + 0.5) / (len(own) + 1)
        value = math.fsum(COSTS[cost](row.usage) for row in own) / len(own) / smoothed
        best = values.setdefault(problem, {})
        best[cell.method] = min(value, best.get(cell.method, math.inf))
    whole = _frontier(values, None)
    methods = dict.fromkeys(cell.method for _, cell in grouped)
    added = {method: 1 - _ratio(whole, _frontier(values, method)) for method in methods}
    return whole, added


def _frontier(values: Mapping[str, Mapping[str, float]], without: str | None) -> float:
    each = [
        min((value for method, value in own.items() if method != without), default=math.inf)
        for own in values.values()
    ]
    return math.fsum(each) / len(each)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices, by cost, of the `(cost, accuracy)` points to which no other is both cheaper and better.

    >>> pareto_front([(1, 0.5), (2, 0.4), (3, 0.9), (3, 0.8)])
    [0, 2]
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def anytime_curve(rows: Iterable[Row], cost: Cost) -> list[tuple[float, float]]:
    """Accuracy against a limit on the cost of each problem, as the corners of a step function.

    Under a limit each problem is given its largest budget N whose run cost no more; a problem whose
    smallest run costs more is not answered, and wrong. So a limit binds as it would bind a user, and
    problems that are long leave the denominator of no point.
    """
    runs: dict[tuple[str, int], list[tuple[float, int, bool]]] = {}
    for row in rows:
        own = runs.setdefault((row.problem, row.seed), [])
        own.append((COSTS[cost](row.usage), row.budget, row.correct))
    changes: dict[float, int] = {}
    for own in runs.values():
        largest, was = 0, False
        for spent, budget, correct in sorted(own):
            if budget > largest:
                changes[spent] = changes.get(spent, 0) + correct - was
                largest, was = budget, correct
    curve, right = [], 0
    for limit in sorted(changes):
        right += changes[limit]
        curve.append((limit, right / len(runs)))
    return curve


def effective_n(cell: CellSummary, baseline: Sequence[CellSummary]) -> float | None:
    """How large N of the baseline is for the same accuracy, on its line over log N; inf beyond its best.

    None where the baseline starts better. The baseline is made monotone first: the best up to N.
    """
    points = sorted((s.budget, s.accuracy) for s in baseline if s.problems)
    best = 0.0
    rising: list[tuple[int, float]] = []
    for n, accuracy in points:
        best = max(best, accuracy)
        rising.append((n, best))
    if not rising or cell.accuracy < rising[0][1]:
        return None
    for (n, low), (m, high) in pairwise(rising):
        if low <= cell.accuracy <= high:
            share = (cell.accuracy - low) / (high - low) if high > low else 0.0
            return float(n * (m / n) ** share)
    return math.inf if cell.accuracy > best else float(rising[-1][0])


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.inf
