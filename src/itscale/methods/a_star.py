"""A*-decoding: expand the partial answer of least cost, where a step that mends doubt is paid for.

Chatziveroglou 2025, "A*-Decoding: Token-Efficient Inference Scaling", arXiv 2505.13672. With r in
(0, 1) the score of a prefix, and 1 for the prompt itself:

    h(s) = 1 - r(s)                     the scorer's doubt
    c(s, s') = max(0, h(s) - h(s'))     a step costs what it lowers the doubt by
    f(s) = g(s) + h(s)                  g(s) the sum of c over the steps to s

Law: h is consistent, h(s) <= c(s, s') + h(s'), so f is the sum of all rises of doubt on the way and
never falls along a path. The first finished path popped therefore has the least f among all finished
paths that were generated, or that open paths left behind could still lead to. With the opposite sign
of c, which the paper's wording allows as well, f can fall and nothing of the kind holds.

Not covered: optimality over answers that were never sampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from itscale.methods.base import Outcome, StepMethod
from itscale.methods.best_first import search_frontier
from itscale.methods.searching import Candidates, check_search_options
from itscale.methods.session import Session

__all__ = ["AStar", "total_cost"]


def step_cost(before: float, after: float) -> float:
    """c(s, s') from the scores r of a prefix and of the prefix with one more step."""
    return max(0.0, after - before)


def total_cost(scores: tuple[float, ...]) -> float:
    """f of a path with these step scores: g + h, which is the sum of all falls of its score.

    >>> round(total_cost((0.8, 0.9, 0.6)), 12)  # 1 -> 0.8 and 0.9 -> 0.6
    0.5
    """
    prefixes = (1.0, *scores)
    return math.fsum(step_cost(before, after) for before, after in pairwise(prefixes)) + 1 - prefixes[-1]


@dataclass(frozen=True, kw_only=True)
class AStar(StepMethod):
    """The partial answer of least f is expanded, until that is a finished one.

    Raises:
        OptionError: an option is out of range.
    """

    name: ClassVar[str] = "a-star"
    summary: ClassVar[str] = "expand the partial answer whose score has fallen least on its way"

    width: int = 4
    """Children of every expansion but the first. A budget below it narrows it."""
    frontier_cap: int = 256
    """Paths that may wait; beyond it those of largest f are dropped."""
    max_expansions: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_search_options(self, "width", "frontier_cap", "max_expansions")

    async def search(self, session: Session) -> Outcome:
        """Pop the least f, expand, push; until the popped path has finished."""
        judged = Candidates("last")
        return await search_frontier(
            session,
            judged,
            lambda path: total_cost(judged.scores(path)),
            width=self.width,
            frontier_cap=self.frontier_cap,
            max_expansions=self.max_expansions,
        )
