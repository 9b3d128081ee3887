"""Entropy-deviation exit: leave a chain when it is unsure beyond its own habit.

RPDI-EE, arXiv 2603.14251 (reasoning path deviation index). With H_i the entropy of the law token i
was drawn from (nats, temperature 1, before top-p and top-k),

    local_i = mean(H_{i-W+1} .. H_i)     global_i = mean(H_1 .. H_i)
    exit at the first step boundary with i >= W and local_i / global_i > threshold

The abstract speaks of frequent high-entropy transition tokens; `signal=transitions` takes the share of
tokens with H > `high` in place of the mean of H. The paper itself was not read: defaults are those of
independent re-implementations. Not covered: chains not much longer than W, whose ratio is about 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from itscale.errors import ModelError, OptionError, did_you_mean
from itscale.methods.base import Outcome
from itscale.methods.exiting import Exiting
from itscale.methods.session import Session
from itscale.models.base import Capability

__all__ = ["EntropyExit", "deviation"]

Signal = Literal["entropy", "transitions"]


@dataclass(frozen=True, kw_only=True)
class EntropyExit(Exiting):
    """One chain, left where local uncertainty exceeds `threshold` times its mean.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "entropy-exit"
    summary: ClassVar[str] = "one chain, left where it is unsure beyond its own habit"
    scales: ClassVar[bool] = False
    needs: ClassVar[frozenset[Capability]] = Exiting.needs | {Capability.TOKEN_STATISTICS}
    or_else: ClassVar[str] = (
        "; or stop the chain by anytime, budget-forcing, or early-exit calibrated with --features logprobs"
    )

    window: int = 512
    """W: tokens of the local mean, and before which there is no exit."""
    threshold: float = 2.0
    """The ratio of local to global that is too much."""
    signal: Signal = "entropy"
    """Mean entropy, or the share of tokens with more than `high`."""
    high: float = 1.0
    """Entropy (nats) above which a token counts as a transition."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1:
            raise OptionError(f"window is {self.window}; give at least 1 token")
        if not self.threshold > 0:
            raise OptionError(f"threshold is {self.threshold}; give a ratio above 0, above 1 to be of use")
        if self.signal not in get_args(Signal):
            raise OptionError(did_you_mean("signal", str(self.signal), get_args(Signal)))

    async def search(self, session: Session) -> Outcome:
        path, signal = session.root, list[float]()
        while (room := self.room(session, path.n_tokens)) > 0:
            longer = await self.step(session, path, room)
            if longer is path:
                break
            path = longer
            if self.is_over(path):
                return Outcome([self.candidate(await self.conclude(session, path))], 0)
            assert path.step is not None
            if path.step.token_entropies is None:
                raise ModelError("a step came without its entropies; use another exit with this model")
            signal += map(self._signal, path.step.token_entropies)
            if len(signal) >= self.window and deviation(signal, self.window) > self.threshold:
                break
        [answered] = await self.leave(session, [path])
        return Outcome([self.candidate(answered)], 0)

    def _signal(self, entropy: float) -> float:
        return entropy if self.signal == "entropy" else float(entropy > self.high)


def deviation(signal: Sequence[float], window: int) -> float:
    """Mean of the last `window` values over the mean of all; 1 where all are 0.

    >>> deviation([1.0, 1.0, 4.0], 1)
    2.0
    """
    total = sum(signal) / len(signal)
    recent = signal[-window:]
    return sum(recent) / len(recent) / total if total > 0 else 1.0
