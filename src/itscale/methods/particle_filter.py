"""Particle filtering: sample answers from the model reweighted by a process scorer.

Puri et al. 2025, "A Probabilistic Inference Approach to Inference-Time Scaling of LLMs using
Particle-Based Monte Carlo Methods", arXiv 2502.01618, Algorithm 1.

Law: with potentials G_t the weighted final population is, times the evidence estimate, unbiased
for p(x) * prod_t G_t, where p is the model (at the sampling temperature) and r_t in (0, 1) the
score of the first t steps:

    target     G_t                        last G_T                  the population samples
    final      r_t / r_{t-1}, r_0 = 1     same                      p(x) * r_T
    max        max_{s<=t} r_s             r_T / prod_{s<T} G_s      p(x) * r_T
    sum        exp( sum_{s<=t} log r_s )  r_T / prod_{s<T} G_s      p(x) * r_T
    product    r_t                        same                      p(x) * prod_t r_t
    odds       r_t / (1 - r_t)            same                      p(x) * prod_t r_t / (1 - r_t)

`final` counts a score of the prefix once; `product` is the state-space posterior of the paper;
`odds` what its code weighs by. The table and its sources are in `methods/filtering.py`. A path that
a limit leaves unfinished keeps the weight it had on the way.

With a `proposal_temperature` steps are drawn from the model q at that temperature, while p stays the
model at the method's: the weight of a step is multiplied by p(step) / q(step), its tokens' given the
prefix. q is known from the draw, p is asked of the model (`Capability.GIVEN`). The law is the same.

Departures from the published codes, each of them needed for that law: weights are carried when
nothing is resampled, finished paths stay in their slot with their weight final, and nothing is
resampled after the last step. A failed call is a weight of zero. A path that a limit cut off keeps
its weight but has no answer, so it never votes. `compatibility="puri2025"` undoes the first two:
log weights are logit(r) of the last step, whatever was before; all N are drawn anew after every
step (multinomial), finished ones by their score again and again; the answer is the best-scored. It
keeps no simple law, so it tells no evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

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
    published_weights,
    still_growing,
    target_potential,
)
from itscale.methods.session import Session
from itscale.models.base import Capability
from itscale.randomness import Randomness
from itscale.types import Path, Sampling, StopReason
from itscale.weights import SCHEMES, Population, Scheme

__all__ = ["ParticleFilter"]

_FIXED = {
    "target": "final",
    "proposal_temperature": None,
    "resampling": "systematic",
    "ess_threshold": 0.5,
    "choose": "vote",
}
"""Options that the published code leaves no choice about, at their defaults."""


@dataclass(frozen=True, kw_only=True)
class ParticleFilter(StepMethod):
    """N paths grow a step at a time; good ones are copied, bad ones dropped, in proportion.

    N is the budget's generations.

    Raises:
        OptionError: an option is unknown or out of range, or set beside `compatibility`.
    """

    name: ClassVar[str] = "particle-filter"
    summary: ClassVar[str] = "paths grow step by step; resample them by the process scorer's weights"

    target: Target = "final"
    """Which distribution the population samples; see the module's table."""
    proposal_temperature: float | None = None
    """Draw steps at this temperature instead; the weights make up for it."""
    resampling: Scheme = "systematic"
    ess_threshold: float = 0.5
    """Resample when the effective sample size is below this share of N: 0 never, 1 whenever the
    weights are not all equal."""
    choose: Choice = "vote"
    """The answer: most weight after adding up equal answers, largest last score, or a draw by
    weight (which makes the answer itself a draw from the target as N grows)."""
    max_steps: int = 64
    """Rounds; paths that are not finished then have no answer."""
    compatibility: Literal["puri2025"] | None = None
    """Do as the published code of that paper does, for comparison."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known(self, target=TARGETS, resampling=SCHEMES, choose=CHOICES)
        if not 0 <= self.ess_threshold <= 1:
            raise OptionError(f"ess_threshold is {self.ess_threshold}; give a share of N, 0 to 1")
        if self.max_steps < 1:
            raise OptionError(f"max_steps is {self.max_steps}; give at least 1")
        self._check_proposal()
        if self.compatibility is not None:
            check_known(self, compatibility=["puri2025"])
            changed = [option for option, default in _FIXED.items() if getattr(self, option) != default]
            if changed:
                raise OptionError(
                    f"compatibility={self.compatibility} fixes {', '.join(_FIXED)}; leave out {changed[0]}"
                )

    def _check_proposal(self) -> None:
        """Whatever the target may do the proposal must be able to do."""
        if self.proposal_temperature is None:
            return
        if not (self.proposal_temperature > 0 and self.temperature > 0):
            raise OptionError("proposal_temperature weighs draws; give it and temperature above 0")
        if self.top_p < 1 and self.proposal_temperature < self.temperature:
            raise OptionError(
                "top_p leaves a colder proposal fewer tokens than the target has; "
                "give top_p=1, or a proposal_temperature of at least temperature"
            )

    @property
    def required(self) -> frozenset[Capability]:
        if self.proposal_temperature is None:
            return self.needs
        return self.needs | {Capability.LOGPROBS, Capability.GIVEN}

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        if self.proposal_temperature is None:
            return super().samplings
        return (*super().samplings, Sampling(self.proposal_temperature, self.top_p))

    async def search(self, session: Session) -> Outcome:
        """Extend, score, reweight, resample when the weights are too uneven; until all have ended."""
        population = Population.start([session.root] * session.generations)
        scores: Scores = {session.root: ()}
        for step in range(self.max_steps):
            if session.exhausted or not still_growing(population, session):
                break
            population = self._resampled(population, session, step)
            population = await self._extended(population, scores, session)
        stop = StopReason.STEPS if still_growing(population, session) else None
        return self._outcome(population, scores, session.rng.child("choose"), session.exhausted or stop)

    def _resampled(self, population: Population[Path], session: Session, step: int) -> Population[Path]:
        """The population, resampled if its weights are too uneven."""
        published = self.compatibility is not None
        if step == 0 or not (published or population.ess < self.ess_threshold * len(population)):
            return population
        scheme: Scheme = "multinomial" if published else self.resampling
        again, _ = population.resample(scheme, session.rng.child("resample", step))
        session.resampled(population, again)
        return again

    async def _extended(
        self, population: Population[Path], scores: Scores, session: Session
    ) -> Population[Path]:
        """Every living path one step longer and reweighted; records the new `scores`."""
        population = await extended(
            population,
            scores,
            session,
            target_potential(self.target, scores, session),
            proposal_temperature=self.proposal_temperature,
        )
        return population if self.compatibility is None else published_weights(population, scores)

    def _outcome(
        self, population: Population[Path], scores: Scores, rng: Randomness, stop: StopReason | None
    ) -> Outcome:
        candidates = candidates_of(population, scores)
        published = self.compatibility is not None
        chosen = choose_slot(candidates, "argmax" if published else self.choose, rng)
        log_evidence = None if published else population.log_evidence
        return Outcome(candidates, chosen, log_evidence, population.ess, stop)
