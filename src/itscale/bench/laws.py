"""Laws of scaling, fitted to a run: how coverage grows, where it stops, what to run on what is hard.

    coverage     C(k) = exp(a k^b), a, b < 0        Brown et al. 2024, arXiv 2407.21787
    saturation   F(N) = F_max (1 - (1 - p)^N)       the probabilistic model of TTSPM, arXiv 2505.20522

Both are fits, not laws of nature. Intervals are from a bootstrap over problems; residuals come with
every fit, to be looked at. Coverage is the unbiased pass@k of the samples, never the plug-in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from itscale.bench.economy import COSTS, Cost
from itscale.bench.rows import CellKey, Row
from itscale.bench.statistics import pass_at_k

__all__ = [
    "ComputeOptimal",
    "CoverageLaw",
    "Interval",
    "Saturation",
    "compute_optimal",
    "fit_coverage",
    "fit_saturation",
]

RESAMPLES = 200
LOGITS = np.linspace(-9.0, 9.0, 1801)
"""Of p, among which the fit of a saturation chooses: p to 1 %."""
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CoverageLaw:
    """log C(k) = a k^b."""

    a: Interval
    b: Interval
    ks: tuple[int, ...]
    measured: tuple[float, ...]
    residuals: tuple[float, ...]
    """Measured less fitted coverage, at each k."""

    def coverage(self, k: float) -> float:
        """Fitted share of problems solved by any of k samples."""
        return math.exp(self.a.value * k**self.b.value)

    def samples_for(self, coverage: float) -> float:
        """The k at which the fit reaches a coverage: an extrapolation beyond the largest of `ks`."""
        return math.exp(math.log(math.log(coverage) / self.a.value) / self.b.value)


def fit_coverage(counts: Sequence[tuple[int, int]], *, seed: int = 0) -> CoverageLaw:
    """Least squares on log(-log C) at about 12 log-spaced k, from `(samples, right)` of each problem.

    Each point counts by how surely it is known: where C is close to 1 a small error in it is a large one
    in log(-log C), by the delta method sqrt(C (1 - C)) / |C log C|.

    Raises:
        ValueError: fewer than two k between never and always solved; there is nothing to fit.
    """
    most = min((samples for samples, _ in counts), default=0)
    ks = np.unique(np.geomspace(1, max(1, most), 12).round().astype(int))
    each = np.array([[pass_at_k(samples, right, int(k)) for k in ks] for samples, right in counts])
    fitted = _line(ks, each.mean(axis=0)) if most else None
    if fitted is None:
        raise ValueError(
            "coverage is 0 or 1 at all but one k, so there is no curve to fit; "
            "give samples of harder or easier problems"
        )
    a, b = fitted
    again = [line for rows in _resampled(each, seed) if (line := _line(ks, rows.mean(axis=0)))]
    measured = each.mean(axis=0)
    return CoverageLaw(
        a=_interval(a, [line[0] for line in again]),
        b=_interval(b, [line[1] for line in again]),
        ks=tuple(map(int, ks)),
        measured=tuple(map(float, measured)),
        residuals=tuple(float(m - math.exp(a * k**b)) for k, m in zip(ks, measured, strict=True)),
    )


def _line(ks: np.ndarray, coverage: np.ndarray) -> tuple[float, float] | None:
    inside = (coverage > 0) & (coverage < 1)
    if inside.sum() < 2:
        return None
    c = coverage[inside]
    sureness = np.abs(c * np.log(c)) / np.sqrt(c * (1 - c))
    slope, intercept = np.polyfit(np.log(ks[inside]), np.log(-np.log(c)), 1, w=sureness)
    return -math.exp(float(intercept)), float(slope)


@dataclass(frozen=True, slots=True)
class Saturation:
    """F(N) = F_max (1 - (1 - p)^N): how accuracy grows with N, and where it stops."""

    ceiling: Interval
    """F_max."""
    rate: Interval
    """p, of one more sample solving what can be solved."""
    residuals: tuple[float, ...]

    def accuracy(self, n: float) -> float:
        """Fitted accuracy at N."""
        return self.ceiling.value * (1 - math.pow(1 - self.rate.value, n))

    def saturated_at(self, gain: float) -> int:
        """The N* from which one more sample gains less than `gain`: F_max p (1 - p)^N < gain."""
        first = self.ceiling.value * self.rate.value
        if first <= gain:
            return 0
        if self.rate.value >= 1:
            return 1
        return max(0, math.floor(math.log(gain / first) / math.log1p(-self.rate.value)) + 1)


def fit_saturation(budgets: Sequence[int], outcomes: np.ndarray, *, seed: int = 0) -> Saturation:
    """Least squares of mean accuracy on N. `outcomes` is (problems, budgets), linear, 0 to 1.

    Raises:
        ValueError: fewer than two budgets.
    """
    if len(budgets) < 2:
        raise ValueError(f"{len(budgets)} budgets do not show where growth stops; give at least 2")
    n = np.array(budgets, dtype=float)
    means = [outcomes.mean(axis=0), *(rows.mean(axis=0) for rows in _resampled(outcomes, seed))]
    ceilings, rates = (found.tolist() for found in _saturation(n, np.array(means)))
    ceiling, rate = ceilings[0], rates[0]
    fitted = ceiling * (1 - (1 - rate) ** n)
    return Saturation(
        ceiling=_interval(ceiling, ceilings[1:]),
        rate=_interval(rate, rates[1:]),
        residuals=tuple(map(float, outcomes.mean(axis=0) - fitted)),
    )


def _saturation(n: np.ndarray, accuracies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F_max and p for each row of `accuracies` (sets, budgets): on a grid of p, for which F_max is linear."""
    rates = 1 / (1 + np.exp(-LOGITS))
    growth = 1 - (1 - rates)[:, None] ** n
    square, product = (growth**2).sum(axis=1), accuracies @ growth.T
    ceilings = np.minimum(1.0, product / square)
    best = (ceilings**2 * square - 2 * ceilings * product).argmin(axis=1)
    return ceilings[np.arange(len(best)), best], rates[best]


@dataclass(frozen=True, slots=True)
class ComputeOptimal:
    """Choosing by difficulty against one choice for all, at a limit on the mean cost of a problem."""

    limit: float
    by_difficulty: float
    """Accuracy on held-out problems when each difficulty has its own cell."""
    one_for_all: float
    """The same when one cell serves all."""
    choices: tuple[CellKey, ...]
    """The cell chosen for each group on all problems, easiest first."""


def compute_optimal(
    rows: Sequence[Row], cost: Cost, easiness: Mapping[str, float], *, limits: Sequence[float], bins: int = 5
) -> list[ComputeOptimal]:
    """The best cell for each difficulty under each limit, cross-validated over problems.

    Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally", arXiv 2408.03314, section 3: problems in
    groups of equal size by difficulty, the cell chosen on some folds and judged on the others, so that
    choosing among many cells is not rewarded for luck. Difficulty itself is taken as known (their oracle
    bins, here from `easiness`), so what is gained is the most that a predictor of difficulty could.

    Raises:
        ValueError: fewer than two problems a group, so that nothing is left to choose by.
    """
    problems = sorted(easiness, key=lambda p: (-easiness[p], p))
    if len(problems) < 2 * bins:
        raise ValueError(
            f"{len(problems)} problems are too few for {bins} groups; give {2 * bins}, or fewer bins"
        )
    cells = list(dict.fromkeys(row.cell for row in rows))
    where, place = {c: i for i, c in enumerate(cells)}, {p: i for i, p in enumerate(problems)}
    right, spent, runs = (np.zeros((len(problems), len(cells))) for _ in range(3))
    for row in rows:
        at = place[row.problem], where[row.cell]
        right[at] += row.correct
        spent[at] += COSTS[cost](row.usage)
        runs[at] += 1
    ran = np.asarray((runs > 0).all(axis=0))
    right, spent = right[:, ran] / runs[:, ran], spent[:, ran] / runs[:, ran]
    kept = [c for c, whole in zip(cells, ran.tolist(), strict=True) if whole]
    group = np.arange(len(problems)) * bins // max(1, len(problems))
    fold = np.arange(len(problems)) % FOLDS
    found = []
    for limit in limits:
        if not (spent.mean(axis=0) <= limit).any():
            continue
        each, alone = np.zeros(len(problems)), np.zeros(len(problems))
        for k in range(FOLDS):
            train, test = fold != k, fold == k
            alone[test] = right[test, _best(right[train], spent[train], limit)]
            for g in range(bins):
                own = test & (group == g)
                each[own] = right[own, _best(right[train & (group == g)], spent[train & (group == g)], limit)]
        chosen = tuple(kept[_best(right[group == g], spent[group == g], limit)] for g in range(bins))
        found.append(ComputeOptimal(limit, float(each.mean()), float(alone.mean()), chosen))
    return found


def _best(right: np.ndarray, spent: np.ndarray, limit: float) -> int:
    """The most accurate cell whose mean cost is within the limit; the cheapest where none is."""
    costs = spent.mean(axis=0)
    affordable = np.flatnonzero(costs <= limit)
    if not len(affordable):
        return int(costs.argmin())
    return int(min(affordable, key=lambda i: (-right[:, i].mean(), costs[i])))


def _resampled(rows: np.ndarray, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rows[rng.integers(0, len(rows), len(rows))] for _ in range(RESAMPLES)]


def _interval(value: float, again: Sequence[float]) -> Interval:
    low, high = np.quantile(np.array(again or [value]), [0.025, 0.975])
    return Interval(value, float(low), float(high))
