"""A revision as a Markov kernel: cut a path somewhere, grow it anew, keep the better by the right odds.

From a path x of d steps, k uniform on 1..d-1: keep the first k steps, let the model write the rest, x'
of d' steps, and accept it with probability

    min(1, w(x') (d - 1) / ( w(x) (d' - 1) ))

Law: leaves p(x) * w(x) invariant. Given k, the model's own law of the rest cancels against p; what is
left of the proposal is the probability of that cut, 1 / (d - 1) from x and 1 / (d' - 1) from x', for
which k < d' holds because something was grown (Metropolis-Hastings with the cut as a part of the move).
A path of one step has no cut and stays.

In the middle of a filter the same over open paths of t steps: what ends earlier is rejected, and a path
that has ended stays as it is, so that d = d' and the measure of either kind is kept by itself.

Whether to move must not depend on what the others drew: done only where the population has just been
resampled, or has open paths left, the very same kernel is biased. The first step is never revised, so
the kernel alone does not reach every path: use it on populations.
"""

from __future__ import annotations

import math

from itscale.methods.arrivals import together
from itscale.methods.filtering import Scores, Target, log_weight, reference_at
from itscale.methods.session import Session
from itscale.randomness import Randomness
from itscale.types import Path
from itscale.weights import Population

__all__ = ["moved"]


async def moved(
    session: Session,
    population: Population[Path],
    scores: Scores,
    rng: Randomness,
    *,
    moves: int = 1,
    target: Target = "final",
    power: float = 1.0,
    depth: int | None = None,
) -> Population[Path]:
    """Every path revised so many times, its weight as it was: unbiased for whatever the population is.

    With `depth` the kernel's target is p(x) * w_t(x)^power over open paths of so many steps, and others
    stay; without, p(x) * w_T(x)^power over ended ones, new rests being whole, in one call. Adds to
    `scores`.
    """
    living = [i for i, weight in enumerate(population.log_weights) if weight > -math.inf]
    items, tried = list(population.items), list(population.items)
    for m in range(moves):
        proposals = await together(
            _proposed(session, items[i], scores, rng.child("cut", m, i), depth) for i in living
        )
        tried.extend(new for new in proposals if new is not None)
        for i, new in zip(living, proposals, strict=True):
            if new is not None and session.can_grow(new) is (depth is not None):
                odds = log_odds(session, target, scores, items[i], new, power)
                probability = math.exp(min(0.0, odds))
                if rng.child("accept", m, i).choose([1 - probability, probability]):
                    items[i] = new
    session.pruned([path for path in dict.fromkeys(tried) if path not in set(items)])
    return Population(tuple(items), population.log_weights)


def log_odds(session: Session, target: Target, scores: Scores, old: Path, new: Path, power: float) -> float:
    """Log of w(x') (d - 1) / ( w(x) (d' - 1) ) (nats), w to that power."""
    weights = [log_weight(target, scores[path], last=not session.can_grow(path)) for path in (old, new)]
    return power * (weights[1] - weights[0]) + math.log(old.depth - 1) - math.log(new.depth - 1)


async def _proposed(
    session: Session, path: Path, scores: Scores, rng: Randomness, depth: int | None
) -> Path | None:
    """The path grown anew from a random cut; None where there is none that counts.

    That is: it is of the kind that stays, or the new one is of another kind, a call failed, or a limit bound.
    """
    if path.depth < 2 or session.exhausted or session.can_grow(path) is (depth is None):
        return None
    new = reference_at(path, 1 + rng.choose([1 / (path.depth - 1)] * (path.depth - 1)))
    while session.can_grow(new) and (depth is None or new.depth < depth):
        [group] = await session.extend_scored([new], required=False, until="end" if depth is None else "step")
        if not group or group[0][0] is new:
            return None
        grown, judged = group[0]
        for node in grown.nodes():
            if node not in scores:
                scores[node] = judged[: node.depth] if judged else scores[new]
        new = grown
    return new
