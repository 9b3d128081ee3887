"""SMC beam: beam search with unbiased selection, a particle filter without duplicates.

Fearnhead & Clifford 2003, "On-line inference for hidden Markov models via particle filters", JRSS B
65, section 3; over language models Lew et al. 2023, "Sequential Monte Carlo steering of large
language models using probabilistic programs", arXiv 2306.03081, Algorithm 2.

    x = { the empty path }, w = 1
    while some path grows:
      every path is replaced by its M sampled children (N of the empty one), each with w / M;
      children that say the same are one, with the sum of their weights
      w *= G_t
      more than N / M left (and something grows): keep N / M of them by the optimal unbiased scheme,
      whose threshold c solves sum_i min(w_i / c, 1) = N / M:
        above c with the weight it has, below it with probability w_i / c and weight c

Law: that of `ParticleFilter`, for every N and M: times the evidence estimate the weighted final
population is unbiased for p(x) * prod_t G_t. The best prefixes are kept for certain, as in beam
search, and the others as often as it takes to keep the law.

A finished path competes for its place by its weight, which is final. When M does not divide N, N/M
is rounded down. Nothing is dropped after the last step, so up to N candidates are new ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from itscale.errors import OptionError
from itscale.methods.base import Outcome, StepMethod
from itscale.methods.filtering import (
    CHOICES,
    TARGETS,
    Choice,
    Scores,
    Target,
    candidates_of,
    check_known,
    choose_slot,
    still_growing,
    target_potential,
)
from itscale.methods.session import Session
from itscale.types import Path, StopReason
from itscale.weights import Population

__all__ = ["SMCBeam"]


@dataclass(frozen=True, kw_only=True)
class SMCBeam(StepMethod):
    """N new steps a round from N / width different prefixes, chosen without bias.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "smc-beam"
    summary: ClassVar[str] = (
        "beam search that keeps the law: different prefixes, weighted, chosen without bias"
    )

    width: int = 2
    """M: children of every kept prefix. A budget below it narrows it."""
    target: Target = "final"
    choose: Choice = "vote"
    max_steps: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known(self, target=TARGETS, choose=CHOICES)
        if self.width < 1 or self.max_steps < 1:
            raise OptionError("smc-beam width and max_steps must be at least 1")

    async def search(self, session: Session) -> Outcome:
        """Expand, merge, reweight, reduce; until all have ended."""
        n = session.generations
        width = min(self.width, n)
        population = Population.start([session.root])
        scores: Scores = {session.root: ()}
        for step in range(self.max_steps):
            if session.exhausted or not still_growing(population, session):
                break
            if step > 0:
                before = population
                population = population.reduce(n // width, session.rng.child("reduce", step))
                session.pruned([path for path in before.items if path not in set(population.items)])
            population = await self._expanded(population, scores, session, width if step else n)
        stop = session.exhausted or (StopReason.STEPS if still_growing(population, session) else None)
        candidates = candidates_of(population, scores)
        chosen = choose_slot(candidates, self.choose, session.rng.child("choose"))
        return Outcome(candidates, chosen, population.log_evidence, population.ess, stop)

    async def _expanded(
        self, population: Population[Path], scores: Scores, session: Session, n: int
    ) -> Population[Path]:
        """Different children in place of every path, reweighted; records the new `scores`."""
        required = not any(path.ended for path in population.items)
        families = await session.extend(population.items, n, required=required)
        shares = [_merged(family) for family in families]
        fresh = [path for share in shares for path in share if path not in scores]
        session.begin(fresh)
        for path, judged in zip(fresh, await session.score(fresh), strict=True):
            assert path.parent is not None
            scores[path] = judged or scores[path.parent]
        potential = target_potential(self.target, scores, session)
        grown = population.split(shares)
        old = [item for item, share in zip(population.items, shares, strict=True) for _ in share]
        moved = zip(old, grown.items, strict=True)
        return grown.reweight([0.0 if new is before else potential(before, new) for before, new in moved])


def _merged(family: Sequence[Path]) -> dict[Path, float]:
    """The different children of one path, the first of each kind, with their shares of all."""
    said = [(path.step.token_ids, path.step.text) if path.step else ((), "") for path in family]
    counts = Counter(said)
    first = dict(zip(reversed(said), reversed(family), strict=True))
    return {first[what]: count / len(family) for what, count in counts.items()}
