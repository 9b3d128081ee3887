"""Particle cascade: a particle filter without a barrier; a path is resampled when it arrives.

Paige, Wood, Doucet & Teh 2014, "Asynchronous Anytime Sequential Monte Carlo", arXiv 1407.2864, section 3.

N paths start. One that has grown a step has a weight W after it, and is a share of a start: 1, or 1/M
of what its parent was, if that left M. When it arrives,

    mean = sum of W over the arrivals so far / sum of their shares,  R = W / mean
    R < 1     goes on with probability R, its weight then the mean
    R >= 1    M = ceil(R) paths go on if no more did so far than what had arrived before makes means,
              else floor(R); each with W / M

and what goes on grows at once, whatever the others do.

Law: E[M V] = W for the M paths of weight V that go on, whatever R was held against, and their next
steps are fresh draws. So sum_i V_i delta(x_i) / N over all that have ended is unbiased for the target
of `ParticleFilter`, p(x) * prod_t G_t, and its mass for the normalising constant: for every N, every
order of arrival, and also where the order depends on what was drawn (short steps arrive first).

Order. By default a step's arrivals are taken in the order in which their paths were begun: a path
waits for those before it at the same step, never for those after it, never for another step, and the
result depends on the seed alone. With `races` none waits at all; the result then depends on timing
too, and no seed repeats it (the law above holds all the same).

Departures. In the paper all arrivals count 1 in the mean, and the population then wanders off; with
shares (those dropped at an earlier step count there with weight 0) every step aims at N again. Paths
end after different numbers of steps: one that has ended keeps its weight, is neither dropped nor
copied, and counts in the means of later steps. The first to arrive at a step goes on. With `window` =
c > 1 a path of R between 1/c and c goes on as it is, which adds no noise where weights are even.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from itscale.errors import OptionError
from itscale.methods.arrivals import Arrivals
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
    target_potential,
)
from itscale.methods.session import Judged, Session
from itscale.types import Path, StopReason
from itscale.weights import Population, branch

__all__ = ["ParticleCascade"]


@dataclass(frozen=True, slots=True)
class Sum:
    """Weights added up: the log of their sum (nats), and the starts they stand for."""

    log_total: float = -math.inf
    starts: float = 0.0

    def __add__(self, other: Sum) -> Sum:
        return Sum(float(np.logaddexp(self.log_total, other.log_total)), self.starts + other.starts)

    @property
    def log_mean(self) -> float:
        """A start's (nats), where there is any."""
        return self.log_total - math.log(self.starts)


@dataclass(frozen=True, slots=True)
class Flight:
    """A path that grows its next step."""

    path: Path
    log_weight: float
    place: int
    """In the order of those that were begun at this step."""
    share: float = 1.0
    """Of a start."""
    settled: Sum = field(default_factory=Sum)
    """Those before it that ended, or were dropped, at earlier steps."""


Landed = tuple[Flight, Judged | None]
"""A flight with its path one step longer, None if the call failed."""


class Gate:
    """What has come through one step."""

    def __init__(self) -> None:
        self.arrived = Sum()
        self.settled = Sum()
        """The part of it that ended or was dropped here."""
        self.begun = 0
        """Paths that were begun at this step."""
        self.weighed: dict[int, tuple[Path, float] | None] = {}
        """Those that have arrived, with their log weights (nats), by place; None where the call failed."""
        self._held: dict[int, Landed] = {}
        self._next = 0

    def in_turn(self, landed: Landed, *, races: bool) -> Iterator[Landed]:
        """Those whose turn it is, now that this one is here."""
        if races:
            yield landed
            return
        self._held[landed[0].place] = landed
        while self._next in self._held:
            yield self._held.pop(self._next)
            self._next += 1


@dataclass(frozen=True, kw_only=True)
class ParticleCascade(StepMethod):
    """N paths, each resampled against the running mean weight when it arrives at a step.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "particle-cascade"
    summary: ClassVar[str] = "a particle filter without a barrier: paths are resampled as they arrive"

    target: Target = "final"
    races: bool = False
    """Take arrivals as they come, so that nothing waits; the result then depends on timing."""
    window: float = 2.0
    """c: a path whose weight is within this factor of the mean goes on as it is; 1 is the paper."""
    choose: Choice = "vote"
    max_steps: int = 64
    """Steps of a path at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known(self, target=TARGETS, choose=CHOICES)
        if not (self.window >= 1 and math.isfinite(self.window)):
            raise OptionError(f"window is {self.window}; give a factor of at least 1")
        if self.max_steps < 1:
            raise OptionError(f"max_steps is {self.max_steps}; give at least 1")

    async def search(self, session: Session) -> Outcome:
        """Start N, and let what arrives branch and go on, until nothing is under way."""
        cascade = Cascade(self, session)
        flights = [Flight(session.root, 0.0, place) for place in range(session.generations)]

        async def grown(i: int) -> Landed:
            [group] = await session.extend_scored([flights[i].path], required=False)
            return flights[i], group[0] if group else None

        arrivals = Arrivals(grown)
        arrivals.start(len(flights))
        try:
            while arrivals.waiting:
                landed = await arrivals.next()
                for flight, judged in cascade.in_turn(landed):
                    flights += cascade.branched(flight, judged)
                cascade.tell_weights()
                arrivals.start(len(flights))
        finally:
            await arrivals.cancel()
        return self._outcome(session, cascade)

    def _outcome(self, session: Session, cascade: Cascade) -> Outcome:
        """The evidence is the sum of all weights over N, however many paths there are in the end."""
        ended = [cascade.ended[key] for key in sorted(cascade.ended)]
        paths = session.survivors([path for path, _ in ended])
        scale = math.log(len(paths) / session.generations) if paths else 0.0
        population = Population(tuple(paths), np.array([weight + scale for _, weight in ended]))
        candidates = candidates_of(population, cascade.scores)
        chosen = choose_slot(candidates, self.choose, session.rng.child("choose"))
        stop = StopReason.STEPS if any(map(session.can_grow, paths)) else None
        return Outcome(candidates, chosen, population.log_evidence, population.ess, session.exhausted or stop)


class Cascade:
    """A run: its gates, and the paths that have ended."""

    def __init__(self, method: ParticleCascade, session: Session) -> None:
        self.scores: Scores = {session.root: ()}
        self.ended: dict[tuple[int, int], tuple[Path, float]] = {}
        """With their log weights (nats), by step and place."""
        self._method = method
        self._session = session
        self._gates: defaultdict[int, Gate] = defaultdict(Gate)
        self._gates[0].begun = session.generations
        self._told = 0
        """Steps whose weights are in the trace."""
        self._potential = target_potential(method.target, self.scores, session)

    def in_turn(self, landed: Landed) -> Iterator[Landed]:
        """Those whose turn it is at their step, now that this one is here."""
        return self._gates[landed[0].path.depth].in_turn(landed, races=self._method.races)

    def branched(self, flight: Flight, judged: Judged | None) -> list[Flight]:
        """What goes on in place of a path that has arrived; nothing if it ended, failed or is dropped."""
        gate, then = self._gates[flight.path.depth], self._gates[flight.path.depth + 1]
        before = gate.arrived
        if judged is None:
            gate.arrived += Sum(starts=flight.share)
            gate.settled += Sum(starts=flight.share)
            gate.weighed[flight.place] = None
            return []
        new, weight = judged[0], self._weight(flight, judged)
        gate.weighed[flight.place] = new, weight
        gate.arrived += Sum(weight, flight.share)
        if new is flight.path or not self._session.can_grow(new) or new.depth >= self._method.max_steps:
            self.ended[flight.path.depth, flight.place] = new, weight
            gate.settled += Sum(weight, flight.share)
            return []
        log_mean = (gate.arrived + flight.settled).log_mean
        copies, each = branch(
            weight,
            log_mean if then.begun else min(log_mean, weight),
            self._session.rng.child("branch", flight.path.depth, flight.place),
            more=then.begun <= math.exp(before.log_total - log_mean),
            most=self._session.generations,
            window=self._method.window,
        )
        if not copies:
            self._session.pruned([new])
            gate.settled += Sum(starts=flight.share)
        first, then.begun, settled = then.begun, then.begun + copies, flight.settled + gate.settled
        return [Flight(new, each, first + i, flight.share / copies, settled) for i in range(copies)]

    def tell_weights(self) -> None:
        """Put into the trace what all paths weighed when they arrived at a step, once none is to come.

        Those that ended at earlier steps stand before them. Others are ahead of it by then.
        """
        while (gate := self._gates[self._told]).begun and len(gate.weighed) == gate.begun:
            earlier = [self.ended[key] for key in sorted(self.ended) if key[0] < self._told]
            cloud = [*earlier, *(own for _, own in sorted(gate.weighed.items()) if own is not None)]
            if cloud:
                paths, weights = zip(*cloud, strict=True)
                self._session.weighed(Population(paths, np.array(weights)))
            self._told += 1

    def _weight(self, flight: Flight, judged: Judged) -> float:
        """Log weight (nats) after the step that a path has grown, if it did."""
        (new, told), old = judged, flight.path
        if new is old:
            return flight.log_weight
        self.scores[new] = told or self.scores[old]
        return flight.log_weight + self._potential(old, new)
