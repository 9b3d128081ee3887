"""Coverage against the number of samples: does exp(a k^b) fit it?

Coverage is the unbiased pass@k from 64 samples; the fit is least squares of log coverage against a k^b
on log-spaced k, as in the paper. What is reported is how far the fitted curve is off.
"""

from __future__ import annotations

import numpy as np

from benchmarks.claims.common import Claim, Estimate, Finding, pool, tasks
from itscale.bench.statistics import pass_at_k

CLAIM = Claim(
    "coverage-power-law",
    "Coverage grows with the number of samples k as an exponentiated power law, exp(a k^b)",
    "2407.21787",
)
KS = np.unique(np.round(np.geomspace(1, 64, 16)).astype(int))
CLOSE = 0.02
"""Off by at most two points counts as following the law, by at most five as nearly so."""
EXPONENTS = np.linspace(-3, -0.01, 600)


def measure() -> list[Finding]:
    return [on(name) for name in tasks()]


def on(name: str) -> Finding:
    correct = pool(name).correct
    n = correct.shape[1]
    each = np.array([[pass_at_k(n, int(c), int(k)) for k in KS] for c in correct.sum(1)])
    rng = np.random.default_rng(0)
    fits = [fitted(each[rng.integers(0, len(each), len(each))].mean(0)) for _ in range(1000)]
    a, b, off = fitted(each.mean(0))
    low, high = np.quantile([fit[1] for fit in fits], [0.025, 0.975])
    exponent = Estimate(b, float(low), float(high)).plain()
    worst = float(np.quantile([fit[2] for fit in fits], 0.975))
    measured = (
        f"coverage {each.mean(0)[0]:.1%} at 1, {each.mean(0)[-1]:.1%} at 64; a = {a:.2f}, b = {exponent}; "
        f"the fit is off by {100 * off:.1f} points at most (97.5 % quantile {100 * worst:.1f})"
    )
    if off <= CLOSE:
        return Finding(name, measured, "holds", "within two points over the whole range")
    if off <= 0.05:
        return Finding(name, measured, "holds partly", "a power law in shape, off by more than two points")
    return Finding(
        name, measured, "does not hold", "problems of one level are too alike: it saturates faster"
    )


def fitted(coverage: np.ndarray) -> tuple[float, float, float]:
    """(a, b, largest error) of exp(a k^b)."""
    target = np.log(coverage)
    powers = KS[None, :] ** EXPONENTS[:, None]
    scales = powers @ target / (powers**2).sum(1)  # for a given b the best a is linear least squares
    best = int(((scales[:, None] * powers - target) ** 2).sum(1).argmin())
    a, b = float(scales[best]), float(EXPONENTS[best])
    return a, b, float(np.abs(np.exp(a * KS**b) - coverage).max())
