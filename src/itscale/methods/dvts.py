"""DVTS, diverse verifier tree search: independent greedy trees instead of one competition.

Beeching, Tunstall & Rush 2024, "Scaling test-time compute with open models" (Hugging Face): the
budget N is split into N / M trees; each samples M next steps, keeps the single best by score, and
goes on from it until that one has ended. A tree's candidates are the M children of its last
expansion, so that there are N in all; those among them that did not finish have no answer.

When M does not divide N, N / M is rounded down and the rest of N is left unused. M = 1 is N
independent samples, M = N step-wise best-of-N. Trees that have ended cost nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itscale.methods.base import Outcome
from itscale.methods.searching import Candidates, ForkingSearch
from itscale.methods.session import Session
from itscale.types import StopReason

__all__ = ["DVTS"]


@dataclass(frozen=True, kw_only=True)
class DVTS(ForkingSearch):
    """N / width trees, each following the best of `width` next steps.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "dvts"
    summary: ClassVar[str] = "independent greedy trees, each follows the best of a few next steps"

    async def search(self, session: Session) -> Outcome:
        """Sample, keep the best of each tree, until the best of every tree has ended."""
        width = min(self.width, session.generations)
        judged = Candidates(self.aggregate)
        [first] = judged.add(
            await session.extend_scored([session.root], session.generations // width * width)
        )
        trees = [first[i : i + width] for i in range(0, len(first), width)]
        lost: set[int] = set()
        for _ in range(self.max_steps - 1):
            heads = {i: judged.best(tree) for i, tree in enumerate(trees) if i not in lost}
            heads = {i: head for i, head in heads.items() if session.can_grow(head)}
            if not heads or session.exhausted:
                break
            required = len(heads) == len(trees)
            families = judged.add(await session.extend_scored([*heads.values()], width, required=required))
            for (i, head), family in zip(heads.items(), families, strict=True):
                if not family:
                    lost.add(i)  # its call failed: the tree ends with the candidates it has
                elif family != [head]:
                    session.pruned([path for path in trees[i] if path is not head])
                    trees[i] = family
        growing = any(session.can_grow(judged.best(tree)) for i, tree in enumerate(trees) if i not in lost)
        stop = session.exhausted or (StopReason.STEPS if growing else None)
        return judged.outcome([path for tree in trees for path in tree], self.choose, stop)
