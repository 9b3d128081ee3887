"""A* at N = 16 against best-of-n and the particle filter: accuracy, tokens, scorer calls."""

from __future__ import annotations

from benchmarks.claims.common import Claim, Finding, ratio, tasks
from benchmarks.claims.runs import better, percent, run

CLAIM = Claim(
    "a-star-tokens",
    "A*-decoding reaches best-of-n's and particle filtering's accuracy with up to 3 times fewer tokens and "
    "30 % fewer scorer calls",
    "2505.13672",
)
N = 16
TOLERANCE = 0.03
"""Points of accuracy that count as reached."""


def measure() -> list[Finding]:
    return [on(task, other) for task in tasks() for other in ("best-of-n", "particle-filter")]


def on(task: str, other: str) -> Finding:
    star, plain = run(task, "a-star", N), run(task, other, N)
    gap = better(star, plain)
    tokens, calls = ratio(plain.tokens, star.tokens), ratio(star.scorer_calls, plain.scorer_calls)
    measured = (
        f"{percent(star)} against {other}'s {percent(plain)} ({gap.points()}); {tokens.plain(1)} times fewer "
        f"tokens, {calls.plain(2)} of the scorer calls"
    )
    reached = gap.low > -TOLERANCE
    if reached and tokens.high >= 3 and calls.low <= 0.7:
        return Finding(task, measured, "holds", "as said")
    if tokens.low > 1 and gap.high > -TOLERANCE:
        return Finding(
            task,
            measured,
            "holds partly",
            "it spends less; the accuracy or the saving falls short of the claim",
        )
    return Finding(task, measured, "does not hold", "it is less accurate than what it is to replace")
