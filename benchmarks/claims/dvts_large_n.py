"""DVTS against beam search at small and at large N, paired."""

from __future__ import annotations

from benchmarks.claims.common import Claim, Finding, tasks
from benchmarks.claims.runs import better, percent, run

CLAIM = Claim(
    "dvts-large-n",
    "DVTS beats beam search at large N",
    "https://huggingface.co/spaces/HuggingFaceH4/blogpost-scaling-test-time-compute",
)
SMALL, LARGE = 4, 32


def measure() -> list[Finding]:
    return [on(task) for task in tasks()]


def on(task: str) -> Finding:
    gains, parts = {}, []
    for n in (SMALL, LARGE):
        diverse, beam = run(task, "dvts", n), run(task, "beam", n)
        gains[n] = better(diverse, beam)
        parts.append(f"N = {n}: beam {percent(beam)}, DVTS {percent(diverse)} ({gains[n].points()})")
    measured = "; ".join(parts)
    if gains[LARGE].low > 0:
        return Finding(task, measured, "holds", "ahead beyond chance at the larger N")
    if gains[LARGE].value > max(0.0, gains[SMALL].value):
        return Finding(task, measured, "holds partly", "its lead grows with N, not beyond chance")
    return Finding(task, measured, "does not hold", "no lead at the larger N")
