"""What the methods that sample whole answers share: the kind of answer they read and vote on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from itscale.errors import OptionError
from itscale.methods.base import Method, Outcome, answer_in
from itscale.scorers.answers import AnswerKind, AnswerName, Cluster, answer_kind, tally
from itscale.types import Candidate, Path

__all__ = ["Voting", "WholeAnswers"]


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


@dataclass(frozen=True, kw_only=True)
class Voting(WholeAnswers):
    """A method over whole answers whose answer has votes behind it.

    Raises:
        OptionError: `abstain_below` is no share.
    """

    abstain_below: float = 0.0
    """Give no answer when the winner has less than this share of the votes, 0 to 1. A sample without an
    answer counts as a vote for nobody."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.abstain_below <= 1:
            raise OptionError(f"abstain_below is {self.abstain_below}; give a share of the votes, 0 to 1")

    def elected(
        self, candidates: Sequence[Candidate], winner: Cluster | None, total: float, *, fallback: int = 0
    ) -> Outcome:
        """The winner's text, of `total` votes (linear); the `fallback`th candidate's where nobody won."""
        if winner is None:
            return Outcome(candidates, fallback)
        return Outcome(candidates, winner.representative, abstained=self.too_few(winner.votes, total))

    def too_few(self, votes: float, total: float) -> bool:
        """Whether they make it abstain; rounded, so that 55 of 100 are not less than a share of 0.55."""
        return round((votes / total if total > 0 else 0.0) - self.abstain_below, 9) < 0
