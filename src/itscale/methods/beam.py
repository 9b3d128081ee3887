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

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from itscale.errors import OptionError, did_you_mean
from itscale.methods.base import Outcome, StepMethod
from itscale.methods.searching import Candidates, check_search_options
from itscale.methods.session import Session
from itscale.scorers.base import Aggregation
from itscale.types import Path, StopReason

__all__ = ["Beam", "Scope", "check_scope", "search_beams"]

Scope = Literal["global", "parent"]
Families = Sequence[Sequence[Path]]
"""Children by parent."""


async def search_beams(
    session: Session,
    judged: Candidates,
    grow: Callable[[Sequence[Path], int, bool], Awaitable[Families]],
    value: Callable[[Path], float],
    *,
    width: int,
    scope: Scope,
    finished_hold_slot: bool,
    max_steps: int,
) -> Outcome:
    """Grow, keep the best by `value` (larger is better), until all that is kept has ended.

    `grow` gives each of some paths that many children; a path that may not move is its own child. It
    is told whether some call must go well: not where answers are set aside already.
    """
    n = session.generations
    width = min(width, n)
    done: list[Path] = []
    [first] = await grow([session.root], n, True)
    families: Families = [first[i : i + width] for i in range(0, len(first), width)]
    beams: list[Path] = []
    for step in range(max_steps):
        if not finished_hold_slot:
            done += [path for family in families for path in family if path.ended]
            families = [[path for path in family if not path.ended] for family in families]
        paths = [path for family in families for path in family]
        if scope == "parent":
            beams = [max(family, key=value) for family in families if family]
        else:
            beams = sorted(paths, key=value, reverse=True)[: n // width]
        kept = set(beams)
        session.pruned([path for path in paths if path not in kept])
        if session.exhausted or len(done) >= n or not any(map(session.can_grow, beams)):
            break
        if step < max_steps - 1:
            families = await grow(beams, width, not done)
    growing = len(done) < n and any(map(session.can_grow, beams))
    stop = session.exhausted or (StopReason.STEPS if growing else None)
    return judged.outcome([*done, *beams], "argmax", stop)


def check_scope(scope: str) -> None:
    """Raises OptionError if it is none."""
    if scope not in ("global", "parent"):
        raise OptionError(did_you_mean("scope", scope, ["global", "parent"]))


@dataclass(frozen=True, kw_only=True)
class Beam(StepMethod):
    """N paths, the best N/width prefixes are kept after every step and extended `width` times.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "beam"
    summary: ClassVar[str] = "keep the best prefixes after every step, fork each"

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

    async def search(self, session: Session) -> Outcome:
        """Beams by the score of the prefix itself, judged as soon as it is there."""
        judged = Candidates(self.aggregate)

        async def grow(paths: Sequence[Path], n: int, required: bool) -> Families:
            return judged.add(await session.extend_scored(paths, n, required=required))

        return await search_beams(
            session,
            judged,
            grow,
            judged.value,
            width=self.width,
            scope=self.scope,
            finished_hold_slot=self.finished_hold_slot,
            max_steps=self.max_steps,
        )
