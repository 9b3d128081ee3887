"""What the methods that let a judge compare answers share: who competes, and the swap.

Judges like a place: the first answer they read, or the last (Wang et al. 2023, "Large Language Models
are not Fair Evaluators", arXiv 2305.17926). So a pair is always shown in both orders.

Law: a verdict counts only if it survives the swap; a judge that goes by place alone decides nothing,
and the answer is the one that stands without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from itscale.errors import OptionError, did_you_mean
from itscale.methods.session import Session
from itscale.methods.whole import WholeAnswers
from itscale.types import Candidate, Path

__all__ = ["Comparing", "preferences"]

Pair = tuple[Path, Path]


@dataclass(frozen=True, kw_only=True)
class Comparing(WholeAnswers):
    """A method that samples, and lets a judge compare.

    Raises:
        OptionError: `contestants` is neither answers nor samples.
    """

    scorer_kind: ClassVar[Literal["none", "any", "process", "comparison"]] = "comparison"

    contestants: Literal["answers", "samples"] = "answers"
    """Who competes: one text for each distinct answer (where there is any), or every sample."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contestants not in ("answers", "samples"):
            raise OptionError(did_you_mean("contestants", self.contestants, ("answers", "samples")))

    async def contest(self, session: Session) -> tuple[list[Candidate], list[int]]:
        """N candidates, and the indices of those who compete, in the order that ties are decided by.

        Answers are in the order of their votes, each by its earliest sample; samples in that of their
        seeds. Only finished texts compete, unless none is.
        """
        candidates = [self.candidate(path) for path in await session.sample(session.generations)]
        if self.contestants == "answers":
            clusters = await self.votes(candidates)
            if clusters:
                return candidates, [cluster.representative for cluster in clusters]
        finished = [i for i, c in enumerate(candidates) if c.path.finished]
        return candidates, finished or list(range(len(candidates)))

    def scored(self, candidates: Sequence[Candidate], scores: dict[int, float]) -> list[Candidate]:
        """The candidates, those who competed with their score."""
        return [
            self.candidate(c.path, score=scores[i]) if i in scores else c for i, c in enumerate(candidates)
        ]


async def preferences(session: Session, pairs: Sequence[Pair]) -> list[int]:
    """For each pair 1 if the first is better, -1 if the second is, 0 if neither is in both orders.

    Two scorer calls a pair, all at once. A call that failed, gave prose or may not be made any more is
    no verdict.
    """
    ranks = await session.compare([order for pair in pairs for order in (pair, pair[::-1])])
    return [_verdict(there, back) for there, back in zip(ranks[::2], ranks[1::2], strict=True)]


def _verdict(there: tuple[int, ...] | None, back: tuple[int, ...] | None) -> int:
    if there is None or back is None:
        return 0
    liked = _sign(there[1] - there[0]), _sign(back[0] - back[1])
    return liked[0] if liked[0] == liked[1] else 0


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
