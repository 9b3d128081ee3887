"""Adaptive consistency: sample until the leading answer is safe, then stop.

Aggarwal et al. 2023, "Let's Sample Step by Step: Adaptive-Consistency for Efficient Reasoning and
Coding with LLMs", arXiv 2305.11860. With v_1 >= v_2 the largest counts, stop when

    beta        P(p_1 > 1/2 | p_1 ~ Beta(v_1 + 1, v_2 + 1)) >= confidence
    dirichlet   P(p_1 > p_i for all i | p ~ Dirichlet(v + 1)) >= confidence

Both are computed, not simulated: the first as a sum of binomial coefficients, exact; the second as
an integral over Gamma variables. Departures from the published code: one answer not seen yet
always competes with count 0 (with one answer seen both rules agree; the code stops there at once).

Law: samples are looked at in the order of their seeds, so the result depends on the seed alone, and
never more are under way than the rule needs at least, so none is wasted. Not covered: testing again
after each sample makes the true risk larger than 1 - confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import ClassVar, Literal, get_args

import numpy as np

from itscale.errors import OptionError, did_you_mean
from itscale.methods.base import Outcome
from itscale.methods.session import Session
from itscale.methods.whole import Voting
from itscale.types import Path

__all__ = ["AdaptiveConsistency", "beta_lead", "dirichlet_lead"]

Rule = Literal["beta", "dirichlet"]


@dataclass(frozen=True, kw_only=True)
class AdaptiveConsistency(Voting):
    """Majority of as many samples as are needed, the budget's N at most.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "adaptive-consistency"
    summary: ClassVar[str] = "samples vote until the leading answer is safe; N is the most it takes"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "none"

    confidence: float = 0.95
    """Stop when the leader is ahead with this probability: 0 after one answer, 1 never."""
    rule: Rule = "beta"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.confidence <= 1:
            raise OptionError(f"confidence is {self.confidence}; give a probability, 0 to 1")
        if self.rule not in get_args(Rule):
            raise OptionError(did_you_mean("rule", str(self.rule), get_args(Rule)))

    async def search(self, session: Session) -> Outcome:
        n = session.generations

        async def wanted(seen: Sequence[Path]) -> int:
            clusters = await self.votes([self.candidate(path) for path in seen])
            return self.needed([round(cluster.votes) for cluster in clusters], n)

        paths = await session.sample_while(n, wanted, in_order=True)
        candidates = [self.candidate(path, weight=1.0 / len(paths)) for path in paths]
        clusters = await self.votes(candidates)
        return self.elected(candidates, next(iter(clusters), None), len(candidates))

    def needed(self, counts: Sequence[int], most: int) -> int:
        """How many more samples it takes at least to be safe: all for the leader; `most` at most.

        >>> [AdaptiveConsistency().needed(counts, 16) for counts in ([], [3], [4], [3, 1])]
        [4, 1, 0, 3]
        """
        first, *rest = sorted(counts, reverse=True) or [0]
        return next((j for j in range(most) if self._safe((first + j, *rest))), most)

    def _safe(self, counts: tuple[int, ...]) -> bool:
        if not counts[0]:
            return False
        if self.rule == "beta":
            return beta_lead(*(*counts, 0)[:2]) >= Fraction(self.confidence)
        return dirichlet_lead(counts) >= self.confidence


@lru_cache(maxsize=65_536)
def beta_lead(first: int, second: int) -> Fraction:
    """P(p > 1/2) for p ~ Beta(first + 1, second + 1), exact: the paper's equation for two answers.

    It is P(Binomial(first + second + 1, 1/2) <= first).

    >>> [float(beta_lead(n, 0)) for n in (3, 4)]
    [0.9375, 0.96875]
    """
    trials = first + second + 1
    return Fraction(sum(math.comb(trials, k) for k in range(first + 1)), 2**trials)


@lru_cache(maxsize=65_536)
def dirichlet_lead(counts: tuple[int, ...]) -> float:
    """P(the first is the largest) for Dirichlet(counts + 1) with one more answer of count 0.

    The integral of the first's Gamma density times the others' distribution functions, by
    Gauss-Legendre quadrature; error below 1e-9 for counts up to some hundreds. Largest count first.

    >>> round(dirichlet_lead((4,)), 9), round(dirichlet_lead((0,)), 9)
    (0.96875, 0.5)
    """
    first, *rest = (*counts, 0)
    nodes, weights = _quadrature()
    upper = first + 1 + 12 * math.sqrt(first + 1) + 40
    x = 0.5 * upper * (nodes + 1)
    density = np.exp(first * np.log(x) - x - math.lgamma(first + 1))
    below = np.ones_like(x)
    for count in rest:
        terms = [np.exp(k * np.log(x) - x - math.lgamma(k + 1)) for k in range(count + 1)]
        below *= np.clip(1 - np.sum(terms, axis=0), 0, 1)
    return float(0.5 * upper * np.sum(weights * density * below))


@lru_cache(maxsize=1)
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [-1, 1]; finding them takes longer than any integral they serve."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    return nodes, weights
