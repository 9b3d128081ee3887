"""Best-of-Majority: drop rare answers first, then rank what is left by the scorer.

"Best-of-Majority: Minimax-Optimal Strategy for Pass@k Inference Scaling" (2025). With freq(a) the
share of the N samples whose answer is a:

    S = {a : freq(a) >= alpha};   submit the k answers of S with the largest reward

alpha = 0 is best-of-n over distinct answers, alpha just under the largest share is majority. An
answer that the scorer overrates but the model hardly ever gives hurts best-of-n as N grows, and not
this. Only surviving answers are judged.

Choices the paper leaves open: the reward of an answer is by default the mean over its samples; when
no answer reaches alpha, the most frequent one is submitted; when no sample has an answer, the best
scored text is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from itscale.errors import OptionError, did_you_mean
from itscale.methods.base import Outcome, best
from itscale.methods.session import Session
from itscale.methods.whole import Voting
from itscale.scorers.answers import Cluster
from itscale.scorers.base import AGGREGATIONS, Aggregation
from itscale.types import Candidate, Path

__all__ = ["BestOfMajority"]

Reward = Literal["mean", "max", "first"]
_REWARDS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": lambda rewards: math.fsum(rewards) / len(rewards),
    "max": max,
    "first": lambda rewards: rewards[0],
}


@dataclass(frozen=True, kw_only=True)
class BestOfMajority(Voting):
    """The candidates of the result are the submitted answers, one text each, the best first.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "best-of-majority"
    summary: ClassVar[str] = "N samples; answers that are frequent enough, ranked by the scorer"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "any"

    alpha: float = 0.1
    """Least share of the samples an answer needs, 0 to 1. The theory asks for about 3/4 of the
    right answer's share; published runs use 0.005 to 0.015 at N of 100 and more."""
    k: int | None = None
    """Answers submitted at most; none: all that are frequent enough."""
    reward: Reward = "mean"
    """The reward of an answer: mean, max or first of its samples' scores."""
    aggregate: Aggregation = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise OptionError(f"alpha is {self.alpha}; give a share of the samples, 0 to 1")
        if self.k is not None and self.k < 1:
            raise OptionError(f"k is {self.k}; give at least 1, or none for all frequent answers")
        for option, known in (("reward", get_args(Reward)), ("aggregate", tuple(AGGREGATIONS))):
            if getattr(self, option) not in known:
                raise OptionError(did_you_mean(option, str(getattr(self, option)), known))

    async def search(self, session: Session) -> Outcome:
        n = session.generations
        if self.k is not None and self.k > n:
            raise OptionError(f"k is {self.k}, more than the {n} samples; raise the budget or lower k")
        candidates = [self.candidate(path) for path in await session.sample(n)]
        clusters = await self.votes(candidates)
        if not clusters:
            judged = await self._judged(session, [c.path for c in candidates if c.path.finished])
            fallback = [judged.get(c.path, c) for c in candidates]
            return Outcome(fallback, best(fallback))
        least = round(self.alpha * len(candidates), 9)  # 0.07 of 100 is not more than 7
        frequent = [c for c in clusters if c.votes >= least] or clusters[:1]
        members = [candidates[i].path for cluster in frequent for i in self._counting(cluster)]
        judged = await self._judged(session, members)
        ranked = [
            self._submitted(
                cluster, [judged[candidates[i].path] for i in self._counting(cluster)], len(candidates)
            )
            for cluster in frequent
        ]
        ranked.sort(key=lambda pair: -pair[0])  # stable: ties go to the more frequent answer
        submitted = [answer for _, answer in ranked[: self.k]]
        return Outcome(submitted, 0, abstained=self.too_few(submitted[0].weight or 0.0, 1.0))

    def _counting(self, cluster: Cluster) -> Sequence[int]:
        """The samples whose scores make up the reward of an answer."""
        return cluster.members[:1] if self.reward == "first" else cluster.members

    async def _judged(self, session: Session, paths: Sequence[Path]) -> dict[Path, Candidate]:
        scores = await session.score(paths)
        return {
            path: self.candidate(
                path, score=AGGREGATIONS[self.aggregate](own) if own else None, step_scores=own or ()
            )
            for path, own in zip(paths, scores, strict=True)
        }

    def _submitted(self, cluster: Cluster, judged: Sequence[Candidate], n: int) -> tuple[float, Candidate]:
        """The reward of an answer, and its best scored sample with the answer's share as weight."""
        rewards = [c.score for c in judged if c.score is not None]
        chosen = judged[best(judged)]
        submitted = self.candidate(
            chosen.path, score=chosen.score, step_scores=chosen.step_scores, weight=cluster.votes / n
        )
        return (_REWARDS[self.reward](rewards) if rewards else -math.inf), submitted
