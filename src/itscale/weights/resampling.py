"""Resampling schemes: turn N weighted slots into n equally weighted ones.

Law: every scheme is unbiased, E[copies of i] = n p_i, and never picks an index of weight zero.
Every draw is a finite choice (`Randomness.choose`), so that the enumerator of `itscale.testing`
can follow all of them; where the literature draws one uniform offset (systematic), its outcome is
piecewise constant in the offset, and the piece is what is chosen.

`optimal` is of another kind: it never picks an index twice, and what it picks has unequal weights.

Not covered: when to resample (that is the caller's rule on `Population.ess`).

References: Douc, Cappé & Moulines 2005, "Comparison of resampling schemes for particle filtering",
arXiv cs/0507025; Fearnhead & Clifford 2003, "On-line inference for hidden Markov models via particle
filters", JRSS B 65.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from itscale.randomness import Randomness

__all__ = ["SCHEMES", "Scheme", "multinomial", "optimal", "residual", "stratified", "systematic"]

Scheme = Literal["multinomial", "residual", "stratified", "systematic"]
Floats = npt.NDArray[np.float64]
Ancestors = npt.NDArray[np.intp]

_ROUNDING = 1e-13
"""Expected copies that differ by less than this share of n are equal up to rounding."""


def multinomial(probabilities: Floats, n: int, rng: Randomness) -> Ancestors:
    """`n` independent draws; the noisiest scheme, and the one most proofs are about.

    Args:
        probabilities: linear, shape (N,), summing to 1.
        n: how many slots to fill.
        rng: makes `n` choices among N.

    Returns:
        The index each new slot continues, shape (n,), non-decreasing.

    Raises:
        ValueError: `probabilities` is no distribution, or `n` is below 1.
    """
    p = _checked(probabilities, n)
    return np.sort(np.array([rng.choose(p) for _ in range(n)], dtype=np.intp))


def residual(probabilities: Floats, n: int, rng: Randomness) -> Ancestors:
    """floor(n p_i) copies of each i for certain, the rest multinomial on what is left over.

    Arguments, result and errors are those of `multinomial`; at most N - 1 choices.
    """
    expected = _snapped(n * _checked(probabilities, n), n)
    certain = np.floor(expected)
    kept = np.repeat(np.arange(len(expected), dtype=np.intp), certain.astype(np.intp))
    missing = n - len(kept)
    if missing == 0:
        return kept
    left_over = expected - certain
    drawn = multinomial(left_over / left_over.sum(), missing, rng)
    return np.sort(np.concatenate([kept, drawn]))


def stratified(probabilities: Floats, n: int, rng: Randomness) -> Ancestors:
    """One draw in each of n equal strata of the cumulated weight.

    Arguments, result and errors are those of `multinomial`; one choice a stratum.
    """
    edges = _edges(probabilities, n)
    ancestors = np.empty(n, dtype=np.intp)
    for k in range(n):
        first, last = np.searchsorted(edges, k, side="right"), np.searchsorted(edges, k + 1, side="left")
        inner = np.clip(edges[first : last + 1], k, k + 1)
        ancestors[k] = first + rng.choose(_shares(np.diff(inner, prepend=float(k))))
    return ancestors


def systematic(probabilities: Floats, n: int, rng: Randomness) -> Ancestors:
    """One offset u shared by all strata: slot k continues the index at (k + u) / n.

    The copies of i are floor(n p_i) or that plus one. Arguments, result and errors are those of
    `multinomial`; one choice in all, among at most N + 1 intervals of u.
    """
    edges = _edges(probabilities, n)
    # Between two neighbouring fractional parts of the edges, no offset changes any ancestor.
    breaks = np.unique(np.concatenate([[0.0, 1.0], edges - np.floor(edges)]))
    interval = rng.choose(_shares(np.diff(breaks)))
    offset = (breaks[interval] + breaks[interval + 1]) / 2
    ancestors: Ancestors = np.searchsorted(edges, np.arange(n) + offset, side="right")
    return ancestors


SCHEMES: dict[str, Callable[[Floats, int, Randomness], Ancestors]] = {
    "multinomial": multinomial,
    "residual": residual,
    "stratified": stratified,
    "systematic": systematic,
}
"""All schemes by name."""


def optimal(probabilities: Floats, n: int, rng: Randomness) -> tuple[Ancestors, Floats]:
    """At most `n` different indices and their new weights: E[new weight of i] = p_i, 0 if not picked.

    With the threshold c that solves sum_i min(p_i / c, 1) = n, whoever is above c is kept with its
    weight; i below c survives with probability p_i / c, its weight then c. Of all unbiased schemes
    that leave n it has the least expected squared error (Fearnhead & Clifford 2003, section 3.2).

    >>> from itscale.randomness import Seeded
    >>> picked, weights = optimal(np.array([0.6, 0.2, 0.1, 0.1]), 3, Seeded(0))
    >>> len(set(picked.tolist())), weights.round(12).tolist()
    (3, [0.6, 0.2, 0.2])

    Args:
        probabilities: linear, shape (N,), summing to 1.
        n: how many may be left.
        rng: makes one choice.

    Returns:
        The indices, increasing, and their weights (linear), shape (n,), or fewer where fewer have
        any weight.

    Raises:
        ValueError: `probabilities` is no distribution, or `n` is below 1.
    """
    p = _checked(probabilities, n)
    if np.count_nonzero(p) <= n:
        whole: Ancestors = np.flatnonzero(p)
        return whole, p[whole]
    order = np.argsort(-p, kind="stable")
    left = np.cumsum(p[order][::-1])[::-1]
    kept = next(k for k in range(n) if p[order[k]] * (n - k) <= left[k] * (1 + _ROUNDING))
    threshold, small = left[kept] / (n - kept), np.sort(order[kept:])
    drawn = small[systematic(p[small] / p[small].sum(), n - kept, rng)]
    weights = p.copy()
    weights[drawn] = threshold
    picked = np.sort(np.concatenate([order[:kept], drawn]))
    return picked, weights[picked]


def _checked(probabilities: Floats, n: int) -> Floats:
    """The distribution as float64 with its rounding error divided out, shape (N,)."""
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 1 or not len(p) or not np.all(np.isfinite(p)) or np.any(p < 0) or abs(p.sum() - 1) > 1e-6:
        raise ValueError("probabilities must be a flat array of numbers of at least 0 that sum to 1")
    if n < 1:
        raise ValueError(f"n is {n}; resample to at least 1 slot")
    total: np.float64 = p.sum()
    return p / total


def _edges(probabilities: Floats, n: int) -> Floats:
    """The cumulated weight times n, shape (N,): index i owns [edges[i - 1], edges[i])."""
    p = _checked(probabilities, n)
    edges = _snapped(np.minimum(n * np.cumsum(p), n), n)
    edges[np.flatnonzero(p)[-1] :] = n  # a sum that stops short of 1 would leave a gap that nobody owns
    return edges


def _snapped(expected: Floats, n: int) -> Floats:
    """Values within rounding of an integer made that integer: 3 * (1/3 + 1/3) is 2, not 2 - 1e-16."""
    nearest = np.rint(expected)
    return np.where(np.abs(expected - nearest) <= _ROUNDING * n, nearest, expected)


def _shares(lengths: Floats) -> Floats:
    """Lengths as probabilities; slivers that only rounding made become impossible."""
    kept = np.where(lengths > _ROUNDING, lengths, 0.0)
    total: np.float64 = kept.sum()
    return kept / total
