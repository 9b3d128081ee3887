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

from itscale.methods.base import Outcome
from itscale.methods.session import Session
from itscale.methods.whole import Voting
from itscale.types import Path

__all__ = ["Majority"]


@dataclass(frozen=True, kw_only=True)
class Majority(Voting):
    """N samples vote; the text is the winner's earliest."""

    name: ClassVar[str] = "majority"
    summary: ClassVar[str] = "N samples vote on the final answer; no scorer"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "none"

    early_stop: bool = False
    """Cancel the samples still running once the lead cannot be overtaken."""

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
        return self.elected(candidates, next(iter(clusters), None), len(candidates))

    async def _open(self, seen: Sequence[Path], n: int) -> int:
        """How many of the n samples are still needed: those to come, or 0 once nothing can change."""
        to_come = n - len(seen)
        if len(seen) <= to_come:
            return to_come
        clusters = await self.votes([self.candidate(path) for path in seen])
        first, second = (*(cluster.votes for cluster in clusters[:2]), 0.0, 0.0)[:2]
        settled = not self.too_few(first, n) or self.too_few(first + to_come, n)
        decided = first - second > to_come and settled
        return 0 if decided else to_come
