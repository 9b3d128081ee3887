"""Greedy decoding: the most likely token at every position. One answer, no use for a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from itscale.methods.base import Outcome
from itscale.methods.session import Session
from itscale.methods.whole import WholeAnswers

__all__ = ["Greedy"]


@dataclass(frozen=True, kw_only=True)
class Greedy(WholeAnswers):
    """One answer at temperature 0."""

    name: ClassVar[str] = "greedy"
    summary: ClassVar[str] = "one answer, the most likely token every time"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "none"
    scales: ClassVar[bool] = False

    temperature: float = 0.0

    async def search(self, session: Session) -> Outcome:
        return Outcome([self.candidate(path, weight=1.0) for path in await session.sample(1)], 0)
