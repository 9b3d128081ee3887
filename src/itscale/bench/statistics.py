"""From rows to figures: accuracy with its interval, costs, paired differences.

Law: a failed run counts as wrong and stays in the denominator. Does not cover several seeds of one
problem: those are not independent, and their interval must be clustered by problem.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from itscale.bench.store import Row

__all__ = [
    "CellSummary",
    "PairedDifference",
    "coverage",
    "paired_difference",
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
    share, z2 = successes / trials, _Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z_95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    # The bounds at 0 and 1 are exact; rounding would leave them a hair inside.
    return (
        0.0 if successes == 0 else centre - half,
        1.0 if successes == trials else centre + half,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSummary:
    """One cell of a sweep: a method at a budget N on all problems of a task.

    `accuracy`, `ci_low`, `ci_high` (95 %, Wilson) and `coverage` are shares of `problems`. Tokens,
    calls and seconds are sums over the problems; each is what the cell would have been charged had
    it run alone, except `seconds`, which is the wall time of runs that overlapped.
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
    level: int
    discarded_tokens: int
    scorer_tokens: int
    failures: int
    """Runs that ended in an error; counted as wrong."""
    coverage: float
    """Share of problems where any candidate is right (pass@N for methods that only sample)."""

    def to_json(self) -> dict[str, Any]:
        """Plain values in the order of the fields."""
        return asdict(self)

    def per_problem(self, total: float) -> float:
        """A sum of this cell as a mean over its problems."""
        return total / self.problems if self.problems else 0.0


def summarise(
    rows: Iterable[Row], cells: Sequence[tuple[str, int]], *, task: str, level: int, seed: int
) -> list[CellSummary]:
    """One summary for each `(method label, budget)` of `cells`, in that order; other rows are left out."""
    by_cell: dict[tuple[str, int], list[Row]] = {cell: [] for cell in cells}
    for row in rows:
        if (row.method, row.budget) in by_cell:
            by_cell[row.method, row.budget].append(row)
    return [
        _summary(own, task=task, method=method, budget=budget, level=level, seed=seed)
        for (method, budget), own in by_cell.items()
    ]


def _summary(
    rows: Sequence[Row], *, task: str, method: str, budget: int, level: int, seed: int
) -> CellSummary:
    n, correct = len(rows), sum(row.correct for row in rows)
    low, high = wilson_interval(correct, n)
    return CellSummary(
        task=task,
        method=method,
        budget=budget,
        problems=n,
        accuracy=correct / n if n else 0.0,
        ci_low=low,
        ci_high=high,
        generated_tokens=sum(row.usage.generated_tokens for row in rows),
        prompt_tokens=sum(row.usage.prompt_tokens for row in rows),
        cached_tokens=sum(row.usage.cached_tokens for row in rows),
        model_calls=sum(row.usage.model_calls for row in rows),
        scorer_calls=sum(row.usage.scorer_calls for row in rows),
        seconds=math.fsum(row.usage.seconds for row in rows),
        seed=seed,
        level=level,
        discarded_tokens=sum(row.usage.discarded_tokens for row in rows),
        scorer_tokens=sum(row.usage.scorer_tokens for row in rows),
        failures=sum(row.error is not None for row in rows),
        coverage=sum(row.any_correct for row in rows) / n if n else 0.0,
    )


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Two cells on the same problems."""

    problems: int
    difference: float
    """Accuracy of the first less that of the second, -1 to 1."""
    only_first: int
    """Problems only the first got right."""
    only_second: int
    p_value: float
    """Exact McNemar test, two-sided: both are equally likely to win a problem they differ on."""


def paired_difference(first: Mapping[str, bool], second: Mapping[str, bool]) -> PairedDifference:
    """Compare two cells, given as problem id to correct, on the problems both have.

    >>> paired_difference({"a": True, "b": True, "c": True}, {"a": False, "b": True, "c": False})
    PairedDifference(problems=3, difference=0.6666666666666666, only_first=2, only_second=0, p_value=0.5)
    """
    common = first.keys() & second.keys()
    only_first = sum(first[i] and not second[i] for i in common)
    only_second = sum(second[i] and not first[i] for i in common)
    disputed = only_first + only_second
    tail = sum(math.comb(disputed, k) for k in range(min(only_first, only_second) + 1))
    return PairedDifference(
        problems=len(common),
        difference=(only_first - only_second) / len(common) if common else 0.0,
        only_first=only_first,
        only_second=only_second,
        p_value=min(1.0, 2 * tail / 2**disputed),
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
