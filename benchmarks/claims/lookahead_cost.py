"""Lookahead against beam search at the same N, and against beam at the N that costs the same tokens."""

from __future__ import annotations

from benchmarks.claims.common import Claim, Finding, tasks
from benchmarks.claims.runs import better, percent, run

CLAIM = Claim("lookahead-cost", "Lookahead search rarely pays at equal cost", "2408.03314")
N = 16
DEARER = 32
"""Beam's N that costs at least what lookahead does at N."""


def measure() -> list[Finding]:
    return [on(task) for task in tasks()]


def on(task: str) -> Finding:
    ahead, beam, dearer = run(task, "lookahead", N), run(task, "beam", N), run(task, "beam", DEARER)
    same_n, same_cost = better(ahead, beam), better(ahead, dearer)
    cost = ahead.tokens.mean() / beam.tokens.mean()
    measured = (
        f"at N = {N} lookahead {percent(ahead)}, beam {percent(beam)} ({same_n.points()}) at {cost:.1f} x "
        f"the tokens; beam at N = {DEARER} ({dearer.tokens.mean() / beam.tokens.mean():.1f} times) "
        f"{percent(dearer)} ({same_cost.points()})"
    )
    if same_cost.low > 0:
        return Finding(task, measured, "does not hold", "here it pays: ahead of a beam that costs no less")
    if same_cost.high > 0 and same_n.low > 0:
        return Finding(task, measured, "holds partly", "ahead at equal N, within chance at equal cost")
    return Finding(task, measured, "holds", "nothing gained at equal cost")
