"""Majority voting (self-consistency): the most frequent final answer of N samples.

Wang et al. 2023, "Self-Consistency Improves Chain of Thought Reasoning in Language Models",
arXiv 2203.11171. As N grows it returns the mode of the model's own answer law, so it saturates at
the share of problems whose mode is right. Samples without an answer do not vote; ties go to the
answer seen earliest, which has the law of a random tie-break because samples are exchangeable.

Law of `early_stop`: the answer is the one of all N samples, whichever of them arrive first. Only
its text, the candidates and the cost may differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from itscale.errors import OptionError
from itscale.methods.base import Outcome
from itscale.methods.session import Session
from itscale.methods.whole import WholeAnswers
from itscale.types import Path

__all__ = ["Majority"]


@dataclass(frozen=True, kw_only=True)
class Majority(WholeAnswers):
    """N samples vote; the text is the winner's earliest.

    Raises:
        OptionError: `abstain_below` is no share.
    """

    name: ClassVar[str] = "majority"
    summary: ClassVar[str] = "N samples vote on the final answer; no scorer"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "none"

    early_stop: bool = False
    """Cancel the samples still running once the lead cannot be overtaken."""
    abstain_below: float = 0.0
    """Give no answer when the winner has less than this share of all samples (0 to 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.abstain_below <= 1:
            raise OptionError(f"abstain_below is {self.abstain_below}; give a share of the samples, 0 to 1")

    @property
    def races(self) -> bool:
        return self.early_stop

    async def search(self, session: Session) -> Outcome:
        n = session.generations
        if self.early_stop:
            paths = await session.sample_while(n, lambda seen: self._open(seen, n))
        else:
            paths = await session.sample(n)
        candidates = [self.candidate(path, weight=1.0 / len(paths)) for path in paths]
        clusters = await self.votes(candidates)
        if not clusters:
            return Outcome(candidates, 0)
        short = clusters[0].votes < self._least(len(candidates))
        return Outcome(candidates, clusters[0].representative, abstained=short)

    async def _open(self, seen: Sequence[Path], n: int) -> int:
        """How many of the n samples are still needed: those to come, or 0 once nothing can change."""
        to_come = n - len(seen)
        if len(seen) <= to_come:
            return to_come
        clusters = await self.votes([self.candidate(path) for path in seen])
        first, second = (*(cluster.votes for cluster in clusters[:2]), 0.0, 0.0)[:2]
        least = self._least(n)
        decided = first - second > to_come and (first >= least or first + to_come < least)
        return 0 if decided else to_come

    def _least(self, n: int) -> float:
        """Votes of n that the winner needs; rounded, so that 0.55 of 100 is not more than 55."""
        return round(self.abstain_below * n, 9)
