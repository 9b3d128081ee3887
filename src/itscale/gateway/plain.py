"""The model itself: one answer, grown a step at a time where the backend has steps, so that it can be
shown while it grows. The law of what it says is the model's; streamed or not, a seed gives one text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from itscale.methods.base import Outcome
from itscale.methods.session import Session
from itscale.methods.whole import WholeAnswers

__all__ = ["Plain"]


@dataclass(frozen=True, kw_only=True)
class Plain(WholeAnswers):
    """One answer at the sampling temperature."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "the model itself"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "none"
    scales: ClassVar[bool] = False

    stepwise: bool = False

    async def search(self, session: Session) -> Outcome:
        if not self.stepwise:
            return Outcome([self.candidate(path, weight=1.0) for path in await session.sample(1)], 0)
        path = session.root
        while session.can_grow(path):
            [[after]] = await session.extend([path])
            if after is path:
                break
            path = after
        return Outcome([self.candidate(path, weight=1.0)], 0)
