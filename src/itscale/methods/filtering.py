"""What the particle methods share: their targets, a step of the whole population, and the choice.

A target is given by the log weight log w_t a path has after t steps (nats), r_t in (0, 1) being the
score of the first t; the potential is the ratio G_t = w_t / w_{t-1}, w_0 = 1. Where a path ends the
weight is that of the target, so that the filter samples p(x) * w_T(x), p the model:

    target     w_t on the way              w_T at the end    G_t on the way
    final      r_t                         r_T               r_t / r_{t-1}, r_0 = 1
    max        prod_{s<=t} max_{u<=s} r_u  r_T               max_{s<=t} r_s
    sum        prod_{s<=t} prod_{u<=s} r_u r_T               exp( sum_{s<=t} log r_s )
    product    prod_{s<=t} r_s             prod_t r_t        r_t
    odds       prod_{s<=t} r_s / (1 - r_s) prod_t odds_t     r_t / (1 - r_t)

`final`, `max` and `sum` sample the same law and differ in which paths survive on the way; the last
two are the potentials of Singhal et al. 2025, "A General Framework for Inference-time Scaling and
Steering of Diffusion Models", arXiv 2501.06848, with reward log r and the last potential
r_T / prod_{s<T} G_s. With the running maximum in the last potential too, as published code has it,
the law would be p(x) * max_t r_t instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Literal

import numpy as np

from itscale.errors import OptionError, did_you_mean
from itscale.methods.arrivals import together
from itscale.methods.base import best, candidate
from itscale.methods.session import Judged, Session
from itscale.randomness import Randomness
from itscale.scorers.answers import tally
from itscale.types import Candidate, Path
from itscale.weights import Population

__all__ = [
    "CHOICES",
    "TARGETS",
    "Choice",
    "Scores",
    "Target",
    "candidates_of",
    "check_known",
    "choose_slot",
    "extended",
    "last_score",
    "log_weight",
    "published_weights",
    "reference_at",
    "still_growing",
    "target_potential",
]

Target = Literal["final", "product", "odds", "max", "sum"]
Choice = Literal["vote", "argmax", "sample"]
CHOICES = ("vote", "argmax", "sample")
Scores = dict[Path, tuple[float, ...]]
"""Step scores by path; the root has none."""
LogPotential = Callable[[Path, Path], float]
"""log G_t (nats) of a path before and after its step t."""


def _last(scores: Sequence[float]) -> float:
    return math.log(scores[-1])


def _product(scores: Iterable[float]) -> float:
    return math.fsum(map(math.log, scores))


def _odds(scores: Iterable[float]) -> float:
    return math.fsum(map(_logit, scores))


def _logit(r: float) -> float:
    return math.log(r) - math.log1p(-r)


def _running_max(scores: Sequence[float]) -> float:
    return _product(accumulate(scores, max))


def _running_sum(scores: Sequence[float]) -> float:
    return math.fsum(accumulate(map(math.log, scores)))


LogWeight = Callable[[Sequence[float]], float]
TARGETS: dict[str, tuple[LogWeight, LogWeight]] = {
    "final": (_last, _last),
    "product": (_product, _product),
    "odds": (_odds, _odds),
    "max": (_running_max, _last),
    "sum": (_running_sum, _last),
}
"""For each target the log weight (nats) of a path that goes on, and of one that has ended, as a
function of its step scores, at least one."""


def log_weight(target: str, scores: Sequence[float], *, last: bool) -> float:
    """Log weight (nats) of a path with these step scores; 0 for a path that has none."""
    return TARGETS[target][last](scores) if scores else 0.0


def target_potential(target: Target, scores: Scores, session: Session, power: float = 1.0) -> LogPotential:
    """log G_t (nats) of a target: the log weight a path has, less the one it had a step before.

    With a `power` b of p(x) * w_T(x)^b, all weights to the power of b.
    """

    def potential(old: Path, new: Path) -> float:
        before = log_weight(target, scores[old], last=False)
        return power * (log_weight(target, scores[new], last=not session.can_grow(new)) - before)

    return potential


def last_score(scores: Sequence[float]) -> float | None:
    """The score of the whole path, None where it was never judged."""
    return scores[-1] if scores else None


def published_weights(population: Population[Path], scores: Scores) -> Population[Path]:
    """The population with logit(r) of each last score in place of its log weights, lost items lost.

    As in the codes of Puri et al. and its_hub: nothing is carried, and a finished path is weighed
    by its score again every time.
    """
    replaced = [
        -math.inf if weight == -math.inf else _logit(last_score(scores[path]) or 0.5)
        for path, weight in zip(population.items, population.log_weights, strict=True)
    ]
    return Population(population.items, np.array(replaced))


def still_growing(population: Population[Path], session: Session) -> bool:
    """Whether another step can change anything; without it resampling would only add noise."""
    return any(session.can_grow(path) for path in _living(population))


async def extended(
    population: Population[Path],
    scores: Scores,
    session: Session,
    log_potential: LogPotential,
    reference: Path | None = None,
    *,
    proposal_temperature: float | None = None,
) -> Population[Path]:
    """Every living path one step longer, reweighted by `log_potential(old, new)` (nats).

    Adds to `scores`; without a judgement a child keeps its parent's. An ended path stays as it is, a
    path whose call failed stays with weight zero. With a `reference` (conditional SMC) slot 0 is a
    prefix of it and goes on along it, without asking the model. Steps drawn at a
    `proposal_temperature` have their `log_importance` in the weight too.
    """
    free = [i for i, w in enumerate(population.log_weights) if w > -math.inf and (i or reference is None)]
    asked = [population.items[i] for i in free]
    # Ended paths go in as well: the session gives them back, and so knows that some are left.
    groups = await session.extend_scored(asked, temperature=proposal_temperature, required=reference is None)
    grown: dict[int, Judged] = {i: group[0] for i, group in zip(free, groups, strict=True) if group}
    if reference is not None:
        grown[0] = (reference_at(reference, population.items[0].depth + 1), None)
    items, increments = list(population.items), [-math.inf] * len(population)
    for i, (new, judged) in grown.items():
        old = items[i]
        if new not in scores:
            scores[new] = judged or scores[old]
        items[i], increments[i] = new, 0.0 if new is old else log_potential(old, new)
    if proposal_temperature is not None:
        moved = [i for i, (new, _) in grown.items() if new is not population.items[i]]
        ratios = await together(log_importance(session, items[i]) for i in moved)
        for i, ratio in zip(moved, ratios, strict=True):
            increments[i] += ratio
    again = Population(tuple(items), population.log_weights).reweight(increments)
    if max(again.log_weights) > -math.inf:
        session.weighed(again)
    return again


async def log_importance(session: Session, path: Path) -> float:
    """log p(step) / q(step) (nats) of a path's last step, drawn from q: p at the method's temperature.

    -inf, a lost path, when the call for it failed; 0 when a limit bound and the run is over anyway.

    Raises:
        OptionError: the model does not tell q (servers do at temperature 1 alone).
    """
    assert path.parent is not None
    assert path.step is not None
    if path.step.logprob is None:
        raise OptionError(
            "the model does not tell log-probabilities at that proposal_temperature; "
            "leave it out, or use an in-process model (hf:PATH)"
        )
    target = await session.logprobs(path.parent, path.step.token_ids)
    if target is None:
        return 0.0 if session.exhausted else -math.inf
    return math.fsum(target) - path.step.logprob


def reference_at(reference: Path, depth: int) -> Path:
    """The first `depth` steps of a path; all of it when it is shorter."""
    return next(node for node in reference.nodes() if node.depth <= depth)


def candidates_of(population: Population[Path], scores: Scores, share: float = 1.0) -> list[Candidate]:
    """The slots of a final population as candidates, their weights adding up to `share`."""
    return [
        candidate(path, score=last_score(scores[path]), weight=share * float(w), step_scores=scores[path])
        for path, w in zip(population.items, population.weights, strict=True)
    ]


def choose_slot(candidates: Sequence[Candidate], choose: str, rng: Randomness) -> int:
    """The index of the answer, among finished paths if there are any.

    `vote` adds up the weights of equal answers, `argmax` takes the best score, `sample` draws by
    weight. A vote in which nothing states an answer falls back to the best score.
    """
    weights = [candidate.weight or 0.0 for candidate in candidates]
    if choose == "sample":
        living = [i for i, w in enumerate(weights) if w > 0]
        slots = [i for i in living if candidates[i].path.finished] or living
        total = math.fsum(weights[i] for i in slots)
        return slots[rng.choose([weights[i] / total for i in slots])]
    clusters = []
    if choose == "vote":
        clusters = tally([c.answer for c in candidates], weights, [c.score for c in candidates])
    return clusters[0].representative if clusters else best(candidates)


def check_known(method: object, **known: Iterable[str]) -> None:
    """Hold named options of a method against what they may be.

    Raises:
        OptionError: one is something else; the message has the closest known value.
    """
    for option, values in known.items():
        if getattr(method, option) not in (allowed := tuple(values)):
            raise OptionError(did_you_mean(option, str(getattr(method, option)), allowed))


def _living(population: Population[Path]) -> list[Path]:
    """The paths of non-zero weight, in slot order."""
    return [path for path, w in zip(population.items, population.log_weights, strict=True) if w > -math.inf]
