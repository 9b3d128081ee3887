"""What the methods that sample whole answers share: the kind of answer they read and vote on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from itscale.methods.base import Method, answer_in
from itscale.scorers.answers import AnswerKind, AnswerName, Cluster, answer_kind, tally
from itscale.types import Candidate, Path

__all__ = ["WholeAnswers"]


@dataclass(frozen=True, kw_only=True)
class WholeAnswers(Method):
    """A method over whole answers.

    Raises:
        OptionError: `answers` is no kind of answer, or what that kind needs is not installed.
    """

    answers: AnswerName | AnswerKind = "auto"
    """How final answers are read and compared: a name, or (in Python) a kind of your own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        answer_kind(self.answers)

    @property
    def answer_kind(self) -> AnswerKind:
        return answer_kind(self.answers)

    def candidate(self, path: Path, **fields: Any) -> Candidate:
        """A candidate with its answer extracted. A path that did not finish has no answer."""
        return Candidate(path=path, answer=answer_in(path, self.answer_kind), **fields)

    async def votes(
        self,
        candidates: Sequence[Candidate],
        weights: Sequence[float] | None = None,
        scores: Sequence[float | None] | None = None,
    ) -> list[Cluster]:
        """`tally` of the candidates' answers. A slow comparison does not hold up other runs.

        Raises:
            ValueError: a weight is negative or NaN.
        """
        kind, answers = self.answer_kind, [c.answer for c in candidates]
        if kind.same is None:
            return tally(answers, weights, scores, kind=kind)
        return await asyncio.to_thread(tally, answers, weights, scores, kind=kind)
