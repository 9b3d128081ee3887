"""Best-first search: always expand the partial answer with the best score, wherever it is.

The frontier holds every generated path that was not expanded yet. The best of it is popped: if it
has finished it is the answer, else it gets `width` sampled children, which join the frontier. On
score ties the deeper path goes first, then the earlier one. Children that say the same are one
child, judged once.

Law: the answer's score is the largest among all finished paths that were generated, and no open
path that was left behind had a larger one, but for those that the cap on the frontier dropped.
`AStar` is the same search with a cost that never falls along a path.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

from itscale.methods.base import Outcome, StepMethod
from itscale.methods.searching import Candidates, check_search_options, rolled_out
from itscale.methods.session import Session
from itscale.methods.tree import distinct
from itscale.scorers.base import Aggregation
from itscale.types import Path, StopReason

__all__ = ["BestFirst", "Frontier", "search_frontier"]


class Frontier:
    """Open and finished paths in order of cost (least first), at most `cap` of them."""

    def __init__(self, cost: Callable[[Path], float], cap: int) -> None:
        self._cost = cost
        self._cap = cap
        self._heap: list[tuple[float, int, int, Path]] = []
        self._order = count()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, paths: Iterable[Path]) -> list[Path]:
        """Add paths; returns those of largest cost that no longer fit."""
        for path in paths:
            heapq.heappush(self._heap, (self._cost(path), -path.depth, next(self._order), path))
        self._heap.sort()  # a sorted list is a heap
        dropped = [entry[-1] for entry in self._heap[self._cap :]]
        del self._heap[self._cap :]
        return dropped

    def pop(self) -> Path | None:
        """The path of least cost; None when there is none."""
        return heapq.heappop(self._heap)[-1] if self._heap else None


async def search_frontier(
    session: Session,
    judged: Candidates,
    cost: Callable[[Path], float],
    *,
    width: int,
    frontier_cap: int,
    max_expansions: int,
) -> Outcome:
    """Expand the path of least cost until the one popped has finished.

    The root gets as many children as the budget has generations, every later path `width`. When a
    limit binds first, or nothing is left, the finished path of least cost is the answer, and if
    there is none, the open path of least cost grown to its end without branching.
    """
    frontier = Frontier(cost, frontier_cap)
    ended: list[Path] = []
    popped: Path | None = session.root
    children, expansions = session.generations, 0
    while popped is not None and not popped.finished and not session.exhausted:
        if expansions == max_expansions:
            break
        expansions += 1
        required = not ended and not frontier
        [drawn] = await session.extend([popped], children, required=required)
        if drawn == [popped]:  # a limit binds
            break
        family = distinct(drawn)
        session.pruned([path for path in drawn if path not in family])
        session.begin(family)
        judged.add([list(zip(family, await session.score(family), strict=True))])
        ended += [path for path in family if not session.can_grow(path)]
        session.pruned(frontier.push(path for path in family if path.finished or session.can_grow(path)))
        popped, children = frontier.pop(), min(width, session.generations)
    stop = StopReason.STEPS if popped is not None and not popped.finished else None
    if popped is not None and not any(path.finished for path in ended):
        ended.append(await rolled_out(session, judged, popped))
    chosen = min(ended, key=lambda path: (path is not popped, not path.finished, cost(path)))
    candidates = [judged.candidate(path) for path in ended]
    return Outcome(candidates, ended.index(chosen), stop_reason=session.exhausted or stop)


@dataclass(frozen=True, kw_only=True)
class BestFirst(StepMethod):
    """The best-scored partial answer of all is expanded, until that is a finished one.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "best-first"
    summary: ClassVar[str] = "always expand the best-scored partial answer, wherever it is"

    width: int = 4
    """Children of every expansion but the first. A budget below it narrows it."""
    aggregate: Aggregation = "last"
    frontier_cap: int = 256
    """Paths that may wait; beyond it the worst are dropped."""
    max_expansions: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_search_options(self, "width", "frontier_cap", "max_expansions")

    async def search(self, session: Session) -> Outcome:
        """Pop the best score, expand, push; until the popped path has finished."""
        judged = Candidates(self.aggregate)
        return await search_frontier(
            session,
            judged,
            lambda path: -judged.value(path),
            width=self.width,
            frontier_cap=self.frontier_cap,
            max_expansions=self.max_expansions,
        )
