"""Lookahead search: beam search whose scores look a few steps further than the beam.

Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally", arXiv 2408.03314, section 5.2: after
each sampled step continue greedily (temperature 0) for k steps; the value of the step is the score
at the end of that rollout; the rollout is dropped, the step kept. Then as in beam search: keep the
best N/M prefixes of all and extend each with M children.

Rollouts are paid for: a round costs N (k + 1) steps, and their tokens count as discarded, so
compare methods at equal tokens. k = 0 is `Beam` with its defaults. A finished path has no rollout;
it competes for its place by its own score and keeps it while that does. When a rollout's call
fails, the step is judged as far as the rollout got.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from itscale.errors import OptionError
from itscale.methods.base import Method, Outcome
from itscale.methods.searching import Candidates, check_search_options
from itscale.methods.session import Session
from itscale.models.base import Capability
from itscale.scorers.base import AGGREGATIONS, Aggregation
from itscale.types import Path, StopReason

__all__ = ["Lookahead"]


@dataclass(frozen=True, kw_only=True)
class Lookahead(Method):
    """Beam search by the score at the end of a greedy rollout of k steps.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "lookahead"
    summary: ClassVar[str] = "beam search that judges a step by where it leads"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "process"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.STEPS})

    k: int = 1
    """Steps of a rollout."""
    width: int = 4
    """M: children of every kept prefix. A budget below it narrows it."""
    aggregate: Aggregation = "last"
    max_steps: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_search_options(self, "width", "max_steps")
        if self.k < 0:
            raise OptionError(f"k of lookahead is {self.k}; give 0 (no rollout) or more")

    async def search(self, session: Session) -> Outcome:
        """Extend, roll out, keep the best; until all that is kept has ended."""
        n = session.generations
        width = min(self.width, n)
        judged = Candidates(self.aggregate)
        foreseen: dict[Path, float] = {}
        beams, children = [session.root], n
        for _ in range(self.max_steps):
            grown = [path for group in await session.extend(beams, children) for path in group]
            fresh = [path for path in grown if path.depth and path not in foreseen]
            foreseen |= await self._foreseen(session, fresh, judged)
            beams = sorted(grown, key=lambda path: -foreseen.get(path, -math.inf))[: n // width]
            kept = set(beams)
            session.pruned([path for path in grown if path not in kept])
            children = width
            if session.exhausted or not any(map(session.can_grow, beams)):
                break
        stop = StopReason.STEPS if any(map(session.can_grow, beams)) else None
        return judged.outcome(beams, "argmax", session.exhausted or stop)

    async def _foreseen(
        self, session: Session, paths: Sequence[Path], judged: Candidates
    ) -> dict[Path, float]:
        """The value at the end of k greedy steps from each path; the rollouts are dropped."""
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
