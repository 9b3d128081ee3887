"""Parallel tempering: chains that trust the scorer little explore for the one that trusts it fully.

K chains k = 1..K, the k-th with target p(x) * w_T(x)^b_k, b_1 < ... < b_K = 1 (geometric steps); w_T is
the weight of `filtering`. A round is a conditional sweep of particle Gibbs in every chain, which keeps
that chain's target (Andrieu, Doucet & Holenstein 2010), and then an offer between every two neighbours,
from the lowest up, to exchange their paths, taken with probability

    min(1, exp( (b_k - b_{k+1}) (S(x_{k+1}) - S(x_k)) )),    S = log w_T

(Swendsen & Wang 1986; Geyer 1991; p cancels). For language models: Puri et al. 2025, arXiv 2502.01618,
whose chains are independent filters.

Law: paths that have the targets' laws, independently, have them after a round too, for sweeps of any
N >= 2. So the candidates, those of the chain of b = 1, tend to p(x) * w_T(x).

The trace tells every offer (`Exchanged`); neighbours that take few are too far apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from itscale.errors import OptionError
from itscale.methods.arrivals import together
from itscale.methods.base import Outcome, StepMethod
from itscale.methods.filtering import (
    CHOICES,
    TARGETS,
    Choice,
    Scores,
    Target,
    check_known,
    log_weight,
)
from itscale.methods.particle_gibbs import conditional_sweep, drawn, outcome_of_sweeps
from itscale.methods.session import Session
from itscale.randomness import Randomness
from itscale.types import Path
from itscale.weights import Population

__all__ = ["ParallelTempering", "exchanged"]


@dataclass(frozen=True, kw_only=True)
class ParallelTempering(StepMethod):
    """Particle Gibbs in several chains that exchange their paths.

    N, the budget's generations, is shared by chains and rounds; a small one makes fewer rounds first,
    then fewer chains.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "parallel-tempering"
    summary: ClassVar[str] = "chains of particle Gibbs that trust the scorer more or less exchange paths"

    chains: int = 3
    """K."""
    lowest: float = 0.25
    """b_1, the power of the weight in the freest chain, above 0."""
    iterations: int = 4
    """Rounds, the first of unconditional sweeps included."""
    pool: Literal["all", "last"] = "all"
    """Candidates: of all sweeps of the chain of b = 1, each with equal weight, or of its last one."""
    target: Target = "final"
    ess_threshold: float = 0.5
    choose: Choice = "vote"
    max_steps: int = 64
    """Rounds of a sweep."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known(self, pool=("all", "last"), target=TARGETS, choose=CHOICES)
        for option in ("lowest", "ess_threshold"):
            if not 0 <= getattr(self, option) <= 1:
                raise OptionError(f"{option} is {getattr(self, option)}; give a number from 0 to 1")
        if not self.lowest > 0:
            raise OptionError("lowest is 0; give a power above 0, such as 0.25")
        if min(self.chains, self.iterations, self.max_steps) < 1:
            raise OptionError("parallel-tempering chains, iterations and max_steps must be at least 1")

    def powers(self, chains: int) -> list[float]:
        """b_1, ..., b_K of that many chains."""
        return [self.lowest ** ((chains - 1 - k) / max(1, chains - 1)) for k in range(chains)]

    async def search(self, session: Session) -> Outcome:
        """Sweep every chain, draw its path, offer exchanges; until the rounds are done."""
        n = session.generations
        chains = max(1, min(self.chains, n // 2))
        iterations = max(1, min(self.iterations, n // (2 * chains)))
        powers = self.powers(chains)
        scores: Scores = {session.root: ()}
        paths: Sequence[Path | None] = [None] * chains
        sweeps: list[Population[Path]] = []
        for i in range(iterations):
            populations = await self._swept(session, i, n // (chains * iterations), powers, paths, scores)
            if session.exhausted and sweeps:
                break  # a sweep cut short has nothing to add to the whole ones before it
            sweeps.append(populations[-1])
            paths = exchanged(
                session,
                [drawn(p, session.rng.child("reference", i, k)) for k, p in enumerate(populations)],
                powers,
                scores,
                session.rng.child("exchange", i),
                target=self.target,
            )
        return outcome_of_sweeps(session, sweeps, scores, pool=self.pool, choose=self.choose)

    async def _swept(
        self,
        session: Session,
        i: int,
        n: int,
        powers: Sequence[float],
        references: Sequence[Path | None],
        scores: Scores,
    ) -> list[Population[Path]]:
        """A sweep of `n` particles in every chain, all at the same time."""
        return await together(
            conditional_sweep(
                session,
                session.rng.child("sweep", i, k),
                n,
                scores,
                reference,
                target=self.target,
                ess_threshold=self.ess_threshold,
                max_steps=self.max_steps,
                power=power,
            )
            for k, (power, reference) in enumerate(zip(powers, references, strict=True))
        )


def exchanged(
    session: Session,
    paths: Sequence[Path],
    powers: Sequence[float],
    scores: Scores,
    rng: Randomness,
    *,
    target: Target = "final",
) -> list[Path]:
    """The chains' paths after an offer between every two neighbours.

    Leaves the product of all chains' targets invariant.
    """
    after = list(paths)
    for k in range(len(after) - 1):
        lower, upper = (
            log_weight(target, scores[path], last=not session.can_grow(path)) for path in after[k : k + 2]
        )
        probability = math.exp(min(0.0, log_ratio(powers[k], powers[k + 1], lower, upper)))
        accepted = bool(rng.child(k).choose([1 - probability, probability]))
        session.exchanged(after[k], after[k + 1], (powers[k], powers[k + 1]), probability, accepted)
        if accepted:
            after[k], after[k + 1] = after[k + 1], after[k]
    return after


def log_ratio(power: float, next_power: float, weight: float, next_weight: float) -> float:
    """Of the neighbours' joint law after an exchange to that before (nats); weights are log w_T."""
    return (power - next_power) * (next_weight - weight)
