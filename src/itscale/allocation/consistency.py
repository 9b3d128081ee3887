"""The self-consistency rate: how often the majority of B samples is the law's mode, exactly.

    SCR(B) = P(majority of B samples = mode of the answer law), ties broken at random

PETS (arXiv 2602.16745) optimises its mean over questions. Each count j of the mode contributes the
coefficient of x^(B-j) in the product over the other answers of sum_{c<j} (p x)^c / c! + t (p x)^j / j!,
times p_mode^j B! / j!; r answers tied with the mode stand as t^r, whose integral over [0, 1] is the
1 / (r + 1) of a random tie-break.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["consistency_curve", "probit_fit"]

Floats = npt.NDArray[np.float64]


def consistency_curve(law: Sequence[float], most: int) -> Floats:
    """SCR(1), ..., SCR(most), shape (most,), of an answer law (linear, shape (K,), sums to 1).

    Of several modes it is the first one's.

    >>> consistency_curve([0.4, 0.3, 0.2, 0.1], 9)[[0, 1, 2, 4, 8]].round(3)
    array([0.4  , 0.4  , 0.44 , 0.49 , 0.556])

    Raises:
        ValueError: it is no law.
    """
    p = np.asarray(law, dtype=np.float64)
    if p.ndim != 1 or not len(p) or (p < 0).any() or not math.isclose(p.sum(), 1.0, abs_tol=1e-9):
        raise ValueError(f"{list(law)} is no law; give probabilities that sum to 1")
    mode = int(np.argmax(p))
    t, weights = _unit_interval(most // 2 + 1)
    degrees = np.arange(most + 1)
    log_factorial = np.array([math.lgamma(c + 1) for c in degrees])
    # One polynomial in x for every count j of the mode (rows) and node t (columns).
    product = np.zeros((most, len(t), most + 1))
    product[:, :, 0] = 1.0
    below = degrees < np.arange(1, most + 1)[:, None]
    tied = degrees == np.arange(1, most + 1)[:, None]
    for q in np.delete(p, mode):
        if q > 0:
            terms = np.exp(degrees * math.log(q) - log_factorial)
            factor = below[:, None, :] * terms + tied[:, None, :] * terms * t[None, :, None]
            product = _times(product, factor)
    wins = product.transpose(0, 2, 1) @ weights  # (most, most + 1): the coefficient of x^d for each j
    curve = np.zeros(most)
    for j in range(1, most + 1):
        sizes = np.arange(j, most + 1)
        log_front = j * math.log(p[mode]) - log_factorial[j] + log_factorial[sizes]
        curve[sizes - 1] += np.exp(log_front) * wins[j - 1, sizes - j]
    return curve


def probit_fit(curve: Floats, first: int = 3) -> tuple[float, float]:
    """(a, b) with SCR(k) ~ Phi(a sqrt(k) + b), least squares after the probit over k >= `first`."""
    from statistics import NormalDist

    k = np.arange(first, len(curve) + 1)
    z = [NormalDist().inv_cdf(float(y)) for y in np.clip(curve[first - 1 :], 1e-6, 1 - 1e-6)]
    columns = np.stack([np.sqrt(k), np.ones(len(k))], axis=1)
    (a, b), *_ = np.linalg.lstsq(columns, np.array(z), rcond=None)
    return float(a), float(b)


def _times(first: Floats, second: Floats) -> Floats:
    """Products of polynomials along the last axis, cut at its length."""
    out = np.zeros_like(first)
    for c in range(first.shape[-1]):
        part = second[..., c : c + 1]
        if part.any():
            out[..., c:] += first[..., : first.shape[-1] - c] * part
    return out


def _unit_interval(nodes: int) -> tuple[Floats, Floats]:
    """Gauss-Legendre on [0, 1], exact for polynomials up to degree 2 nodes - 1."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    return (x + 1) / 2, w / 2
