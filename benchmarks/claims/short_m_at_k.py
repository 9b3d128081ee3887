"""short-m@k against majority of the same k samples: tokens, time and accuracy.

Tokens and time follow from the lengths (all samples at one speed, as the method assumes): the first m
whole, the others up to the m-th; time is the length of the m-th against the longest. Votes are the
method's. Every question gives 64 / k groups of k samples.
"""

from __future__ import annotations

import numpy as np

from benchmarks.claims.common import Claim, Estimate, Finding, Pooled, estimate, pool, ratio, tasks

CLAIM = Claim(
    "short-m-at-k",
    "Of k samples the first to finish takes up to 40 % fewer thinking tokens at no loss; "
    "the vote of the first three is better than that of all k in up to 33 % less wall time",
    "2505.17813",
)
K = 8
TOKENS, TIME = 0.4, 0.33
"""Shares saved that the paper claims, at most."""
WORTH = 0.05
"""A smaller share counts as none."""


def measure() -> list[Finding]:
    return [on(name) for name in tasks()]


def on(name: str) -> Finding:
    pooled = pool(name)
    first, third = (raced(pooled, m) for m in (1, 3))
    tokens = saving(ratio(first["tokens"], first["all_tokens"]))
    time = saving(ratio(third["time"], third["longest"]))
    gains = [estimate(own["right"] - own["voted"]) for own in (first, third)]
    measured = (
        f"k = {K}: short-1 takes {tokens.percent()} fewer tokens at {gains[0].points()}; "
        f"short-3 takes {time.percent()} less time at {gains[1].points()} against majority"
    )
    harmless = [gain.high >= 0 for gain in gains]
    if tokens.high >= TOKENS and time.high >= TIME and all(harmless):
        return Finding(name, measured, "holds", "as said")
    worth = [saved.low >= WORTH for saved in (tokens, time)]
    if any(saves and safe for saves, safe in zip(worth, harmless, strict=True)):
        return Finding(name, measured, "holds partly", "one of the two, or less than claimed")
    reasons = []
    if not all(worth):
        reasons.append(
            "solutions of one level are all about equally long, so there is nothing to save; "
            "the claim is about long reasoning"
        )
    if not all(harmless):
        reasons.append("fewer votes are worse votes")
    return Finding(name, measured, "does not hold", "; ".join(reasons))


def saving(left: Estimate) -> Estimate:
    """1 less a ratio."""
    return Estimate(1 - left.value, 1 - left.high, 1 - left.low)


def raced(pooled: Pooled, m: int) -> dict[str, np.ndarray]:
    """Sums over the groups of each question, (P,) each."""
    fields = ("tokens", "all_tokens", "time", "longest", "right", "voted")
    sums = {field: np.zeros(len(pooled.answers)) for field in fields}
    for q, answers in enumerate(pooled.answers):
        lengths, correct = pooled.tokens[q], pooled.correct[q]
        groups = [range(start, start + K) for start in range(0, len(answers) - K + 1, K)]
        for group in groups:
            order = sorted(group, key=lambda i: (lengths[i], i))
            last = lengths[order[m - 1]]
            share = 1 / len(groups)
            sums["tokens"][q] += share * (sum(lengths[i] for i in order[:m]) + (K - m) * last)
            sums["all_tokens"][q] += share * sum(lengths[i] for i in group)
            sums["time"][q] += share * last
            sums["longest"][q] += share * max(lengths[i] for i in group)
            sums["right"][q] += share * correct[voted(order[:m], answers, lengths)]
            sums["voted"][q] += share * correct[voted(list(group), answers, None)]
    return sums


def voted(who: list[int], answers: tuple[str | None, ...], lengths: np.ndarray | None) -> int:
    """The winner's representative: ties to the shortest, or without lengths to the earliest."""
    votes: dict[str, list[int]] = {}
    for i in who:
        if (answer := answers[i]) is not None:
            votes.setdefault(answer, []).append(i)
    if not votes:
        return who[0]

    def rank(i: int) -> tuple[float, int]:
        return (0.0 if lengths is None else float(lengths[i]), i)

    return min(max(votes.values(), key=lambda own: (len(own), *(-x for x in min(map(rank, own))))), key=rank)
