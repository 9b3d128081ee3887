"""Segment trees: answers grow segment by segment, fork at the ends of segments, and stop early.

Li et al. 2025, "TreePO: Bridging the Gap of Policy Optimization and Efficacy and Inference Efficiency
with Heuristic Tree-based Modeling", arXiv 2508.17445. With W = N answers wanted, b = `branching`:

    b copies of the prompt (`trees` of them) are open; every round each open path gets one segment
    ended, or repeating itself, or at depth D: done
    the open ones fork: total = min(W - done, b * open + b * done now), shared equally, the rest to the last
    none open and W not reached: fall back to a random segment boundary of a done path, fork there

A segment is `segment` tokens, or a step of the model. Chosen where the sources leave it open: forks
never exceed W (the published code gives every open path at least one, and may); fallbacks take
unfinished answers first and a boundary uniformly. With trees = N and branching = 1 it is N
independent samples.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from itscale.errors import OptionError
from itscale.methods.base import Outcome
from itscale.methods.rollouts import Forks, RolloutTree, reopened
from itscale.methods.session import Session
from itscale.models.base import Capability
from itscale.types import Path

__all__ = ["SegmentTree", "fork_counts", "repeats_itself"]


@dataclass(frozen=True, kw_only=True)
class SegmentTree(RolloutTree):
    """N answers whose beginnings are shared.

    Raises:
        OptionError: an option is out of range.
    """

    name: ClassVar[str] = "segment-tree"
    summary: ClassVar[str] = "answers grow in segments and fork at their ends; all leaves vote (TreePO)"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.STEPS})

    branching: int = 2
    """b: forks of an open path a segment."""
    segment: int = 0
    """Tokens of a segment; 0 is a step of the model."""
    trees: int | None = None
    """Copies of the prompt to begin with; none is `branching`."""
    max_segments: int = 64
    """D: segments of an answer, at most."""
    stop_repeats: bool = True
    """End a path that says a chunk of 32 characters or more eight times in a row."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("branching", "max_segments"):
            if getattr(self, option) < 1:
                raise OptionError(f"{option} of segment-tree is {getattr(self, option)}; give at least 1")
        if self.segment < 0 or (self.trees is not None and self.trees < 1):
            raise OptionError("segment-tree takes a segment of 0 (a step) or more tokens, and 1 tree or more")

    async def search(self, session: Session) -> Outcome:
        """Grow, fork, stop, fall back; until W answers are done."""
        wanted, forks, depth = session.generations, Forks(session), {session.root: 0}
        active, counts = [session.root], [min(self.trees or self.branching, wanted)]
        falls = 0
        while active and not session.exhausted:
            grown = await self._segments(session, active, counts, depth, required=not forks.leaves)
            over = [path for path in grown if self._is_over(session, path, depth[path])]
            active = [path for path in grown if path not in set(over)]
            forks.leaves += over
            spare = wanted - len(forks.leaves)
            if not active and spare > 0 and forks.leaves:
                active, falls = [self._fallback(session, forks.leaves, falls, depth)], falls + 1
                counts = [min(self.branching, spare)]
            else:
                counts = fork_counts(len(active), len(over), self.branching, spare)
        forks.leaves += active  # a limit binds
        return await self.voted(session, forks)

    async def _segments(
        self,
        session: Session,
        paths: Sequence[Path],
        counts: Sequence[int],
        depth: dict[Path, int],
        *,
        required: bool,
    ) -> list[Path]:
        """Each path's forks, a segment longer; those that only the segment's length ended can go on."""
        until, at_most = ("end", self.segment) if self.segment else ("step", None)
        families = await session.extend(paths, counts, until=until, at_most=at_most, required=required)  # type: ignore[arg-type]
        grown = []
        for parent, family in zip(paths, families, strict=True):
            for child in family:
                path = reopened(session, child) if self.segment else child
                depth[path] = depth[parent] + (path is not parent)
                grown.append(path)
        return grown

    def _is_over(self, session: Session, path: Path, depth: int) -> bool:
        if not session.can_grow(path) or depth >= self.max_segments:
            return True
        return self.stop_repeats and repeats_itself(path.text)

    def _fallback(self, session: Session, done: Sequence[Path], number: int, depth: dict[Path, int]) -> Path:
        """A random segment boundary of the next done path in turn, those without an answer first."""
        path = sorted(done, key=lambda path: path.finished)[number % len(done)]
        boundaries = [node for node in path.nodes() if node is not path and node in depth]
        choice = session.rng.child("fallback", number).choose([1 / len(boundaries)] * len(boundaries))
        return boundaries[choice]


def fork_counts(n_open: int, n_over: int, branching: int, spare: int) -> list[int]:
    """How many segments each open path gets: at least one, `spare` in all at most, the rest to the last.

    >>> fork_counts(3, 0, 2, 8), fork_counts(2, 1, 2, 8), fork_counts(3, 1, 2, 3)
    ([2, 2, 2], [3, 3], [1, 1, 1])
    """
    total = min(spare, branching * (n_open + n_over)) if n_open else 0
    share, rest = divmod(total, n_open) if n_open else (0, 0)
    return [share + (i >= n_open - rest) for i in range(n_open)]


def repeats_itself(text: str) -> bool:
    """Whether a text ends in some chunk of 32 to 256 characters said eight times in a row.

    >>> repeats_itself("so " + 8 * "and again, from the beginning: we "), repeats_itself("again " * 9)
    (True, False)
    """
    return re.search(r"(.{32,256}?)\1{7}\Z", text[-2048:], re.DOTALL) is not None
