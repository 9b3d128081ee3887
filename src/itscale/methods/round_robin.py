"""Round robin: every two samples meet, and the one that wins most wins.

Chen et al. 2024, "Provable Scaling Laws for the Test-Time Compute of Large Language Models", arXiv
2411.19477, algorithm 2 (the league), over all opponents instead of some. The points are Copeland's
(1951): 1 for a match won, 1/2 for a tie. A match is two comparisons, one in each order
(`methods/comparing.py`).

Law: whoever is preferred to everybody else (the Condorcet winner), if there is one, is the result. A
cycle of preferences is a tie, which goes to the answer with more votes, else to the earlier sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from itscale.methods.base import Outcome
from itscale.methods.comparing import Comparing, preferences
from itscale.methods.session import Session

__all__ = ["RoundRobin"]


@dataclass(frozen=True, kw_only=True)
class RoundRobin(Comparing):
    """m contestants take m (m - 1) scorer calls, all at once.

    A candidate's score is its share of the points it could have, 0 to 1. A match that was not played,
    because a limit bound, counts as a tie; rounds are played in full, so a limit treats all alike.
    """

    name: ClassVar[str] = "round-robin"
    summary: ClassVar[str] = "N samples, a judge compares every two in both orders, most points win"

    async def search(self, session: Session) -> Outcome:
        candidates, contestants = await self.contest(session)
        if len(contestants) == 1:
            return Outcome(candidates, contestants[0])
        matches = rounds(contestants)
        pairs = [(candidates[first].path, candidates[second].path) for first, second in matches]
        points = dict.fromkeys(contestants, 0.0)
        for (first, second), liked in zip(matches, await preferences(session, pairs), strict=True):
            points[first] += (1 + liked) / 2
            points[second] += (1 - liked) / 2
        shares = {i: points[i] / (len(contestants) - 1) for i in contestants}
        return Outcome(self.scored(candidates, shares), max(shares, key=lambda i: shares[i]))


def rounds(players: Sequence[int]) -> list[tuple[int, int]]:
    """Every pair once, the earlier player first, round by round: in a round nobody plays twice.

    The circle method: one player stays, the others move on by one place.

    >>> rounds([1, 2, 3, 4])
    [(1, 4), (2, 3), (1, 3), (2, 4), (1, 2), (3, 4)]
    """
    circle: list[int | None] = [*range(len(players)), *([None] if len(players) % 2 else [])]
    pairs = []
    for _ in range(len(circle) - 1):
        for a, b in zip(circle[: len(circle) // 2], reversed(circle), strict=False):
            if a is not None and b is not None:
                pairs.append((players[min(a, b)], players[max(a, b)]))
        circle.insert(1, circle.pop())
    return pairs
