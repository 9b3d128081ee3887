"""Ancestor sampling: the reference of a conditional filter may get another past.

Lindsten, Jordan & Schoen 2014, "Particle Gibbs with ancestor sampling", JMLR 15, section 3. At step t
the rest of the reference, x'_{t+1:T}, is kept, and the path it continues is drawn among all N,

    path i with probability proportional to  W_i * p(x'_{t+1:T} | x_i) * w_T(x_i x'_{t+1:T}) / w_t(x_i)

W_i the weight at step t. Law: beside free slots that resample, this leaves the target invariant just
as keeping the past does, and the early steps of the reference change even where the copies of its
own past have died out.

A joined path that would be longer than a path may be has no weight, nor one after a path that has
ended. A path whose call fails cannot be drawn; where that is the reference's own past, it is kept.
"""

from __future__ import annotations

import math

import numpy as np

from itscale.methods.arrivals import together
from itscale.methods.filtering import Scores, Target, log_weight
from itscale.methods.session import Session
from itscale.randomness import Randomness
from itscale.types import Path
from itscale.weights import Population

__all__ = ["joined"]


async def joined(
    session: Session,
    population: Population[Path],
    scores: Scores,
    reference: Path,
    rng: Randomness,
    *,
    target: Target,
    power: float = 1.0,
) -> Path:
    """The reference with a newly drawn past; slot 0 of the population holds its present one.

    Adds the step scores of joined paths to `scores`. Costs a question to the model for each open
    path, and a judgement for each that the rest may follow.
    """
    own = population.items[0]
    rest = reference.steps[own.depth :]
    if not rest or not reference.finished:
        return reference
    token_ids = [token for step in rest for token in step.token_ids]
    slots = [
        i
        for i, (path, weight) in enumerate(zip(population.items, population.log_weights, strict=True))
        if weight > -math.inf and session.can_grow(path) and session.room(path) >= len(token_ids)
    ]
    told = await together(session.logprobs(population.items[i], token_ids) for i in slots)
    likely = {i: math.fsum(logprobs) for i, logprobs in zip(slots, told, strict=True) if logprobs}
    pasts = {i: population.items[i] for i, logprob in likely.items() if logprob > -math.inf}
    wholes = {i: reference if past is own else session.graft(past, rest) for i, past in pasts.items()}
    new = [whole for whole in wholes.values() if whole not in scores]
    for whole, judged in zip(new, await session.score(new), strict=True):
        if judged is not None:
            scores.update({node: judged[: node.depth] for node in whole.nodes() if node not in scores})
    odds = {
        i: float(population.log_weights[i]) + likely[i] + power * (after - before)
        for i, whole in wholes.items()
        if whole in scores
        for after in [log_weight(target, scores[whole], last=True)]
        for before in [log_weight(target, scores[pasts[i]], last=False)]
    }
    chosen = reference
    if 0 in odds:
        drawn = Population(tuple(wholes[i] for i in odds), np.array([*odds.values()]))
        chosen = drawn.items[rng.choose(drawn.weights)]
    session.pruned([whole for whole in wholes.values() if whole not in (reference, chosen)])
    return chosen
