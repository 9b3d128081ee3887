"""Knockout: samples meet in pairs, the better one goes on, until one is left.

Chen et al. 2024, "Provable Scaling Laws for the Test-Time Compute of Large Language Models", arXiv
2411.19477, algorithm 1. If some sample is right, and the judge prefers a right answer to a wrong one
more often than not, the chance of failure falls to 0 as N and the comparisons a match grow.

Here a match is two comparisons, one in each order, and where they disagree the pair is tied
(`methods/comparing.py`). A tie goes to the answer with more votes, else to the earlier sample; the
paper breaks ties at random and has K comparisons of independent draws.

Law: with a judge that goes by a strict order the result is the best contestant; with one that goes by
place it is the contestant that stands first, so a useless judge does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itscale.methods.base import Outcome
from itscale.methods.comparing import Comparing, preferences
from itscale.methods.session import Session

__all__ = ["Knockout"]


@dataclass(frozen=True, kw_only=True)
class Knockout(Comparing):
    """m contestants take m - 1 matches, two scorer calls each; a candidate's score is its won matches.

    A match that was not played, because a limit bound, is a tie.
    """

    name: ClassVar[str] = "knockout"
    summary: ClassVar[str] = "N samples, a judge compares two at a time in both orders, the winner goes on"

    async def search(self, session: Session) -> Outcome:
        candidates, standing = await self.contest(session)
        won = dict.fromkeys(standing, 0.0)
        while len(standing) > 1:
            matches = list(zip(standing[::2], standing[1::2], strict=False))
            pairs = [(candidates[first].path, candidates[second].path) for first, second in matches]
            rest = standing[2 * len(matches) :]  # one without an opponent goes on
            standing = []
            for (first, second), liked in zip(matches, await preferences(session, pairs), strict=True):
                standing.append(second if liked < 0 else first)
                won[standing[-1]] += abs(liked)
            standing += rest
        return Outcome(self.scored(candidates, won), standing[0])
