"""The entropic particle filter against the plain one: at small and larger N, with the scorer as it is and
made over-confident on purpose (its log odds times 3)."""

from __future__ import annotations

from benchmarks.claims.common import Claim, Finding, tasks
from benchmarks.claims.runs import better, percent, run

CLAIM = Claim(
    "entropic-small-n",
    "Entropic particle filtering gains most at small N and where the reward model is over-confident",
    "2510.05825",
)
SMALL, LARGE, OVERCONFIDENT = 4, 16, 3.0


def measure() -> list[Finding]:
    return [on(task) for task in tasks()]


def on(task: str) -> Finding:
    gains, parts = {}, []
    for factor in (1.0, OVERCONFIDENT):
        for n in (SMALL, LARGE):
            entropic = run(task, "entropic-particle-filter", n, sharpened=factor)
            plain = run(task, "particle-filter", n, sharpened=factor)
            gains[factor, n] = better(entropic, plain)
            kind = "as it is" if factor == 1 else "over-confident"
            parts.append(f"scorer {kind}, N = {n}: {percent(plain)}, {gains[factor, n].points()}")
    measured = "; ".join(parts)
    small = gains[OVERCONFIDENT, SMALL]
    if small.low > 0 and small.value >= max(g.value for g in gains.values()):
        return Finding(task, measured, "holds", "largest where it was said to be")
    if any(gain.low > 0 for gain in gains.values()):
        return Finding(
            task, measured, "holds partly", "it gains, but not most at small N and over-confidence"
        )
    return Finding(task, measured, "does not hold", "no gain beyond chance in any of the four")
