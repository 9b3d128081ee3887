"""short-m@k: run k samples, keep the first m to finish, cancel the rest at once, vote.

Hassid et al. 2025, "Don't Overthink it. Preferring Shorter Thinking Chains for Improved LLM
Reasoning", arXiv 2505.17813. k is the budget's N. Ties go to the answer with the shortest chain.

With chain lengths l_(1) <= ... <= l_(k) and equal speed for all, it generates
sum_{i<=m} l_(i) + (k - m) l_(m) tokens and takes the time of l_(m). "First" is measured in
tokens only as far as the backend gives all samples the same speed; a chain that was cut off by a
limit did not finish and does not count. m >= k is `majority` with another rule for ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from itscale.errors import OptionError
from itscale.methods.base import Outcome
from itscale.methods.session import Session
from itscale.methods.whole import Voting
from itscale.types import Path

__all__ = ["ShortMAtK"]


@dataclass(frozen=True, kw_only=True)
class ShortMAtK(Voting):
    """The first m of N samples to finish vote; the text is the winner's shortest.

    Raises:
        OptionError: m is less than 1.
    """

    name: ClassVar[str] = "short-m-at-k"
    summary: ClassVar[str] = "the first m of N samples to finish vote, the rest are cancelled"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "none"

    m: int = 3
    """Samples waited for: 1 is the cheapest, 3 the paper's best trade-off; N or more waits for all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.m < 1:
            raise OptionError(f"m is {self.m}; give at least 1")

    @property
    def races(self) -> bool:
        return True

    async def search(self, session: Session) -> Outcome:
        n = session.generations

        async def wanted(seen: Sequence[Path]) -> int:
            return n - len(seen) if sum(path.finished for path in seen) < self.m else 0

        paths = await session.sample_while(n, wanted)
        candidates = [self.candidate(path, weight=1.0 / len(paths)) for path in paths]
        clusters = await self.votes(candidates, scores=[-float(path.n_tokens) for path in paths])
        winner = max(
            clusters,
            key=lambda c: (c.votes, -paths[c.representative].n_tokens, -c.members[0]),
            default=None,
        )
        return self.elected(candidates, winner, len(candidates))
