"""Particle filtering: sample answers from the model reweighted by a process scorer.

Puri et al. 2025, "A Probabilistic Inference Approach to Inference-Time Scaling of LLMs using
Particle-Based Monte Carlo Methods", arXiv 2502.01618, Algorithm 1.

Law: with potentials G_t the weighted final population is, times the evidence estimate, unbiased
for p(x) * prod_t G_t, where p is the model and r_t in (0, 1) the score of the first t steps:

    target     G_t              the population samples
    final      r_t / r_{t-1}    p(x) * r_T              r_0 = 1; a score of the prefix counts once
    product    r_t              p(x) * prod_t r_t       the state-space posterior of the paper
    odds       r_t / (1 - r_t)  p(x) * prod_t odds_t    the published codes: softmax of logit(r_t)

Departures from the published codes, each of them needed for that law: weights are carried when
nothing is resampled, finished paths stay in their slot with their weight final, and nothing is
resampled after the last step. A failed call is a weight of zero. A path that a limit cut off keeps
its weight but has no answer, so it never votes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from itscale.errors import OptionError, did_you_mean
from itscale.methods.base import Method, Outcome, best, candidate
from itscale.methods.session import Judged, Session
from itscale.models.base import Capability
from itscale.randomness import Randomness
from itscale.scorers.answers import tally
from itscale.types import Candidate, Path, StopReason
from itscale.weights import SCHEMES, Population, Scheme

__all__ = ["ParticleFilter"]

Target = Literal["final", "product", "odds"]
Choice = Literal["vote", "argmax", "sample"]
Scores = dict[Path, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class ParticleFilter(Method):
    """N paths grow a step at a time; good ones are copied, bad ones dropped, in proportion.

    N is the budget's generations.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "particle-filter"
    summary: ClassVar[str] = "paths grow step by step; resample them by the process scorer's weights"
    scorer_kind: ClassVar[Literal["process"]] = "process"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.STEPS})

    target: Target = "final"
    """Which distribution the population samples; see the module's table."""
    resampling: Scheme = "systematic"
    ess_threshold: float = 0.5
    """Resample when the effective sample size is below this share of N: 0 never, 1 whenever the
    weights are not all equal."""
    choose: Choice = "vote"
    """The answer: most weight after adding up equal answers, largest last score, or a draw by
    weight (which makes the answer itself a draw from the target as N grows)."""
    max_steps: int = 64
    """Rounds; paths that are not finished then have no answer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, known in (
            ("target", get_args(Target)),
            ("resampling", tuple(SCHEMES)),
            ("choose", get_args(Choice)),
        ):
            if getattr(self, option) not in known:
                raise OptionError(did_you_mean(option, str(getattr(self, option)), known))
        if not 0 <= self.ess_threshold <= 1:
            raise OptionError(f"ess_threshold is {self.ess_threshold}; give a share of N, 0 to 1")
        if self.max_steps < 1:
            raise OptionError(f"max_steps is {self.max_steps}; give at least 1")

    async def search(self, session: Session) -> Outcome:
        """Extend, score, reweight, resample when the weights are too uneven; until all have ended."""
        population = Population.start([session.root] * session.generations)
        scores: Scores = {session.root: ()}
        for step in range(self.max_steps):
            if session.exhausted or not self._growing(population):
                break
            population = self._resampled(population, session, step)
            population = await self._extended(population, scores, session)
        stop = StopReason.STEPS if self._growing(population) else None
        return self._outcome(population, scores, session.rng.child("choose"), session.exhausted or stop)

    def _growing(self, population: Population[Path]) -> bool:
        """Whether another step can change anything; without it resampling would only add noise."""
        living = _living(population)
        return any(not path.ended and path.n_tokens < self.max_tokens for path in living)

    def _resampled(self, population: Population[Path], session: Session, step: int) -> Population[Path]:
        """The population, resampled if its weights are too uneven."""
        if not population.ess < self.ess_threshold * len(population):
            return population
        again, _ = population.resample(self.resampling, session.rng.child("resample", step))
        session.resampled(again.items, population.weights.tolist(), population.ess, again.log_evidence)
        return again

    async def _extended(
        self, population: Population[Path], scores: Scores, session: Session
    ) -> Population[Path]:
        """Every living path one step longer and reweighted; records the new `scores`."""
        # Ended paths go in as well: the session gives them back, and so knows that some are left.
        groups = iter(await session.extend_scored(_living(population)))
        lost: Judged | None = None
        living = population.log_weights > -math.inf
        grown = [next(iter(next(groups)), lost) if alive else lost for alive in living]
        moves = [(old, pair[0] if pair else None) for old, pair in zip(population.items, grown, strict=True)]
        for old, pair in zip(population.items, grown, strict=True):
            if pair and pair[0] is not old:
                scores[pair[0]] = pair[1] or scores[old]  # without a judgement a child keeps its parent's
        increments = [
            -math.inf if new is None else self._log_potential(scores[old], scores[new]) for old, new in moves
        ]
        items = tuple(old if new is None else new for old, new in moves)
        return Population(items, population.log_weights).reweight(increments)

    def _log_potential(self, before: Sequence[float], after: Sequence[float]) -> float:
        """Log G_t (nats) of a path judged `before` and `after` its last step; 0 if nothing is new."""
        if after is before:
            return 0.0
        r = after[-1]
        if self.target == "final":
            return math.log(r) - (math.log(before[-1]) if before else 0.0)
        return math.log(r) if self.target == "product" else math.log(r) - math.log1p(-r)

    def _outcome(
        self, population: Population[Path], scores: Scores, rng: Randomness, stop: StopReason | None
    ) -> Outcome:
        candidates = [
            candidate(path, score=(scores[path] or (None,))[-1], weight=float(w), step_scores=scores[path])
            for path, w in zip(population.items, population.weights, strict=True)
        ]
        chosen = self._choose(candidates, population, rng)
        return Outcome(candidates, chosen, population.log_evidence, population.ess, stop)

    def _choose(self, candidates: Sequence[Candidate], population: Population[Path], rng: Randomness) -> int:
        """The slot of the answer: among finished paths if there are any."""
        if self.choose == "sample":
            living = [i for i, w in enumerate(population.log_weights) if w > -math.inf]
            slots = [i for i in living if candidates[i].path.finished] or living
            return slots[rng.choose(Population(tuple(slots), population.log_weights[slots]).weights)]
        clusters = []
        if self.choose == "vote":
            weights = population.weights.tolist()
            clusters = tally([c.answer for c in candidates], weights, [c.score for c in candidates])
        return clusters[0].representative if clusters else best(candidates)


def _living(population: Population[Path]) -> list[Path]:
    """The paths of non-zero weight, in slot order."""
    return [path for path, w in zip(population.items, population.log_weights, strict=True) if w > -math.inf]
