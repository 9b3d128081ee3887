"""PETS, offline and online, against the same number of samples for every question.

Agreement is with the majority of all 64 pooled samples, as in the paper's code. The target is what
32 samples each reach; counted is the mean number of samples with which PETS gets there. The rules are
the library's own `choose`, asked one sample at a time over the pool, on the 100 questions of each seed
and several orders of their samples; online plans are fitted on the other seeds' questions. Intervals
are over seeds and orders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np

from benchmarks.claims.common import SEEDS, Claim, Finding, pool, tasks
from itscale.allocation import Allocation, OnlinePlan, PetsOffline, PetsOnline, Standing

CLAIM = Claim(
    "pets",
    "PETS reaches the self-consistency of a uniform allocation with up to 75 % (offline) and 55 % (online) "
    "fewer samples",
    "2602.16745",
)
REFERENCE = 32
"""Samples each of the uniform allocation."""
ORDERS = 3
MEANS = (4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32)
Answers = Sequence[Sequence[str]]


def measure() -> list[Finding]:
    return [on(name) for name in tasks()]


def on(name: str) -> Finding:
    pooled = pool(name)
    every = [[answer or "" for answer in own] for own in pooled.answers]
    parts = np.array_split(np.arange(len(every)), len(SEEDS))
    saved: dict[str, list[float]] = {"offline": [], "online": []}
    levels = []
    for part in parts:
        plan = OnlinePlan.fit(
            [list(Counter(every[q]).values()) for q in range(len(every)) if q not in set(part)], "pool"
        )
        for order in range(ORDERS):
            rng = np.random.default_rng(order)
            answers = [[every[q][i] for i in rng.permutation(len(every[q]))] for q in part]
            labels = [winner(every[q]) for q in part]
            target = agreement(answers, [REFERENCE] * len(answers), labels)
            levels.append(target)
            for which, rule in (("offline", PetsOffline(in_flight=1)), ("online", PetsOnline(plan=plan))):
                reached = samples_to_reach(rule, answers, labels, target)
                saved[which].append(1 - reached / REFERENCE)
    offline, online = (spread(saved[which]) for which in ("offline", "online"))
    measured = (
        f"at the agreement of 32 samples each ({fmean(levels):.1%}): offline {offline} fewer samples, "
        f"online {online} fewer"
    )
    low = [float(np.quantile(saved[which], 0.025)) for which in ("offline", "online")]
    if fmean(saved["offline"]) >= 0.5 and fmean(saved["online"]) >= 0.3:
        return Finding(name, measured, "holds", "a saving of the size claimed, on every seed")
    if min(low) > 0:
        return Finding(name, measured, "holds partly", "fewer samples, but not by as much")
    return Finding(name, measured, "does not hold", "no clear saving at this level")


def samples_to_reach(rule: Allocation, answers: Answers, labels: Sequence[str], target: float) -> float:
    """The least mean number of samples with which the rule's agreement is at the target or above."""
    for mean in MEANS:
        taken = spent(rule, answers, mean * len(answers))
        if agreement(answers, taken, labels) >= target:
            return sum(taken) / len(answers)
    return float(MEANS[-1])


def spent(rule: Allocation, answers: Answers, samples: int) -> list[int]:
    """How many samples each question gets of so many in all, the answers coming at once."""
    standings = [Standing() for _ in answers]
    votes: list[Counter[str]] = [Counter() for _ in answers]
    for left in range(samples, 0, -1):
        q = rule.choose(standings, left)
        if q is None or standings[q].started == len(answers[q]):
            break
        votes[q][answers[q][standings[q].started]] += 1
        standings[q].started += 1
        standings[q].history.append(tuple(sorted(votes[q].values(), reverse=True)))
    return [standing.started for standing in standings]


def agreement(answers: Answers, taken: Sequence[int], labels: Sequence[str]) -> float:
    """Share of questions whose majority so far is their label."""
    pairs = zip(answers, taken, labels, strict=True)
    return fmean(winner(own[:n]) == label if n else 0.0 for own, n, label in pairs)


def winner(answers: Sequence[str]) -> str:
    """The most frequent answer, the earliest among equals; samples without one do not vote."""
    votes = Counter(answer for answer in answers if answer)
    return max(votes, key=lambda a: (votes[a], -list(answers).index(a))) if votes else ""


spread: Callable[[Sequence[float]], str] = lambda own: (  # noqa: E731  a format, used twice
    f"{100 * fmean(own):.0f} % ({100 * min(own):.0f} to {100 * max(own):.0f})"
)
