"""Resample-move: a particle filter whose open paths are revised after every step, so that copies differ.

Gilks & Berzuini 2001, "Following a moving target: Monte Carlo inference for dynamic Bayesian models",
JRSS B 63. A composition: the particle filter, and after every step, once perhaps resampled, each open
path is moved by a kernel that leaves that step's target p(x_{1:t}) * w_t(x_{1:t}) invariant. The kernel
is a revision: cut somewhere, regrown to step t, accepted by the right odds (`methods/regrowing.py`).

Law: that of `ParticleFilter`, exactly, for every N and any number of moves: the weighted population
times the evidence estimate is unbiased for p(x) * prod_t G_t.

Departure: published samplers move where they have resampled. With resampling by need that is unbiased
only in the limit of large N, because whether the weights were uneven depends on the paths; so here
every step moves (or every `every`-th), resampled or not.
"""

from __future__ import annotations

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
    extended,
    still_growing,
    target_potential,
)
from itscale.methods.regrowing import moved
from itscale.methods.session import Session
from itscale.randomness import Randomness
from itscale.types import Path, StopReason
from itscale.weights import SCHEMES, Population, Scheme

__all__ = ["ResampleMove"]


@dataclass(frozen=True, kw_only=True)
class ResampleMove(StepMethod):
    """A particle filter of N paths; after a step each is cut and regrown, and replaced by the right odds.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "resample-move"
    summary: ClassVar[str] = "a particle filter whose paths are revised on the way, so that copies differ"

    moves: int = 1
    """Revisions of every open path after a step; 0 is a particle filter."""
    every: int = 1
    """Move after every so many steps: a revision regrows half a path, so their cost adds up."""
    last_moves: int = 0
    """Revisions of every ended path after the last step."""
    target: Target = "final"
    resampling: Scheme = "systematic"
    ess_threshold: float = 0.5
    choose: Choice = "vote"
    max_steps: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known(self, target=TARGETS, resampling=SCHEMES, choose=CHOICES)
        if not 0 <= self.ess_threshold <= 1:
            raise OptionError(f"ess_threshold is {self.ess_threshold}; give a share of N, 0 to 1")
        if self.max_steps < 1 or self.every < 1:
            raise OptionError("resample-move max_steps and every must be at least 1")
        if self.moves < 0 or self.last_moves < 0:
            raise OptionError("resample-move moves and last_moves are numbers of revisions; give 0 or more")

    async def search(self, session: Session) -> Outcome:
        """Resample and move when the weights are too uneven, extend, reweight; until all have ended."""
        population = Population.start([session.root] * session.generations)
        scores: Scores = {session.root: ()}
        potential = target_potential(self.target, scores, session)
        for step in range(self.max_steps):
            if session.exhausted or not still_growing(population, session):
                break
            if step > 0 and population.ess < self.ess_threshold * len(population):
                before = population
                population, _ = population.resample(self.resampling, session.rng.child("resample", step))
                session.resampled(before, population)
            if step % self.every == 0:
                rng = session.rng.child("move", step)
                population = await self._moved(session, population, scores, rng, self.moves, step)
            population = await extended(population, scores, session, potential)
        stop = StopReason.STEPS if still_growing(population, session) else None
        rng = session.rng.child("last move")
        population = await self._moved(session, population, scores, rng, self.last_moves, None)
        candidates = candidates_of(population, scores)
        chosen = choose_slot(candidates, self.choose, session.rng.child("choose"))
        return Outcome(candidates, chosen, population.log_evidence, population.ess, session.exhausted or stop)

    async def _moved(
        self,
        session: Session,
        population: Population[Path],
        scores: Scores,
        rng: Randomness,
        moves: int,
        depth: int | None,
    ) -> Population[Path]:
        return await moved(session, population, scores, rng, moves=moves, target=self.target, depth=depth)
