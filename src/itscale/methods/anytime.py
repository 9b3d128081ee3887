"""Anytime answers: one chain, read at several lengths; whenever it is stopped there is an answer.

After AnytimeReasoner (Qi et al. 2025, "Optimizing Anytime Reasoning via Budget Relative Policy
Optimization", arXiv 2505.13438), its inference side: truncate the thinking, say the exit, answer. A
reading is taken at the first step boundary after every `every` tokens, `readings` answers each, while
the chain itself goes on; the last reading's majority (or the finished chain) is the answer.

Law: a limit on tokens or seconds leaves the last reading, so accuracy against tokens of one run is
read off its candidates, in order. Readings are charged: they are what an answer at any time costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itscale.errors import OptionError
from itscale.methods.base import Outcome
from itscale.methods.exiting import Exiting
from itscale.methods.session import Session
from itscale.types import Candidate, Path

__all__ = ["Anytime"]


@dataclass(frozen=True, kw_only=True)
class Anytime(Exiting):
    """One chain with an answer at every length.

    Raises:
        OptionError: an option is out of range.
    """

    name: ClassVar[str] = "anytime"
    summary: ClassVar[str] = "one chain read at several lengths: an answer whenever it is stopped"
    scales: ClassVar[bool] = False

    every: int = 512
    """Tokens between readings."""
    readings: int = 1
    """Answers a reading; one is greedy, more are drawn and vote."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1 or self.readings < 1:
            raise OptionError(f"every is {self.every}, readings {self.readings}; give at least 1 of each")

    async def search(self, session: Session) -> Outcome:
        path, read_at, due = session.root, None, self.every
        candidates, last = list[Candidate](), list[Candidate]()
        while (room := self.room(session, path.n_tokens)) > 0:
            longer = await self.step(session, path, room)
            if longer is path:
                break
            path = longer
            if self.is_over(path):
                whole = self.candidate(await self.conclude(session, path))
                return Outcome([*candidates, whole], len(candidates))
            if path.n_tokens >= due:
                read_at, due = path, path.n_tokens + self.every
                last = await self._read(session, path)
                candidates += last
        if read_at is not path:
            read = await self._read(session, path)
            if not last or any(candidate.answer is not None for candidate in read):
                last = read
                candidates += last
        clusters = await self.votes(last)
        chosen = clusters[0].representative if clusters else 0
        return Outcome(candidates, len(candidates) - len(last) + chosen)

    async def _read(self, session: Session, path: Path) -> list[Candidate]:
        if self.readings == 1:
            return [self.candidate(answer) for answer in await self.leave(session, [path])]
        forced = self.forced(session, path)
        drawn = await session.continued([forced] * self.readings, at_most=self.answer_tokens, whole=True)
        return [self.candidate(answer or forced) for answer in drawn]
