"""Majority voting (self-consistency): the most frequent final answer of N samples.

Wang et al. 2023, "Self-Consistency Improves Chain of Thought Reasoning in Language Models",
arXiv 2203.11171. As N grows it returns the mode of the model's own answer law, so it saturates at
the share of problems whose mode is right. Samples without an answer do not vote; ties go to the
answer seen earliest, which has the law of a random tie-break because samples are exchangeable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from itscale.methods.base import Method, Outcome, candidate
from itscale.methods.session import Session
from itscale.scorers.answers import tally

__all__ = ["Majority"]


@dataclass(frozen=True, kw_only=True)
class Majority(Method):
    """N samples vote; the text is the winner's earliest."""

    name: ClassVar[str] = "majority"
    summary: ClassVar[str] = "N samples vote on the final answer; no scorer"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "none"

    async def search(self, session: Session) -> Outcome:
        paths = await session.sample(session.generations)
        candidates = [candidate(path, weight=1.0 / len(paths)) for path in paths]
        clusters = tally([c.answer for c in candidates])
        return Outcome(candidates, clusters[0].representative if clusters else 0)
