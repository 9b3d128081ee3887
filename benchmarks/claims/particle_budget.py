"""How much budget the particle filter needs for what the searches reach.

For each other method at N = 32 (and 16): the smallest N of the particle filter with the same accuracy,
its curve read linearly in log N. All methods generate about the same tokens at the same N, so a ratio
of N is one of tokens too (the table says both). Intervals: questions drawn again.
"""

from __future__ import annotations

import math

import numpy as np

from benchmarks.claims.common import RESAMPLES, Claim, Finding, tasks
from benchmarks.claims.runs import Runs, better, percent, run, smallest_budget

CLAIM = Claim(
    "particle-budget",
    "Particle filtering needs 4 to 16 times less budget than beam, DVTS and weighted best-of-n",
    "2502.01618",
)
OTHERS = ("beam", "dvts", "weighted-best-of-n")
AT = 32
CURVE = (1, 2, 4, 8, 16, 32)


def measure() -> list[Finding]:
    return [finding for task in tasks() for finding in on(task)]


def on(task: str) -> list[Finding]:
    curve = [run(task, "particle-filter", n) for n in CURVE]
    return [against(task, curve, run(task, other, AT)) for other in OTHERS]


def against(task: str, curve: list[Runs], other: Runs) -> Finding:
    saved = AT / smallest_budget(curve, other.right)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(other.right), (RESAMPLES, len(other.right)))
    ratios = [AT / smallest_budget(curve, other.right, rows) for rows in drawn]
    low, high = (float(x) for x in np.quantile(ratios, [0.025, 0.975]))
    same_n = better(curve[-1], other)
    tokens = other.tokens.mean() / curve[-1].tokens.mean()
    measured = (
        f"{other.method} at N = {AT}: {percent(other)}; the filter reaches that with {_times(saved)} less "
        f"({_times(low)} to {_times(high)}); at equal N ({tokens:.2f} of its tokens) it is at "
        f"{percent(curve[-1])}, {same_n.points()}"
    )
    if low >= 4:
        return Finding(task, measured, "holds", "as said")
    if low > 1:
        why = "it needs less budget, by a factor that may be under 4"
        return Finding(task, measured, "holds partly", why)
    return Finding(task, measured, "does not hold", "no saving beyond chance")


def _times(ratio: float) -> str:
    return "never" if ratio == 0 or math.isinf(1 / ratio) else f"{ratio:.1f} times"
