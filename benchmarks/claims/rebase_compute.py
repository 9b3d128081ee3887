"""REBASE against sampling (majority, weighted best-of-n) and MCTS, at equal generated tokens.

The N of each is the same, and so nearly are the tokens of REBASE and sampling; MCTS stops by the same
budget of paths, and its tokens are said beside it.
"""

from __future__ import annotations

from benchmarks.claims.common import Claim, Finding, tasks
from benchmarks.claims.runs import better, percent, run

CLAIM = Claim("rebase-compute", "REBASE beats sampling and MCTS at equal compute", "2408.00724")
OTHERS = ("majority", "weighted-best-of-n", "mcts")
N = 16


def measure() -> list[Finding]:
    return [on(task) for task in tasks()]


def on(task: str) -> Finding:
    rebase = run(task, "rebase", N)
    gains, parts = [], []
    for other in OTHERS:
        plain = run(task, other, N)
        gains.append(better(rebase, plain))
        share = rebase.tokens.mean() / plain.tokens.mean()
        parts.append(f"{other} {percent(plain)}, {gains[-1].points()} at {share:.2f} of its tokens")
    measured = f"REBASE {percent(rebase)}; " + "; ".join(parts)
    if all(gain.low > 0 for gain in gains):
        return Finding(task, measured, "holds", "ahead of all three beyond chance")
    if any(gain.low > 0 for gain in gains):
        beaten = [other for other, gain in zip(OTHERS, gains, strict=True) if gain.low > 0]
        return Finding(task, measured, "holds partly", f"beyond chance only ahead of {', '.join(beaten)}")
    return Finding(task, measured, "does not hold", "ahead of none of them beyond chance")
