"""SMC over revisions: whole drafts, reweighted little by little toward the target, cut and regrown between.

Del Moral, Doucet & Jasra 2006, "Sequential Monte Carlo samplers", JRSS B 68, with tempered targets and
the kernel of `methods/regrowing.py`. With b_0 = 0 < b_1 < ... < b_L = 1, evenly spaced:

    x_i ~ p, whole answers, weight 1
    for l = 1..L:
      weight *= w(x)^(b_l - b_{l-1})
      resample when the effective sample size is low
      revise every path: cut it, regrow it, accept by the odds of p(x) * w(x)^b_l

Law: the weighted population times the evidence estimate is unbiased for p(x) * w(x), w that of
`ParticleFilter`'s target for finished paths, for every N >= 1, L and number of moves. Unlike a filter
over steps it needs no score on the way: only finished answers are weighed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from itscale.errors import OptionError
from itscale.methods.base import Method, Outcome
from itscale.methods.filtering import (
    CHOICES,
    TARGETS,
    Choice,
    Scores,
    Target,
    candidates_of,
    check_known,
    choose_slot,
    log_weight,
)
from itscale.methods.regrowing import moved
from itscale.methods.session import Session
from itscale.models.base import Capability
from itscale.weights import SCHEMES, Population, Scheme

__all__ = ["RevisionSMC"]


@dataclass(frozen=True, kw_only=True)
class RevisionSMC(Method):
    """N drafts, revised at every one of a few levels between the model and the target.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "revision-smc"
    summary: ClassVar[str] = "whole drafts, reweighted level by level, cut and regrown in between"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "process"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.STEPS})

    levels: int = 3
    """L: from the model to the target."""
    moves: int = 1
    """Revisions of every draft at each level."""
    target: Target = "final"
    resampling: Scheme = "systematic"
    ess_threshold: float = 0.5
    choose: Choice = "vote"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known(self, target=TARGETS, resampling=SCHEMES, choose=CHOICES)
        if not 0 <= self.ess_threshold <= 1:
            raise OptionError(f"ess_threshold is {self.ess_threshold}; give a share of N, 0 to 1")
        if self.levels < 1 or self.moves < 0:
            raise OptionError("revision-smc takes levels of at least 1 and moves of at least 0")

    async def search(self, session: Session) -> Outcome:
        """Draft, then level by level: reweight, resample, revise."""
        drafts = await session.sample_scored(session.generations)
        scores: Scores = {
            node: judged[: node.depth] if judged else () for path, judged in drafts for node in path.nodes()
        }
        population = Population.start([path for path, _ in drafts])
        for level in range(1, self.levels + 1):
            weights = [log_weight(self.target, scores[path], last=True) for path in population.items]
            population = population.reweight([weight / self.levels for weight in weights])
            if session.exhausted:
                continue  # no more drafts, yet these are to have all of their weight
            if population.ess < self.ess_threshold * len(population):
                before = population
                population, _ = population.resample(self.resampling, session.rng.child("resample", level))
                session.resampled(before, population)
            population = await moved(
                session,
                population,
                scores,
                session.rng.child("move", level),
                moves=self.moves,
                target=self.target,
                power=level / self.levels,
            )
        candidates = candidates_of(population, scores)
        chosen = choose_slot(candidates, self.choose, session.rng.child("choose"))
        return Outcome(candidates, chosen, population.log_evidence, population.ess, session.exhausted)
