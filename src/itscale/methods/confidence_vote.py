"""Confidence-weighted voting: samples vote with the model's own certainty; no scorer.

After Fu et al. 2025, "Deep Think with Confidence", arXiv 2508.15260, and self-consistency with
length-normalised probabilities (Wang et al. 2023, arXiv 2203.11171, section 3.1). A sample's weight
is the geometric mean of its tokens' probabilities, exp(sum of log p / number of tokens):

    mean     over the whole answer
    last     over its last step (the paper's tail)
    lowest   over its least certain step
    tail     over its last `window` tokens (the paper's tail confidence)
    window   over its least certain `window` tokens in a row (the paper's lowest group confidence)

or, with `certainty`, its self-certainty (Kang, Zhao and Song 2025, "Scalable Best-of-N Selection for Large
Language Models via Self-Certainty", arXiv 2502.18581): the mean over its tokens of KL(U || p), nats, with
U uniform over the V tokens of the vocabulary and p the law the token was drawn from at temperature 1,

    KL(U || p) = -1/V sum_v log p_v - log V

Departures from the papers: the probability is that of the drawn token (which every backend tells), not of
the top k, and self-certainty is the weight itself, where its paper votes by powers of its rank. All
confidences equal reduces it to majority voting. An answer shorter than `window` is one window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from itscale.errors import ModelError, OptionError, did_you_mean
from itscale.methods.base import Outcome
from itscale.methods.session import Session
from itscale.methods.whole import Voting
from itscale.models.base import Capability
from itscale.types import Path, Step

__all__ = ["ConfidenceVote"]

Confidence = Literal["mean", "last", "lowest", "tail", "window", "certainty"]


@dataclass(frozen=True, kw_only=True)
class ConfidenceVote(Voting):
    """N samples vote with their confidence; the text is the winner's most confident.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "confidence-vote"
    summary: ClassVar[str] = "N samples vote with the probability of their own tokens; no scorer"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "none"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LOGPROBS})

    confidence: Confidence = "mean"
    """Mean token log-probability of the whole answer, its last step, its lowest step, its last `window`
    tokens or its lowest `window`; or the mean self-certainty."""
    window: int = 2048
    """Tokens of `tail` and `window`."""
    keep: float = 1.0
    """Share of the answers that vote, the most confident ones (above 0, at most 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.confidence not in get_args(Confidence):
            raise OptionError(did_you_mean("confidence", str(self.confidence), get_args(Confidence)))
        if not 0 < self.keep <= 1:
            raise OptionError(f"keep is {self.keep}; give a share above 0 and at most 1")
        if self.window < 1:
            raise OptionError(f"window is {self.window}; give at least 1 token")

    @property
    def required(self) -> frozenset[Capability]:
        return self.needs | ({Capability.SELF_CERTAINTY} if self.confidence == "certainty" else set())

    async def search(self, session: Session) -> Outcome:
        paths = await session.sample(session.generations)
        confidences = [_CONFIDENCES[self.confidence](path, self.window) for path in paths]
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
        silent = [confidences[i] for i in range(len(paths)) if i not in set(answered)]
        likeliest = max(range(len(paths)), key=lambda i: (confidences[i], -i))
        total = math.fsum([*weights, *silent])
        return self.elected(candidates, next(iter(clusters), None), total, fallback=likeliest)


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


def _of_windows(path: Path, window: int) -> list[float]:
    """Geometric mean of the token probabilities in every `window` tokens in a row, first to last; of all
    where there are fewer.

    Raises:
        ModelError: a step tells its log-probability but not those of its tokens.
    """
    told = [step.token_logprobs for step in _spoken(path)]
    if any(logprobs is None for logprobs in told):
        raise ModelError("a step came without the log-probabilities of its tokens; use confidence=mean")
    sums = np.concatenate([[0.0], np.cumsum([p for logprobs in told for p in logprobs or ()])])
    width = min(window, len(sums) - 1)
    return np.exp((sums[width:] - sums[:-width]) / width).tolist() if width else [0.0]


def _self_certainty(path: Path) -> float:
    """Mean KL(uniform || law) of the tokens, nats; 0 for no token.

    Raises:
        ModelError: a step does not tell it, though its model offers it.
    """
    told = [step.token_certainties for step in _spoken(path)]
    if any(certainties is None for certainties in told):
        raise ModelError(
            "a step came without its self-certainty; use confidence=mean with this model, or make the "
            "recording anew if it is older than that"
        )
    each = [certainty for certainties in told for certainty in certainties or ()]
    return max(0.0, math.fsum(each) / len(each)) if each else 0.0  # rounding may leave it a hair below


_CONFIDENCES: Mapping[str, Callable[[Path, int], float]] = {
    "mean": lambda path, _: _mean_probability(_spoken(path)),
    "last": lambda path, _: _mean_probability(_spoken(path)[-1:]),
    "lowest": lambda path, _: min((_mean_probability([step]) for step in _spoken(path)), default=0.0),
    "tail": lambda path, window: _of_windows(path, window)[-1],
    "window": lambda path, window: min(_of_windows(path, window)),
    "certainty": lambda path, _: _self_certainty(path),
}
