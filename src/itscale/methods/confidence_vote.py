"""Confidence-weighted voting: samples vote with the model's own certainty; no scorer.

After Fu et al. 2025, "Deep Think with Confidence", arXiv 2508.15260, and self-consistency with
length-normalised probabilities (Wang et al. 2023, arXiv 2203.11171, section 3.1). A sample's weight
is the geometric mean of its tokens' probabilities, exp(sum of log p / number of tokens):

    mean     over the whole answer
    last     over its last step (the paper's tail)
    lowest   over its least certain step (the paper's lowest group)

Departures from the paper: the groups are the steps of the path, not windows of 2,048 tokens, and
the probability is that of the drawn token (which every backend tells), not of the top k.
All probabilities equal reduces it to majority voting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from itscale.errors import ModelError, OptionError, did_you_mean
from itscale.methods.base import Outcome
from itscale.methods.session import Session
from itscale.methods.whole import WholeAnswers
from itscale.models.base import Capability
from itscale.types import Path, Step

__all__ = ["ConfidenceVote"]

Confidence = Literal["mean", "last", "lowest"]


@dataclass(frozen=True, kw_only=True)
class ConfidenceVote(WholeAnswers):
    """N samples vote with their confidence; the text is the winner's most confident.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "confidence-vote"
    summary: ClassVar[str] = "N samples vote with the probability of their own tokens; no scorer"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "none"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LOGPROBS})

    confidence: Confidence = "mean"
    """Mean token log-probability of the whole answer, of its last step, or of its lowest step."""
    keep: float = 1.0
    """Share of the answers that vote, the most confident ones (above 0, at most 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.confidence not in get_args(Confidence):
            raise OptionError(did_you_mean("confidence", str(self.confidence), get_args(Confidence)))
        if not 0 < self.keep <= 1:
            raise OptionError(f"keep is {self.keep}; give a share above 0 and at most 1")

    async def search(self, session: Session) -> Outcome:
        paths = await session.sample(session.generations)
        confidences = [_CONFIDENCES[self.confidence](path) for path in paths]
        candidates = [
            self.candidate(path, score=confidence)
            for path, confidence in zip(paths, confidences, strict=True)
        ]
        answered = [i for i, c in enumerate(candidates) if c.answer is not None]
        # Rounded first, so that a share of 0.3 of 10 is not 4 for the last bit of a float.
        kept = set(
            sorted(answered, key=lambda i: -confidences[i])[: math.ceil(round(self.keep * len(answered), 9))]
        )
        weights = [confidence if i in kept else 0.0 for i, confidence in enumerate(confidences)]
        clusters = await self.votes(candidates, weights, confidences)
        if not clusters:
            return Outcome(candidates, max(range(len(paths)), key=lambda i: (confidences[i], -i)))
        return Outcome(candidates, clusters[0].representative)


def _mean_probability(steps: Sequence[Step]) -> float:
    """Geometric mean of the token probabilities in (0, 1]; 0 for no token.

    Raises:
        ModelError: a step has no log-probability, though its model offers them.
    """
    tokens = sum(step.n_tokens for step in steps)
    logprobs = [step.logprob for step in steps if step.logprob is not None]
    if len(logprobs) < len(steps):
        raise ModelError("a step came without its log-probability; use majority with this model")
    return math.exp(math.fsum(logprobs) / tokens) if tokens else 0.0


def _spoken(path: Path) -> list[Step]:
    """The steps that have tokens: a server may end an answer with an empty one."""
    return [step for step in path.steps if step.n_tokens]


_CONFIDENCES: Mapping[str, Callable[[Path], float]] = {
    "mean": lambda path: _mean_probability(_spoken(path)),
    "last": lambda path: _mean_probability(_spoken(path)[-1:]),
    "lowest": lambda path: min((_mean_probability([step]) for step in _spoken(path)), default=0.0),
}
