"""Particle Gibbs: sweeps of a conditional particle filter, each keeping one path of the last.

Andrieu, Doucet & Holenstein 2010, "Particle Markov chain Monte Carlo methods", section 4.3; for
language models Puri et al. 2025, arXiv 2502.01618, Algorithm 2.

    sweep 1:  a particle filter of N particles; draw the reference x' from its final weights
    sweep j:  slot 1 follows x', the others grow freely; after a step all N are weighed, x' by its
              score at that very step, and the N - 1 free slots draw an ancestor among all N;
              at the end draw the next x' from all N by weight

Law: if x' has the target's law, so has the next one, for every N >= 2 (conditional SMC leaves the
target invariant). So the chain's samples tend to the target for any N, where a single particle
filter needs N to grow.

Free slots resample multinomially, the scheme for which the conditional law is that simple, and only
when the effective sample size is below `ess_threshold` N, the reference counted; else weights are
carried. With `ancestors` the reference draws a past of its own then (`methods/ancestors.py`), so that
its first steps do not stay for many sweeps. Departure from the published code: there the reference is
weighed by its score one step ahead, which breaks the law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from itscale.errors import OptionError
from itscale.methods.ancestors import joined
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
    reference_at,
    still_growing,
    target_potential,
)
from itscale.methods.session import Session
from itscale.models.base import Capability
from itscale.randomness import Randomness
from itscale.types import Path, StopReason
from itscale.weights import Population

__all__ = ["ParticleGibbs", "conditional_sweep", "drawn", "outcome_of_sweeps"]


@dataclass(frozen=True, kw_only=True)
class ParticleGibbs(StepMethod):
    """Sweeps of N / iterations particles; a path drawn from one sweep is kept in the next.

    N is the budget's generations. A budget that leaves less than two particles a sweep makes fewer
    sweeps; with N = 1 this is one sample.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "particle-gibbs"
    summary: ClassVar[str] = "repeated small particle filters, each keeping a path of the last"

    iterations: int = 4
    """Sweeps, the first unconditional one included."""
    pool: Literal["all", "last"] = "all"
    """Candidates: of all sweeps, each sweep with equal weight, or of the last one as in the paper."""
    target: Target = "final"
    ess_threshold: float = 0.5
    choose: Choice = "vote"
    max_steps: int = 64
    """Rounds of a sweep."""
    ancestors: bool = False
    """Ancestor sampling: at every resampling the reference may get another path's past."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known(self, pool=("all", "last"), target=TARGETS, choose=CHOICES)
        if not 0 <= self.ess_threshold <= 1:
            raise OptionError(f"ess_threshold is {self.ess_threshold}; give a share of N, 0 to 1")
        if self.iterations < 1 or self.max_steps < 1:
            raise OptionError("particle-gibbs iterations and max_steps must be at least 1")
        if self.ancestors and self.temperature == 0:
            raise OptionError("ancestors weighs likelihoods; give a temperature above 0")

    @property
    def required(self) -> frozenset[Capability]:
        return self.needs | ({Capability.GIVEN, Capability.FORCING} if self.ancestors else frozenset())

    async def search(self, session: Session) -> Outcome:
        """Sweep, draw the reference, sweep given the reference; until the sweeps are done."""
        iterations = max(1, min(self.iterations, session.generations // 2))
        scores: Scores = {session.root: ()}
        sweeps: list[Population[Path]] = []
        reference: Path | None = None
        for i in range(iterations):
            population = await conditional_sweep(
                session,
                session.rng.child("sweep", i),
                session.generations // iterations,
                scores,
                reference,
                target=self.target,
                ess_threshold=self.ess_threshold,
                max_steps=self.max_steps,
                ancestors=self.ancestors,
            )
            if session.exhausted and sweeps:
                break  # a sweep cut short has nothing to add to the whole ones before it
            sweeps.append(population)
            reference = drawn(population, session.rng.child("reference", i))
        return outcome_of_sweeps(session, sweeps, scores, pool=self.pool, choose=self.choose)


def outcome_of_sweeps(
    session: Session, sweeps: Sequence[Population[Path]], scores: Scores, *, pool: str, choose: Choice
) -> Outcome:
    """The first sweep is a particle filter, so the evidence is its; later ones are conditional."""
    pooled = sweeps if pool == "all" else sweeps[-1:]
    candidates = [c for sweep in pooled for c in candidates_of(sweep, scores, 1 / len(pooled))]
    chosen = choose_slot(candidates, choose, session.rng.child("choose"))
    stop = StopReason.STEPS if still_growing(sweeps[-1], session) else None
    return Outcome(candidates, chosen, sweeps[0].log_evidence, sweeps[-1].ess, session.exhausted or stop)


async def conditional_sweep(
    session: Session,
    rng: Randomness,
    n: int,
    scores: Scores,
    reference: Path | None,
    *,
    target: Target = "final",
    ess_threshold: float = 0.5,
    max_steps: int = 64,
    ancestors: bool = False,
    power: float = 1.0,
) -> Population[Path]:
    """A particle filter of `n` particles whose slot 0 is the reference, or none is if that is None.

    Its target is p(x) * w_T(x)^power.

    Leaves the target invariant for n >= 2: with `reference` distributed by it, so is
    `drawn(population)`. The reference's prefixes must be in `scores`, to which new ones are added.
    """
    population = Population.start([session.root] * n)
    potential = target_potential(target, scores, session, power)
    for step in range(max_steps):
        if session.exhausted or not still_growing(population, session):
            break
        if step > 0 and population.ess < ess_threshold * n:
            again = _resampled(population, rng.child("resample", step), reference)
            if ancestors and reference is not None:
                reference = await joined(
                    session,
                    population,
                    scores,
                    reference,
                    rng.child("ancestor", step),
                    target=target,
                    power=power,
                )
                again = Population((reference_at(reference, step), *again.items[1:]), again.log_weights)
            session.resampled(population, again)
            population = again
        population = await extended(population, scores, session, potential, reference)
    return population


def _resampled(population: Population[Path], rng: Randomness, reference: Path | None) -> Population[Path]:
    """Ancestors for all slots but that of the reference, which stays; it may have copies."""
    kept = 0 if reference is None else 1
    free, _ = population.resample("multinomial", rng, len(population) - kept)
    return Population(
        (*population.items[:kept], *free.items), np.full(len(population), population.log_evidence)
    )


def drawn(population: Population[Path], rng: Randomness) -> Path:
    """One path of the population, by weight."""
    return population.items[rng.choose(population.weights)]
