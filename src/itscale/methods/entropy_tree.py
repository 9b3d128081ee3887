"""Entropy-fork tree majority: fork answers where the model was least sure, then let all leaves vote.

Liu et al. 2025, "ETTRL: Balancing Exploration and Exploitation in LLM Test-Time Reinforcement Learning
Via Entropy Mechanism", arXiv 2508.11356. Each of M trees is one whole answer, forked at its `forks`
tokens of largest entropy into `branches` new rests each: M (1 + forks * branches) leaves, a majority of
all. The paper's 3 and 2 make 7 leaves of about 60 % of the tokens of 7 samples.

M is the least that makes N leaves; the N - M new rests are dealt evenly to the trees, in each to the
most uncertain token first, so that all trees weigh the same in the vote.
Left open by the source, and chosen here: the token at the fork is drawn anew, freely; forks of a tree
are at least `spacing` tokens apart, and never at the first token, which would share nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import cycle, islice
from typing import ClassVar

from itscale.errors import OptionError
from itscale.methods.base import Outcome
from itscale.methods.rollouts import Forks, RolloutTree, token_statistics
from itscale.methods.session import Session
from itscale.types import Path

__all__ = ["EntropyTree", "peaks"]


@dataclass(frozen=True, kw_only=True)
class EntropyTree(RolloutTree):
    """N leaves on few trees, forked at uncertain tokens.

    Raises:
        OptionError: an option is out of range.
    """

    name: ClassVar[str] = "entropy-tree"
    summary: ClassVar[str] = "answers fork where the model is least sure; all leaves vote (ETMR)"

    forks: int = 3
    """Tokens of a tree to fork at; 0 is majority."""
    branches: int = 2
    """New rests from each."""
    spacing: int = 8
    """Tokens between two forks, at least."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.forks < 0 or self.branches < 0 or self.spacing < 1:
            raise OptionError("entropy-tree takes forks and branches of 0 or more, spacing of at least 1")

    async def search(self, session: Session) -> Outcome:
        """Sample the trunks, fork them, vote."""
        n = session.generations
        trunks = await session.sample(math.ceil(n / (1 + self.forks * self.branches)))
        forks = Forks(session, [path for path in trunks if path is not session.root])
        share, rest = divmod(n - len(trunks), max(1, len(forks.leaves))) if self.branches else (0, 0)
        dealt: Counter[tuple[Path, int]] = Counter()
        for i, path in enumerate(forks.leaves):
            at = peaks(token_statistics(path)[1], self.forks, self.spacing)
            dealt.update((path, t) for t in islice(cycle(at), share + (i < rest)))
        if dealt and not session.exhausted:
            await forks.finish([forks.cut(path, t) for path, t in dealt], list(dealt.values()))
        return await self.voted(session, forks)


def peaks(entropies: list[float], most: int, spacing: int) -> list[int]:
    """Positions of the largest entropies, largest first, each `spacing` from the others, and not the first.

    >>> peaks([9.0, 1.0, 3.0, 2.9, 0.0, 2.0], 2, 2)
    [2, 5]
    """
    found: list[int] = []
    for t in sorted(range(1, len(entropies)), key=lambda t: -entropies[t]):
        if len(found) < most and all(abs(t - other) >= spacing for other in found):
            found.append(t)
    return found
