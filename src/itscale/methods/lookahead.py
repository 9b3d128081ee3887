"""Lookahead search: beam search whose scores look a few steps further than the beam.

Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally", arXiv 2408.03314, section 5.2: after
each sampled step continue greedily (temperature 0) for k steps; the value of the step is the score
at the end of that rollout; the rollout is dropped, the step kept. Then as in `Beam`, whose options
it shares.

Rollouts are paid for: a round costs N (k + 1) steps, and their tokens count as discarded, so
compare methods at equal tokens. k = 0 is `Beam`. A finished path has no rollout and is valued by its
own score. When a rollout's call fails, the step is judged as far as the rollout got.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from itscale.errors import OptionError
from itscale.methods.base import Outcome, StepMethod
from itscale.methods.beam import Scope, check_scope, search_beams
from itscale.methods.searching import Candidates, check_search_options
from itscale.methods.session import Session
from itscale.scorers.base import AGGREGATIONS, Aggregation
from itscale.types import Path

__all__ = ["Lookahead"]


@dataclass(frozen=True, kw_only=True)
class Lookahead(StepMethod):
    """Beam search by the score at the end of a greedy rollout of k steps.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "lookahead"
    summary: ClassVar[str] = "beam search that judges a step by where it leads"

    k: int = 1
    """Steps of a rollout."""
    width: int = 4
    """M: children of every kept prefix. A budget below it narrows it."""
    scope: Scope = "global"
    aggregate: Aggregation = "last"
    finished_hold_slot: bool = True
    max_steps: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_search_options(self, "width", "max_steps")
        check_scope(self.scope)
        if self.k < 0:
            raise OptionError(f"k of lookahead is {self.k}; give 0 (no rollout) or more")

    async def search(self, session: Session) -> Outcome:
        """Beams by the score at the end of each step's rollout."""
        judged = Candidates(self.aggregate)
        foreseen: dict[Path, float] = {}

        async def grow(paths: Sequence[Path], n: int, required: bool) -> list[list[Path]]:
            families = await session.extend(paths, n, required=required)
            fresh = [path for family in families for path in family if path.depth and path not in foreseen]
            foreseen.update(await self._foreseen(session, fresh, judged))
            return families

        return await search_beams(
            session,
            judged,
            grow,
            lambda path: foreseen.get(path, -math.inf),
            width=self.width,
            scope=self.scope,
            finished_hold_slot=self.finished_hold_slot,
            max_steps=self.max_steps,
        )

    async def _foreseen(
        self, session: Session, paths: Sequence[Path], judged: Candidates
    ) -> dict[Path, float]:
        """The value at the end of k greedy steps from each path; the rollouts are dropped."""
        session.begin(paths)
        ends = list(paths)
        for _ in range(self.k):
            if not any(map(session.can_grow, ends)):
                break
            groups = await session.extend(ends, greedy=True, required=False)
            ends = [group[0] if group else end for group, end in zip(groups, ends, strict=True)]
        session.pruned([end for path, end in zip(paths, ends, strict=True) if end is not path])
        values = {}
        for path, scores in zip(paths, await session.score(ends), strict=True):
            judged.add([[(path, scores[: path.depth] if scores else None)]])
            values[path] = AGGREGATIONS[self.aggregate](scores) if scores else judged.value(path)
        return values
