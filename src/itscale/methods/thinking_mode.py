"""Thinking modes: answer at once, think briefly, think at length; the cheap ones agreeing is enough.

After ARM (Wu et al. 2025, "ARM: Adaptive Reasoning Model", arXiv 2505.20258), its consensus-guided
mode, without training a model for it: the modes are made by forcing. `direct` says the exit at once,
`short` cuts the thinking at `short_tokens`, `long` is the majority of whole chains.

    consensus:  a, b = direct, short;  if a = b return it, else long with what is left of N

Law: with P(agree) the rate at which the cheap modes agree, expected cost = cost(direct) +
cost(short) + (1 - P(agree)) cost(long). Departure: two cheap modes, not three (no code is executed).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from itscale.errors import OptionError, did_you_mean
from itscale.methods.base import Outcome
from itscale.methods.exiting import Exiting
from itscale.methods.session import Session
from itscale.types import Candidate

__all__ = ["ThinkingMode"]

Mode = Literal["consensus", "direct", "short", "long"]


@dataclass(frozen=True, kw_only=True)
class ThinkingMode(Exiting):
    """One mode, or the cheap ones and the long one where they disagree.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "thinking-mode"
    summary: ClassVar[str] = "a direct and a short answer; whole chains only where they disagree"

    mode: Mode = "consensus"
    """A mode by itself, or the consensus of the cheap ones."""
    short_tokens: int = 256
    """Tokens of thinking of a short answer at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in get_args(Mode):
            raise OptionError(did_you_mean("mode", str(self.mode), get_args(Mode)))
        if self.short_tokens < 1:
            raise OptionError(f"short_tokens is {self.short_tokens}; give at least 1")

    async def search(self, session: Session) -> Outcome:
        cheap: list[Candidate] = []
        if self.mode in ("direct", "consensus"):
            [path] = await self.leave(session, [session.root])
            cheap.append(self.candidate(path))
        if self.mode in ("short", "consensus"):
            cheap.append(await self._short(session))
        if self.mode != "long" and (self.mode != "consensus" or await self._agree(cheap)):
            return Outcome(cheap, len(cheap) - 1)
        more = max(1, session.generations - len(cheap))
        whole = [self.candidate(path) for path in await session.sample(more)]
        clusters = await self.votes(whole)
        if not clusters and cheap:
            return Outcome([*cheap, *whole], len(cheap) - 1)
        return Outcome([*cheap, *whole], len(cheap) + (clusters[0].representative if clusters else 0))

    async def _short(self, session: Session) -> Candidate:
        path = session.root
        while (room := self.room(session, path.n_tokens, self.short_tokens)) > 0:
            longer = await self.step(session, path, room)
            if longer is path:
                break
            path = longer
            if self.is_over(path):
                return self.candidate(await self.conclude(session, path))
        [answered] = await self.leave(session, [path])
        return self.candidate(answered)

    async def _agree(self, cheap: Sequence[Candidate]) -> bool:
        """Whether every cheap mode has an answer, the same one."""
        clusters = await self.votes(cheap)
        return len(clusters) == 1 and len(clusters[0].members) == len(cheap)
