"""Beam search over steps guided by a process scorer.

Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally", arXiv 2408.03314, section 5.2: N
paths; after every step keep the best N/M prefixes by score and extend each with M children.
When M does not divide N, N/M is rounded down.

What the published codes leave open is an option here. `scope="global"` keeps the best N/M of all
children; `"parent"` keeps the best child of every parent, so that beams stay apart. With
`finished_hold_slot` (default) a finished path competes for its place like any other and keeps it
while its score does; without, it is set aside as a candidate, its place goes to an unfinished
path, and the search ends when N are set aside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from itscale.errors import OptionError, did_you_mean
from itscale.methods.base import Method, Outcome, best, candidate
from itscale.methods.session import Session
from itscale.models.base import Capability
from itscale.scorers.base import AGGREGATIONS, Aggregation
from itscale.types import Path

__all__ = ["Beam"]

Scores = dict[Path, tuple[float, ...]]
Families = Sequence[Sequence[Path]]
"""Children by parent."""


@dataclass(frozen=True, kw_only=True)
class Beam(Method):
    """N paths, the best N/width prefixes are kept after every step and extended `width` times."""

    name: ClassVar[str] = "beam"
    summary: ClassVar[str] = "keep the best prefixes after every step, fork each"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "process"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.STEPS})

    width: int = 4
    """M: children of every kept prefix. A budget below it narrows it."""
    scope: Literal["global", "parent"] = "global"
    aggregate: Aggregation = "last"
    finished_hold_slot: bool = True
    max_steps: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1 or self.max_steps < 1:
            raise OptionError("beam width and max_steps must be at least 1")
        if self.scope not in ("global", "parent"):
            raise OptionError(did_you_mean("scope", self.scope, ["global", "parent"]))
        if self.aggregate not in AGGREGATIONS:
            raise OptionError(did_you_mean("aggregate", self.aggregate, AGGREGATIONS))

    async def search(self, session: Session) -> Outcome:
        n = session.generations
        width = min(self.width, n)
        scores: Scores = {}
        done: list[Path] = []
        [first] = await session.extend_scored([session.root], n)
        grown = [first[i : i + width] for i in range(0, len(first), width)]
        beams: list[Path] = []
        for _ in range(self.max_steps):
            scores |= {path: judged for family in grown for path, judged in family if judged}
            families = [[path for path, _ in family] for family in grown]
            if not self.finished_hold_slot:
                done += [path for family in families for path in family if path.ended]
                families = [[path for path in family if not path.ended] for family in families]
            beams = self._select(session, families, n // width, scores)
            if session.exhausted or len(done) >= n or all(path.ended for path in beams):
                break
            grown = await session.extend_scored(beams, width)
            if all(family == [(beam, None)] for family, beam in zip(grown, beams, strict=True)):
                break  # nothing moves any more
        candidates = [
            candidate(path, score=self._value(path, scores), step_scores=scores.get(path, ()))
            for path in dict.fromkeys([*done, *beams])
        ]
        return Outcome(candidates, best(candidates))

    def _value(self, path: Path, scores: Scores) -> float | None:
        return AGGREGATIONS[self.aggregate](scores[path]) if path in scores else None

    def _select(self, session: Session, families: Families, keep: int, scores: Scores) -> list[Path]:
        """The best `keep` prefixes of all, or of every family its best one; ties to the earliest."""

        def order(path: Path) -> float:
            value = self._value(path, scores)
            return -math.inf if value is None else value

        paths = [path for family in families for path in family]
        if self.scope == "parent":
            kept = [max(family, key=order) for family in families if family]
        else:
            kept = sorted(paths, key=order, reverse=True)[:keep]
        chosen = set(kept)
        session.pruned([path for path in paths if path not in chosen])
        return kept
