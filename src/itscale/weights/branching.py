"""Branching: one weighted item at a time, with nobody else's weight needed but a mean to be held against.

Law: with M copies of weight V each in place of an item of weight W, E[M V] = W, whatever it is held
against. So a population that is branched item by item stays unbiased, in whatever order they come.

References: Paige et al. 2014, "Asynchronous Anytime Sequential Monte Carlo", arXiv 1407.2864, section 3;
the window is that of particle transport (Booth & Hendricks 1984, "Importance estimation in forward
Monte Carlo calculations").
"""

from __future__ import annotations

import math

from itscale.randomness import Randomness

__all__ = ["branch"]

_ROUNDING = 1e-12
"""Ratios that differ from a whole number by less are that number."""


def branch(
    log_weight: float, log_mean: float, rng: Randomness, *, more: bool, most: int, window: float = 1.0
) -> tuple[int, float]:
    """How many copies go on in place of an item, and the log weight (nats) of each.

    With R = W / mean: between 1 / window and window the item goes on as it is; below, it survives
    with probability R, its weight then the mean; above, floor(R) or, where `more` are wanted,
    ceil(R) copies share its weight, `most` at most.

    >>> from itscale.randomness import Seeded
    >>> branch(math.log(2.5), 0.0, Seeded(0), more=True, most=8)[0]
    3
    >>> branch(math.log(2.5), 0.0, Seeded(0), more=False, most=8, window=3.0) == (1, math.log(2.5))
    True

    Args:
        log_weight: of the item (nats); -inf is a lost one, which leaves no copy.
        log_mean: what it is held against (nats), finite.
        rng: makes at most one choice, of two.
        more: whether to round up.
        most: copies, at least 1.
        window: at least 1.
    """
    if log_weight == -math.inf:
        return 0, -math.inf
    ratio = math.exp(log_weight - log_mean)
    if ratio > 0.5 and abs(ratio - round(ratio)) < _ROUNDING * ratio:
        ratio = float(round(ratio))
    if 1 / window <= ratio <= window:
        return 1, log_weight
    if ratio < 1:
        return (1, log_mean) if rng.choose([1 - ratio, ratio]) else (0, -math.inf)
    copies = min(most, math.ceil(ratio) if more else math.floor(ratio))
    return copies, log_weight - math.log(copies)
