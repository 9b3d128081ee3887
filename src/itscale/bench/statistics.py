"""From rows to figures: accuracy with its interval, costs, pass@k.

Laws: a failed run counts as wrong and stays in the denominator. Several runs on one problem (seeds)
are not independent: intervals are clustered by problem, so more seeds never pretend to be more problems.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from itscale.bench.rows import CellKey, Context, Row

__all__ = [
    "CellSummary",
    "cells_of",
    "clustered_interval",
    "coverage",
    "pass_at_k",
    "summarise",
    "wilson_interval",
]

_Z_95 = NormalDist().inv_cdf(0.975)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927), within [0, 1]; (0, 1) without trials.

    >>> low, high = wilson_interval(81, 263)  # Newcombe 1998, table I
    >>> round(low, 4), round(high, 4)
    (0.2553, 0.3662)
    """
    if trials == 0:
        return 0.0, 1.0
    return _wilson(successes / trials, trials)


def clustered_interval(outcomes: Mapping[str, Sequence[bool]]) -> tuple[float, float]:
    """A 95 % interval of the mean over all runs, given the outcomes of each problem's runs.

    The score interval at the effective number of runs p (1 - p) / v, where v is the variance of the
    mean that is robust to any dependence within a problem (the linearised variance of a ratio, as in
    cluster sampling). It lies between n^2 / sum n_i^2, which is the number of problems where all have
    equally many runs n_i, and the number of runs n, so one run a problem gives Wilson's interval
    exactly. The device is that of Korn and Graubard 1998 (Survey Methodology 24, 193-201), with
    Wilson's in place of the exact interval.

    >>> clustered_interval({"a": [True], "b": [False], "c": [True]}) == wilson_interval(2, 3)
    True
    >>> low, high = clustered_interval({"a": [True] * 9, "b": [False] * 9, "c": [True] * 9})
    >>> (low, high) == wilson_interval(2, 3)
    True
    """
    m, n = len(outcomes), sum(map(len, outcomes.values()))
    if n == 0:
        return 0.0, 1.0
    successes = sum(map(sum, outcomes.values()))
    if m == n:
        return wilson_interval(successes, n)
    share = successes / n
    spread = math.fsum((sum(own) - share * len(own)) ** 2 for own in outcomes.values())
    variance = spread / n**2 * m / (m - 1) if m > 1 else math.inf
    effective = share * (1 - share) / variance if variance > 0 else 0.0
    fewest = n**2 / sum(len(own) ** 2 for own in outcomes.values())
    trials = min(max(effective, fewest), n)
    return _wilson(share, trials)


def _wilson(share: float, trials: float) -> tuple[float, float]:
    z2 = _Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z_95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    # The bounds at 0 and 1 are exact; rounding would leave them a hair inside.
    return 0.0 if share == 0 else centre - half, 1.0 if share == 1 else centre + half


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSummary:
    """One cell of a sweep: a method at a budget N on all problems of a task, in all their runs.

    `accuracy`, `ci_low`, `ci_high` (95 %, clustered by problem; Wilson with one run a problem) and
    `coverage` are shares of runs. Tokens, calls and seconds are sums over the runs; each is what the
    cell would have been charged had it run alone, except `seconds`, which is the wall time of runs
    that overlapped.
    """

    task: str
    method: str
    budget: int
    problems: int
    accuracy: float
    ci_low: float
    ci_high: float
    generated_tokens: int
    prompt_tokens: int
    cached_tokens: int
    model_calls: int
    scorer_calls: int
    seconds: float
    seed: int
    """The first, where there are several."""
    level: int | None
    discarded_tokens: int
    scorer_tokens: int
    failures: int
    """Runs that ended in an error; counted as wrong."""
    coverage: float
    """Share of runs where any candidate is right (pass@N for methods that only sample)."""
    model: str = ""
    scorer: str = ""
    dollars: float = 0.0
    runs: int = 0
    """Rows: problems times seeds."""
    ess: float | None = None
    """Mean effective sample size of the final weights, where the method has weights."""

    def to_json(self) -> dict[str, Any]:
        """Plain values in the order of the fields."""
        return asdict(self)

    def per_problem(self, total: float) -> float:
        """A sum of this cell as a mean over its runs."""
        return total / (self.runs or self.problems) if self.problems else 0.0

    @property
    def context(self) -> Context:
        """What it shares with the cells it can be compared with."""
        return Context(self.task, self.level, self.model, self.scorer)

    @property
    def cell(self) -> CellKey:
        """Which cell this is."""
        return CellKey(*self.context, self.method, self.budget)


def cells_of(rows: Iterable[Row]) -> list[CellKey]:
    """The cells that rows belong to: contexts and methods as they first appear, budgets ascending."""
    groups: dict[tuple[Context, str], set[int]] = {}
    for row in rows:
        groups.setdefault((row.context, row.method), set()).add(row.budget)
    return [CellKey(*c, method, n) for (c, method), budgets in groups.items() for n in sorted(budgets)]


def summarise(rows: Iterable[Row], cells: Sequence[CellKey]) -> list[CellSummary]:
    """One summary for each of `cells`, in that order; rows of other cells are left out."""
    by_cell: dict[CellKey, list[Row]] = {cell: [] for cell in cells}
    for row in rows:
        if row.cell in by_cell:
            by_cell[row.cell].append(row)
    return [_summary(own, cell) for cell, own in by_cell.items()]


def _summary(rows: Sequence[Row], cell: CellKey) -> CellSummary:
    outcomes: dict[str, list[bool]] = {}
    for row in rows:
        outcomes.setdefault(row.problem, []).append(row.correct)
    n = len(rows)
    low, high = clustered_interval(outcomes)
    sizes = [row.ess for row in rows if row.ess is not None]
    return CellSummary(
        **cell._asdict(),
        problems=len(outcomes),
        runs=n,
        accuracy=sum(row.correct for row in rows) / n if n else 0.0,
        ci_low=low,
        ci_high=high,
        generated_tokens=sum(row.usage.generated_tokens for row in rows),
        prompt_tokens=sum(row.usage.prompt_tokens for row in rows),
        cached_tokens=sum(row.usage.cached_tokens for row in rows),
        model_calls=sum(row.usage.model_calls for row in rows),
        scorer_calls=sum(row.usage.scorer_calls for row in rows),
        seconds=math.fsum(row.usage.seconds for row in rows),
        dollars=math.fsum(row.usage.dollars for row in rows),
        seed=min((row.seed for row in rows), default=0),
        discarded_tokens=sum(row.usage.discarded_tokens for row in rows),
        scorer_tokens=sum(row.usage.scorer_tokens for row in rows),
        failures=sum(row.error is not None for row in rows),
        coverage=sum(row.any_correct for row in rows) / n if n else 0.0,
        ess=math.fsum(sizes) / len(sizes) if sizes else None,
    )


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of P(at least one of k samples is right) from `correct` of `samples`.

    1 - C(n - c, k) / C(n, k), as a product that neither overflows nor cancels: Chen et al. 2021,
    "Evaluating Large Language Models Trained on Code", arXiv 2107.03374, equation 1. The plug-in
    1 - (1 - c/n)^k is biased low.

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 4), pass_at_k(4, 0, 2)
    (0.25, 1.0, 0.0)

    Raises:
        ValueError: unless 1 <= k <= samples and 0 <= correct <= samples; fewer samples than k say
            nothing unbiased about k.
    """
    if not (1 <= k <= samples and 0 <= correct <= samples):
        raise ValueError(
            f"pass@{k} from {correct} of {samples} samples; k goes from 1 to the samples, correct from 0"
        )
    wrong = samples - correct
    return 1.0 - math.prod((wrong - i) / (samples - i) for i in range(k)) if wrong >= k else 1.0


def coverage(counts: Iterable[tuple[int, int]], k: int) -> float:
    """Mean pass@k over problems, each `(samples, correct)`: Brown et al. 2024, arXiv 2407.21787.

    Raises:
        ValueError: no problems, or one with fewer than k samples.
    """
    each = [pass_at_k(samples, correct, k) for samples, correct in counts]
    if not each:
        raise ValueError("coverage of no problems; give at least one (samples, correct)")
    return math.fsum(each) / len(each)
