"""Best-of-n and its weighted vote: N samples judged by a scorer.

`BestOfN` returns the sample with the best score; with distinct scores the law of what it returns
is F(y)^N - F(y-)^N, F the distribution of the score under the model. `WeightedBestOfN` adds up
scores over samples with the same answer (Li et al. 2023, "Making Language Models Better Reasoners
with Step-Aware Verifier", arXiv 2206.02336): all scores equal reduces it to majority voting, all
answers different to best-of-n.

Step scores of a process scorer become one number by `aggregate`: last, min, mean or product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from itscale.errors import OptionError, did_you_mean
from itscale.methods.base import Outcome, best
from itscale.methods.session import Session
from itscale.methods.whole import Voting, WholeAnswers
from itscale.scorers.base import AGGREGATIONS, Aggregation
from itscale.types import Candidate

__all__ = ["BestOfN", "WeightedBestOfN"]


async def _judged_samples(method: WholeAnswers, session: Session, aggregate: Aggregation) -> list[Candidate]:
    pairs = await session.sample_scored(session.generations)
    return [
        method.candidate(
            path, score=AGGREGATIONS[aggregate](scores) if scores else None, step_scores=scores or ()
        )
        for path, scores in pairs
    ]


def _check_aggregate(aggregate: str) -> None:
    if aggregate not in AGGREGATIONS:
        raise OptionError(did_you_mean("aggregate", aggregate, AGGREGATIONS))


@dataclass(frozen=True, kw_only=True)
class BestOfN(WholeAnswers):
    """The sample the scorer likes most; ties go to the earliest."""

    name: ClassVar[str] = "best-of-n"
    summary: ClassVar[str] = "N samples, the scorer picks one"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "any"

    aggregate: Aggregation = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_aggregate(self.aggregate)

    async def search(self, session: Session) -> Outcome:
        candidates = await _judged_samples(self, session, self.aggregate)
        return Outcome(candidates, best(candidates))


@dataclass(frozen=True, kw_only=True)
class WeightedBestOfN(Voting):
    """Samples vote with their scores; the text is the best-scored of the winning answer.

    An outcome scorer must give scores of at least 0 here: a negative one would count against its
    own answer, and raises.
    """

    name: ClassVar[str] = "weighted-best-of-n"
    summary: ClassVar[str] = "N samples vote on the answer with their scores"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "any"

    aggregate: Aggregation = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_aggregate(self.aggregate)

    async def search(self, session: Session) -> Outcome:
        candidates = await _judged_samples(self, session, self.aggregate)
        scores = [c.score for c in candidates]
        if any(score is not None and score < 0 for score in scores):
            raise OptionError(
                "weighted-best-of-n needs scores of at least 0; use best-of-n, or map the scorer's "
                "output through exp or a sigmoid"
            )
        weights = [score or 0.0 for score in scores]
        clusters = await self.votes(candidates, weights, scores)
        total = math.fsum(weights)
        return self.elected(candidates, next(iter(clusters), None), total, fallback=best(candidates))
