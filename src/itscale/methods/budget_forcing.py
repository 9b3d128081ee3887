"""Budget forcing: one chain held to a length, from above by an exit, from below by "Wait".

Muennighoff et al. 2025, "s1: Simple test-time scaling", arXiv 2501.19393, section 3.1. Thinking is
cut at `thinking` tokens and the answer asked for; where the model ends by itself before `waits` is
used up, its ending is taken back and `wait` is put in its place:

    repeat waits + 1 times: think until the model ends or the budget is used
        not the last time: drop the ending, say "Wait"
    budget used: say the exit;  answer

Law: at most `thinking` tokens are generated before the answer, taken-back endings included, exactly
that many where the model would have gone on. Departure: the ending that is taken back is the whole
last step, not one token, because backends end steps where they like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itscale.errors import OptionError
from itscale.methods.base import Outcome
from itscale.methods.exiting import Exiting
from itscale.methods.session import Session

__all__ = ["BudgetForcing"]


@dataclass(frozen=True, kw_only=True)
class BudgetForcing(Exiting):
    """One chain with at least `waits` second thoughts and at most `thinking` tokens.

    Raises:
        OptionError: an option is out of range.
    """

    name: ClassVar[str] = "budget-forcing"
    summary: ClassVar[str] = "one chain held to a length: an exit ends it, a wait goes on"
    scales: ClassVar[bool] = False

    thinking: int | None = None
    """Tokens of thinking at most; none leaves it to `max_tokens` and the run's token limit."""
    waits: int = 0
    """How often an ending of the model's own is taken back."""
    wait: str = "Wait"
    r"""What is said instead of the ending (\n is a new line)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.thinking is not None and self.thinking < 1:
            raise OptionError(f"thinking is {self.thinking}; give at least 1 token, or none")
        if self.waits < 0:
            raise OptionError(f"waits is {self.waits}; give 0 or more")
        if self.waits and not self.wait:
            raise OptionError("wait is empty; give the text that makes the model go on")

    async def search(self, session: Session) -> Outcome:
        path, thought, waits = session.root, 0, self.waits
        while (room := self.room(session, thought, self.thinking)) > 0:
            longer = await self.step(session, path, room)
            if longer is path:
                break
            thought += longer.n_tokens - path.n_tokens
            if not self.is_over(longer):
                path = longer
            elif waits:
                waits -= 1
                session.pruned([longer])
                path = session.force(path, self.wait.replace("\\n", "\n"))
            else:
                return Outcome([self.candidate(await self.conclude(session, longer))], 0)
        [answered] = await self.leave(session, [path])
        return Outcome([self.candidate(answered)], 0)
