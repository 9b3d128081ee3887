"""Listwise selection: a judge ranks several samples at a time, in rotated orders.

A judge that sees many answers at once compares them all for the price of reading each once; what it
says depends on their places (Tang et al. 2024, "Found in the Middle: Permutation Self-Consistency
Improves Listwise Ranking in Large Language Models", arXiv 2310.07712, which shuffles where this
rotates). Each group is shown once in every rotation and the points are Borda's: the share of the
others that an answer stands before, a tie counting half, averaged over the orders.

Law: over all rotations everybody is in every place once, so what a judge gives to a place alone adds
the same to all and changes nothing. Groups of two under both orders are `knockout` with points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from itscale.errors import OptionError
from itscale.methods.base import Outcome
from itscale.methods.comparing import Comparing
from itscale.methods.session import Session

__all__ = ["Listwise"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Listwise(Comparing):
    """Contestants are split into groups, the winner of each goes on, until one is left.

    A candidate's score is the points of the last group it was in, 0 to 1. A tie goes to the answer with
    more votes, else to the earlier sample; orders that failed or were not asked do not count.

    Raises:
        OptionError: an option is out of range.
    """

    name: ClassVar[str] = "listwise"
    summary: ClassVar[str] = "N samples, a judge ranks several at a time in rotated orders"

    group: int = 8
    """Answers the judge sees at once, at most."""
    rotations: int | None = None
    """Orders each group is shown in, at most; none: all of them, one for each member."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group < 2:
            raise OptionError(f"group is {self.group}; give at least 2 answers to compare")
        if self.rotations is not None and self.rotations < 2:
            raise OptionError(
                f"rotations is {self.rotations}; give at least 2, for one order has its favourites, or none"
            )

    async def search(self, session: Session) -> Outcome:
        candidates, standing = await self.contest(session)
        points: dict[int, float] = {}
        while len(standing) > 1:
            n_groups = math.ceil(len(standing) / self.group)
            groups = [standing[i::n_groups] for i in range(n_groups)]
            orders = [order for group in groups for order in rotated(group, self.rotations)]
            ranks = await session.compare([[candidates[i].path for i in order] for order in orders])
            latest = borda(orders, ranks)
            points |= latest
            standing = [max(group, key=lambda i: latest.get(i, 0.5)) for group in groups]
        return Outcome(self.scored(candidates, points), standing[0])


def rotated(members: Sequence[T], most: int | None) -> list[list[T]]:
    """`members` from the beginning and from other places on, evenly spread; all of them by default.

    >>> rotated("abcd", 2)
    [['a', 'b', 'c', 'd'], ['c', 'd', 'a', 'b']]
    """
    n = len(members)
    shown = min(n, most or n)
    starts = [i * n // shown for i in range(shown)] if n > 1 else []
    return [[*members[start:], *members[:start]] for start in starts]


def borda(orders: Sequence[Sequence[int]], ranks: Sequence[tuple[int, ...] | None]) -> dict[int, float]:
    """Points of all who were ranked: the share of the others they stand before, averaged over orders."""
    shares: dict[int, list[float]] = {}
    for order, given in zip(orders, ranks, strict=True):
        for who, rank in zip(order, given or (), strict=False):
            assert given is not None
            ahead = sum(rank < other for other in given) + (given.count(rank) - 1) / 2
            shares.setdefault(who, []).append(ahead / (len(order) - 1))
    return {who: math.fsum(own) / len(own) for who, own in shares.items()}
