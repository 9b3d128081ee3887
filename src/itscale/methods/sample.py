"""One sample from the model: the baseline every method is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from itscale.methods.base import Outcome
from itscale.methods.session import Session
from itscale.methods.whole import WholeAnswers

__all__ = ["Sample"]


@dataclass(frozen=True, kw_only=True)
class Sample(WholeAnswers):
    """One answer at the sampling temperature. It is the first sample of `Majority` and `BestOfN`."""

    name: ClassVar[str] = "sample"
    summary: ClassVar[str] = "one sampled answer"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "none"
    scales: ClassVar[bool] = False

    async def search(self, session: Session) -> Outcome:
        return Outcome([self.candidate(path, weight=1.0) for path in await session.sample(1)], 0)
