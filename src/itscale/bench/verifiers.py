"""What resampling until a verifier accepts can reach, when the verifier makes mistakes.

Stroebl, Kapoor and Narayanan 2024, "Inference Scaling fLaws: The Limits of LLM Resampling with
Imperfect Verifiers", arXiv 2411.17501. For one problem, with p the share of right samples, t the
rate at which right samples are accepted and f that of wrong ones, a sample is accepted with
a = p t + (1 - p) f, and of K tries

    P(an answer is returned) = 1 - (1 - a)^K
    accuracy(K) = (1 - (1 - a)^K) p t / a        never above p t / a, however large K is
    utility(K)  = (1 - (1 - a)^K) (p t - cost (1 - p) f) / a

Law: everything is computed for each problem and then averaged; averaging p and f first is wrong.
For one problem utility is monotone in K. A best K in between exists only over problems that
differ: hard ones keep adding wrong answers after easy ones have been solved.

Not covered: samples or verdicts that depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "BestK",
    "ImperfectVerifier",
    "best_k",
    "estimate_verifier",
    "predicted_accuracy",
    "predicted_utility",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImperfectVerifier:
    """A verifier on one problem; all rates linear, 0 to 1.

    >>> one = ImperfectVerifier(right=0.2, false_positive=0.3)
    >>> round(one.ceiling, 4), round(one.accuracy(1), 4)
    (0.4545, 0.2)

    Raises:
        ValueError: a rate is not in [0, 1].
    """

    right: float
    """p: share of right samples."""
    false_positive: float
    """f: share of wrong samples that are accepted."""
    true_positive: float = 1.0
    """t: share of right samples that are accepted."""

    def __post_init__(self) -> None:
        for name in ("right", "false_positive", "true_positive"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a rate from 0 to 1")

    @property
    def accepted(self) -> float:
        """a: share of samples that are accepted."""
        return self.right * self.true_positive + (1 - self.right) * self.false_positive

    @property
    def ceiling(self) -> float:
        """Accuracy as K grows: the share of accepted samples that are right; 0 if none is accepted."""
        return self.right * self.true_positive / self.accepted if self.accepted else 0.0

    def returned(self, k: int) -> float:
        """P(one of k tries is accepted)."""
        if self.accepted == 1:
            return 1.0
        return -math.expm1(_tries(k) * math.log1p(-self.accepted))  # 1 - (1 - a)^k, exact for tiny a

    def accuracy(self, k: int) -> float:
        """P(the first accepted of k tries exists and is right)."""
        return self.returned(k) * self.ceiling

    def utility(self, k: int, *, cost: float) -> float:
        """Accuracy less `cost` for each wrong answer returned; no answer counts 0."""
        return self.returned(k) * (self.ceiling - cost * (1 - self.ceiling)) if self.accepted else 0.0

    def samples(self, k: int) -> float:
        """Expected number of samples drawn: sum of (1 - a)^j for j < k."""
        return self.returned(k) / self.accepted if self.accepted else float(_tries(k))


def estimate_verifier(samples: Iterable[tuple[bool, bool]]) -> ImperfectVerifier:
    """The rates of one problem from labelled samples, each `(right, accepted)`.

    Where no sample was wrong, f says nothing and is 0; where none was right, t is 1: neither changes
    any prediction then.

    >>> estimate_verifier([(True, True), (False, True), (False, False), (False, False)])
    ImperfectVerifier(right=0.25, false_positive=0.3333333333333333, true_positive=1.0)

    Raises:
        ValueError: there are no samples.
    """
    labelled = list(samples)
    if not labelled:
        raise ValueError("no labelled samples; give at least one (right, accepted)")
    when_right = [accepted for right, accepted in labelled if right]
    when_wrong = [accepted for right, accepted in labelled if not right]
    return ImperfectVerifier(
        right=len(when_right) / len(labelled),
        false_positive=sum(when_wrong) / len(when_wrong) if when_wrong else 0.0,
        true_positive=sum(when_right) / len(when_right) if when_right else 1.0,
    )


def predicted_accuracy(problems: Sequence[ImperfectVerifier], k: int) -> float:
    """Mean accuracy over problems at k tries each.

    Raises:
        ValueError: there are no problems, or k is below 1.
    """
    return _mean([problem.accuracy(k) for problem in problems])


def predicted_utility(problems: Sequence[ImperfectVerifier], k: int, *, cost: float) -> float:
    """Mean utility over problems at k tries each; `cost` is that of a wrong answer, of a right one 1.

    Raises:
        ValueError: there are no problems, or k is below 1.
    """
    return _mean([problem.utility(k, cost=cost) for problem in problems])


@dataclass(frozen=True, slots=True, kw_only=True)
class BestK:
    """The number of tries past which more of them hurt."""

    k: int
    utility: float
    at_one: float
    """Utility of one try."""
    at_most: float
    """Utility at the most tries looked at."""


def best_k(problems: Sequence[ImperfectVerifier], *, cost: float, most: int = 1000) -> BestK:
    """The k from 1 to `most` with the largest mean utility; the smallest among equals.

    Raises:
        ValueError: there are no problems, or `most` is below 1.
    """
    utilities = [predicted_utility(problems, k, cost=cost) for k in range(1, _tries(most) + 1)]
    best = max(range(most), key=lambda i: (utilities[i], -i))
    return BestK(k=best + 1, utility=utilities[best], at_one=utilities[0], at_most=utilities[-1])


def _tries(k: int) -> int:
    if k < 1:
        raise ValueError(f"{k} tries; give at least 1")
    return k


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("no problems; give at least one verifier")
    return math.fsum(values) / len(values)
