"""Rollout trees against majority voting over as many independent samples: tokens and accuracy."""

from __future__ import annotations

from benchmarks.claims.common import Claim, Finding, tasks
from benchmarks.claims.runs import better, percent, run

CLAIM = Claim(
    "tree-rollout-tokens",
    "Tree rollouts save 35 to 40 % of the sampled tokens at equal majority accuracy",
    "2508.17445",
)
TREES = (
    "entropy-tree",
    "entropy-tree:spacing=4",
    "segment-tree",
    "segment-tree:trees=8",
    "semantic-tree:metric=entropy",
)
N = 16
SAVED = 0.35
"""Share of the tokens, at least."""
MARGIN = 0.02
"""Most accuracy that may be lost for it to be called equal."""


def measure() -> list[Finding]:
    return [on(task) for task in tasks()]


def on(task: str) -> Finding:
    plain = run(task, "majority", N)
    parts, found = [f"N = {N}: majority {percent(plain)}"], []
    for spec in TREES:
        tree = run(task, spec, N)
        gain, saved = better(tree, plain), 1 - tree.tokens.mean() / plain.tokens.mean()
        parts.append(f"{spec} {percent(tree)} ({gain.points()}) with {100 * saved:.0f} % fewer tokens")
        found.append((saved, gain))
    measured = "; ".join(parts)
    equal = [saved for saved, gain in found if gain.value >= -MARGIN and gain.high >= 0]
    if any(saved >= SAVED for saved in equal):
        return Finding(task, measured, "holds", f"a tree saves that much and loses at most {MARGIN:.0%}")
    if any(saved > 0 for saved in equal):
        best = max(equal)
        return Finding(task, measured, "holds partly", f"at equal accuracy {100 * best:.0f} % are saved")
    return Finding(task, measured, "does not hold", "trees that save tokens lose accuracy")
