"""What to run for an accuracy, and what it will cost, read off a finished run.

Between the budgets that were measured accuracy is taken as linear in log N, after it has been made
monotone (the best up to N: more may be bought and not used). Beyond the largest nothing is promised. The
uncertainty is that of the problems: every figure is computed again on sets of as many, drawn from them
and two made-up ones, one always right and one never. (Without these a handful of problems that were all
right would be right in every set, and the plan called sure; with hundreds they do not show.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from itscale.bench.economy import COSTS, Cost
from itscale.bench.rows import CellKey, Row
from itscale.bench.statistics import cells_of
from itscale.errors import OptionError

__all__ = ["Option", "plan_for"]

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Option:
    """One method's way to a target accuracy."""

    cell: CellKey
    """The method at the smallest whole N that is expected to reach it; at its best N if none is."""
    reaches: bool
    accuracy: float
    """Expected at that N."""
    cost: float
    """Expected mean cost of a problem there."""
    cost_low: float
    cost_high: float
    """95 % of what reaching the target cost on resampled problems; infinite where some did not reach it."""
    confidence: float
    """Share of resampled sets of problems on which this very N reaches the target."""


def plan_for(rows: Sequence[Row], target: float, cost: Cost, *, seed: int = 0) -> list[Option]:
    """Every method's option, those that reach the target first, cheapest first.

    Raises:
        ValueError: there are no rows, or the target is no share between 0 and 1.
        OptionError: no problem has a run at every N of any method.
    """
    if not rows or not 0 < target <= 1:
        raise ValueError(
            f"{len(rows)} rows and a target of {target}; give rows, and a share above 0 and at most 1"
        )
    groups: dict[tuple[object, str], list[CellKey]] = {}
    for cell in cells_of(rows):
        groups.setdefault((cell.context, cell.method), []).append(cell)
    tables = [(cells, _tables(rows, cells, cost)) for cells in groups.values()]
    options = [_option(cells, *table, target, seed) for cells, table in tables if table is not None]
    if not options:
        raise OptionError(
            "no method has been run on one problem at all its N; go on with itscale bench --resume"
        )
    return sorted(options, key=lambda o: (not o.reaches, o.cost if o.reaches else -o.accuracy))


def _option(
    cells: Sequence[CellKey], right: np.ndarray, spent: np.ndarray, target: float, seed: int
) -> Option:
    """What `right` and `spent`, both (problems, cells), say of one method."""
    n = np.log([cell.budget for cell in cells])
    accuracies, costs = right.mean(axis=0), spent.mean(axis=0)
    log_n = _reached(n, np.maximum.accumulate(accuracies), target)
    if math.isinf(log_n):
        best = int(accuracies.argmax())
        return Option(
            cells[best], False, float(accuracies[best]), float(costs[best]), math.inf, math.inf, 0.0
        )
    whole = math.ceil(math.exp(log_n) - 1e-9)
    at = math.log(whole)
    needed, hits = [], 0
    rng = np.random.default_rng(seed)
    ends = np.array([[1.0], [0.0]]) * np.ones(len(cells))
    pool, paid = np.concatenate([right, ends]), np.concatenate([spent, [costs, costs]])
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(pool), len(right))
        rising = np.maximum.accumulate(pool[drawn].mean(axis=0))
        hits += _between(n, rising, at) >= target - 1e-12
        again = _reached(n, rising, target)
        needed.append(math.inf if math.isinf(again) else _cost_at(n, paid[drawn].mean(axis=0), again))
    low, high = np.quantile(np.array(needed), [0.025, 0.975], method="nearest")
    return Option(
        cells[0]._replace(budget=whole),
        True,
        _between(n, np.maximum.accumulate(accuracies), at),
        _cost_at(n, costs, at),
        float(low),
        float(high),
        hits / RESAMPLES,
    )


def _tables(
    rows: Sequence[Row], cells: Sequence[CellKey], cost: Cost
) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean correctness and cost, (problems, cells), of the problems that every cell has run, if any."""
    sums: dict[str, dict[CellKey, list[tuple[bool, float]]]] = {}
    wanted = set(cells)
    for row in rows:
        if row.cell in wanted:
            sums.setdefault(row.problem, {}).setdefault(row.cell, []).append(
                (row.correct, COSTS[cost](row.usage))
            )
    whole = [own for own in sums.values() if len(own) == len(cells)]
    if not whole:
        return None
    means = np.array([[np.mean(own[cell], axis=0) for cell in cells] for own in whole])
    return means[:, :, 0], means[:, :, 1]


def _reached(log_n: np.ndarray, rising: np.ndarray, target: float) -> float:
    """The log N at which a rising line reaches the target; inf if it never does."""
    if rising[-1] < target - 1e-12:
        return math.inf
    i = int(np.argmax(rising >= target - 1e-12))
    if i == 0:
        return float(log_n[0])
    share = (target - rising[i - 1]) / (rising[i] - rising[i - 1])
    return float(log_n[i - 1] + min(1.0, share) * (log_n[i] - log_n[i - 1]))


def _between(log_n: np.ndarray, values: np.ndarray, at: float) -> float:
    return float(np.interp(at, log_n, values))


def _cost_at(log_n: np.ndarray, costs: np.ndarray, at: float) -> float:
    """Costs grow by a power of N between two budgets; where one is 0, linearly."""
    if (costs > 0).all():
        return math.exp(float(np.interp(at, log_n, np.log(costs))))
    return _between(log_n, costs, at)
