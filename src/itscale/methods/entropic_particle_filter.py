"""Entropic particle filtering: flatten the resampling law while the scorer is too sure too early.

Entropic annealing, as in the code of its_hub (the authors' group). Before every resampling, with
W = softmax(log w) the normalised weights, ESS = 1 / sum W_i^2, H = -sum W_i log W_i / log N and
progress q = steps done / max_steps, a temperature is chosen:

    rule       tau, never below 1           applied while ESS / N < ess_threshold and q < early_phase
    ess        (1 - q) / (ESS / N)
    entropy    1 / (H + (1 - H) q)
    base       v_max - q, v_max = 2

and ancestors are drawn by w^(1 / tau).

Law, with `correct` (default): what the flattened draw did not account for, w^(1 - 1/tau), stays with
the path, so the population samples exactly the target of `ParticleFilter`, whatever the rule. With
`correct=False` nothing is kept, as published: log weights are logit(r) of the last step, replaced
after every step, and no simple law holds. One departure from the published code even then: nothing
is resampled after the last step.

Look-ahead (`look_ahead` = gamma > 0), in auxiliary-filter form (Pitt & Shephard 1999): before a
resampling each path is tried one step further, m_i is the score of the trial, which is then dropped
and paid for; ancestors are drawn by w_i^(1 / tau) m_i^gamma, and the weight keeps the inverse of the
second factor too, so the law is unchanged. It stands where the paper has its look-ahead modulation
and does not claim to reproduce that.

Giannone et al. 2025, "Mitigating Premature Exploitation in Particle-based Monte Carlo for
Inference-Time Scaling", arXiv 2510.05825.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

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
    last_score,
    published_weights,
    still_growing,
    target_potential,
)
from itscale.methods.session import Session
from itscale.types import Path, StopReason
from itscale.weights import SCHEMES, Population, Scheme

__all__ = ["EntropicParticleFilter", "annealing_temperature"]

Annealing = Literal["ess", "entropy", "base"]
_V_MAX = 2.0


def annealing_temperature(rule: Annealing, ess_ratio: float, entropy: float, progress: float) -> float:
    """tau of the module's table, at least 1.

    >>> round(annealing_temperature("ess", 0.2, 0.0, 0.2), 12)
    4.0
    >>> annealing_temperature("ess", 0.5, 0.0, 0.8)
    1.0
    >>> round(annealing_temperature("entropy", 0.0, 0.5, 0.3), 3)
    1.538
    >>> annealing_temperature("base", 0.0, 0.0, 0.25)
    1.75

    Args:
        rule: which of the three.
        ess_ratio: ESS / N, in (0, 1]; used by `ess`.
        entropy: H over its largest value log N, 0 to 1; used by `entropy`.
        progress: steps done over the most there may be, 0 to 1.
    """
    if rule == "ess":
        return max(1.0, (1 - progress) / ess_ratio)
    if rule == "entropy":
        flatness = entropy + (1 - entropy) * progress
        return max(1.0, 1 / flatness) if flatness > 0 else math.inf
    return max(1.0, _V_MAX - progress)


@dataclass(frozen=True, kw_only=True)
class EntropicParticleFilter(StepMethod):
    """A particle filter that resamples after every step, by annealed weights early on.

    N is the budget's generations. Without annealing (`early_phase=0`) this is `ParticleFilter` with
    `ess_threshold=1`.

    Raises:
        OptionError: an option is unknown or out of range, or has no meaning with `correct=False`.
    """

    name: ClassVar[str] = "entropic-particle-filter"
    summary: ClassVar[str] = "a particle filter that distrusts early certainty of the scorer"

    annealing: Annealing = "ess"
    ess_threshold: float = 0.5
    """Anneal while ESS / N is below it: 0 never, 1 whenever weights are uneven."""
    early_phase: float = 0.5
    """Anneal during this first share of `max_steps`."""
    correct: bool = True
    """Carry the weight that the annealed draw left over, which keeps the target."""
    look_ahead: float = 0.0
    """gamma, 0 to 1: how much the score one step ahead counts in the draw. Costs a step a path."""
    target: Target = "final"
    resampling: Scheme = "systematic"
    choose: Choice = "vote"
    max_steps: int = 64
    """Rounds, and the unit of progress: the more, the longer annealing lasts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known(
            self, annealing=("ess", "entropy", "base"), target=TARGETS, resampling=SCHEMES, choose=CHOICES
        )
        for option in ("ess_threshold", "early_phase", "look_ahead"):
            if not 0 <= getattr(self, option) <= 1:
                raise OptionError(f"{option} is {getattr(self, option)}; give a number from 0 to 1")
        if self.max_steps < 1:
            raise OptionError(f"max_steps is {self.max_steps}; give at least 1")
        if not self.correct and (self.target != "final" or self.look_ahead):
            raise OptionError("correct=False weighs by logit(r) alone; leave out target and look_ahead")

    async def search(self, session: Session) -> Outcome:
        """Extend, score, reweight, resample by annealed weights; until all have ended."""
        population = Population.start([session.root] * session.generations)
        scores: Scores = {session.root: ()}
        potential = target_potential(self.target, scores, session)
        for step in range(self.max_steps):
            if session.exhausted or not still_growing(population, session):
                break
            if step > 0:
                population = await self._resampled(population, scores, session, step)
            population = await extended(population, scores, session, potential)
            if not self.correct:
                population = published_weights(population, scores)
        stop = StopReason.STEPS if still_growing(population, session) else None
        candidates = candidates_of(population, scores)
        chosen = choose_slot(candidates, self.choose, session.rng.child("choose"))
        log_evidence = population.log_evidence if self.correct else None
        return Outcome(candidates, chosen, log_evidence, population.ess, session.exhausted or stop)

    async def _resampled(
        self, population: Population[Path], scores: Scores, session: Session, step: int
    ) -> Population[Path]:
        """The population drawn by annealed, perhaps modulated, weights."""
        by = population.log_weights / self._temperature(population, step / self.max_steps)
        if self.look_ahead:
            by = by + self.look_ahead * await self._foreseen(population, scores, session)
        if not Population(population.items, by).ess < len(population):
            return population  # an even draw changes nothing
        again, _ = population.resample(self.resampling, session.rng.child("resample", step), by=by)
        session.resampled(population, again)
        return again

    def _temperature(self, population: Population[Path], progress: float) -> float:
        """tau for these weights, 1 where annealing does not apply."""
        ess_ratio = population.ess / len(population)
        if not (ess_ratio < self.ess_threshold and progress < self.early_phase):
            return 1.0
        weights = population.weights[population.weights > 0]
        entropy = float(-(weights * np.log(weights)).sum()) / math.log(len(population))
        return annealing_temperature(self.annealing, ess_ratio, entropy, progress)

    async def _foreseen(
        self, population: Population[Path], scores: Scores, session: Session
    ) -> npt.NDArray[np.float64]:
        """log m_i (nats, shape (N,)): of a trial step; of the path itself where there is none."""
        living = [i for i, weight in enumerate(population.log_weights) if weight > -math.inf]
        groups = await session.extend_scored(
            [population.items[i] for i in living], kept=False, required=False
        )
        foreseen = np.zeros(len(population))
        for i, group in zip(living, groups, strict=True):
            trial = group[0][1] if group else None
            foreseen[i] = math.log(last_score(trial or scores[population.items[i]]) or 1.0)
            session.pruned([path for path, _ in group if path is not population.items[i]])
        return foreseen
