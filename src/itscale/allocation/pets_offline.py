"""PETS, all questions known: the next sample goes where it may raise agreement the most.

Liu, Qu et al. 2026, "PETS: A Principled Framework Towards Optimal Trajectory Allocation for
Efficient Test-Time Self-Consistency", arXiv 2602.16745: raise the agreement with the answer that
infinitely many samples would vote for, without labels. Offline it is the optimistic knowledge
gradient of crowd labelling. Of a question whose answers were seen c_1..c_K times,

    lead(c) = max_m P(theta_m is the largest),  theta ~ Dirichlet(c + 1)
    gain(c) = max_m lead(c + e_m) - lead(c)         the next sample goes to the largest gain

Departures from the published code: the probability is computed (`dirichlet_lead`), not simulated, so
the choice does not flicker with noise; one answer not seen yet always competes with count 0; samples
without an answer count as one more answer. Law: equal questions get equal shares, within one sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from itscale.allocation.base import Allocation, Standing
from itscale.errors import OptionError
from itscale.methods.adaptive_consistency import dirichlet_lead

__all__ = ["PetsOffline", "optimistic_gain"]


@dataclass(frozen=True, kw_only=True)
class PetsOffline(Allocation):
    """Optimistic knowledge gradient over all questions at once.

    Raises:
        OptionError: an option is out of range.
    """

    name: ClassVar[str] = "pets"
    summary: ClassVar[str] = "all prompts known: samples go where agreement can still rise the most"

    options: int = 8
    """Answers of a question that count, the most frequent ones; rarer ones are paid for and ignored."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.options < 2:
            raise OptionError(f"options is {self.options}; give at least 2")

    def choose(self, standings: Sequence[Standing], left: int) -> int | None:
        open_ = [i for i, standing in enumerate(standings) if standing.refused is None]
        return max(open_, key=lambda i: (self._gain(standings[i]), -i), default=None)

    def _gain(self, standing: Standing) -> float:
        first, *rest = standing.counts[: self.options] or (0,)
        return optimistic_gain((first + standing.under_way, *rest))


@lru_cache(maxsize=65_536)
def optimistic_gain(counts: tuple[int, ...]) -> float:
    """How much more certain the leader would be if the next sample were for it. Largest count first.

    The maximum over answers is always at the leader: a vote for any other only brings them closer.

    >>> [round(optimistic_gain(counts), 4) for counts in [(0,), (1,), (1, 1), (10,)]]
    [0.25, 0.125, 0.2014, 0.0002]
    """
    first, *rest = counts
    return dirichlet_lead((first + 1, *rest)) - dirichlet_lead(counts)
