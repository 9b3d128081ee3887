"""PETS, offline and online, against the same number of samples for every question.

Agreement is with the majority of all 64 pooled samples, as in the paper's code. The target is what
32 samples each reach; counted is the mean number of samples with which PETS gets there. The rules are
the library's own `choose`, asked one sample at a time over the pool, on each of six sets of 50 questions
and several orders of their samples; online plans are fitted on the other sets. Agreement is averaged over
all of these before it is compared; intervals draw the sets again, each with all its orders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from benchmarks.claims.common import Claim, Estimate, Finding, pool, tasks
from itscale.allocation import Allocation, OnlinePlan, PetsOffline, PetsOnline, Standing

CLAIM = Claim(
    "pets",
    "PETS reaches the self-consistency of a uniform allocation with up to 75 % (offline) and 55 % (online) "
    "fewer samples",
    "2602.16745",
)
REFERENCE = 32
"""Samples each of the uniform allocation."""
CLAIMED = {"offline": 0.75, "online": 0.55}
"""Shares of the samples saved, at most."""
SETS = 6
"""Of questions: each is allocated its own budget."""
ORDERS = 5
MEANS = (4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32)
Answers = Sequence[Sequence[str]]


def measure() -> list[Finding]:
    return [on(name) for name in tasks()]


def on(name: str) -> Finding:
    pooled = pool(name)
    every = [[answer or "" for answer in own] for own in pooled.answers]
    levels = np.zeros((SETS, ORDERS))
    curves = {which: np.zeros((SETS, ORDERS, len(MEANS), 2)) for which in CLAIMED}
    for i, part in enumerate(np.array_split(np.arange(len(every)), SETS)):
        others = [list(Counter(every[q]).values()) for q in range(len(every)) if q not in set(part)]
        rules = {
            "offline": PetsOffline(in_flight=1),
            "online": PetsOnline(plan=OnlinePlan.fit(others, "pool")),
        }
        labels = [winner(every[q]) for q in part]
        for order in range(ORDERS):
            rng = np.random.default_rng(order)
            answers = [[every[q][i] for i in rng.permutation(len(every[q]))] for q in part]
            levels[i, order] = agreement(answers, [REFERENCE] * len(answers), labels)
            for which, rule in rules.items():
                curves[which][i, order] = curve(rule, answers, labels)
    saved = {which: savings(levels, own) for which, own in curves.items()}
    said = ", ".join(f"{which} {own.percent(0)} fewer samples" for which, own in saved.items())
    measured = f"at the agreement of {REFERENCE} samples each ({levels.mean():.1%}): {said}"
    if all(own.low > 0 and own.high >= CLAIMED[which] for which, own in saved.items()):
        return Finding(name, measured, "holds", "savings of the size claimed")
    if any(own.low > 0 for own in saved.values()):
        return Finding(name, measured, "holds partly", "fewer samples, but not by as much")
    return Finding(name, measured, "does not hold", "no clear saving at this level")


def curve(rule: Allocation, answers: Answers, labels: Sequence[str]) -> list[tuple[float, float]]:
    """(mean samples spent, agreement) of the rule at every budget of `MEANS`."""
    budgets = [mean * len(answers) for mean in MEANS]
    if isinstance(rule, PetsOffline):  # does not look at what is left: smaller budgets are its beginnings
        shares = spent(rule, answers, budgets)
    else:
        shares = [own for budget in budgets for own in spent(rule, answers, [budget])]
    return [(sum(own) / len(answers), agreement(answers, own, labels)) for own in shares]


def savings(levels: np.ndarray, curves: np.ndarray) -> Estimate:
    """1 - samples to reach the mean level / the reference; `levels` (S, O), `curves` (S, O, budgets, 2)."""

    def of(sets: np.ndarray) -> float:
        spent_, reached = curves[sets].mean((0, 1)).T
        level = levels[sets].mean()
        there = np.flatnonzero(reached >= level)
        if not len(there):
            return 0.0
        i = int(there[0])
        if i == 0:
            return 1 - spent_[0] / REFERENCE
        part = (level - reached[i - 1]) / (reached[i] - reached[i - 1])
        return 1 - (spent_[i - 1] + part * (spent_[i] - spent_[i - 1])) / REFERENCE

    rng = np.random.default_rng(0)
    drawn = [of(rng.integers(0, len(levels), len(levels))) for _ in range(1000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(of(np.arange(len(levels))), float(low), float(high))


def spent(rule: Allocation, answers: Answers, budgets: Sequence[int]) -> list[list[int]]:
    """How many samples each question has got of so many in all, the answers coming at once.

    The rule spends the last, largest budget; of the others what it has spent by then.
    """
    shares: list[list[int]] = []
    standings = [Standing() for _ in answers]
    votes: list[Counter[str]] = [Counter() for _ in answers]
    for left in range(budgets[-1], 0, -1):
        if budgets[-1] - left in budgets:
            shares.append([standing.started for standing in standings])
        q = rule.choose(standings, left)
        if q is None:
            break
        votes[q][answers[q][standings[q].started]] += 1
        standings[q].started += 1
        standings[q].history.append(tuple(sorted(votes[q].values(), reverse=True)))
        if standings[q].started == len(answers[q]):
            standings[q].refused = "its pool is used up"
    last = [standing.started for standing in standings]
    return [*shares, *([last] * (len(budgets) - len(shares)))]


def agreement(answers: Answers, taken: Sequence[int], labels: Sequence[str]) -> float:
    """Share of questions whose majority so far is their label."""
    pairs = zip(answers, taken, labels, strict=True)
    return fmean(winner(own[:n]) == label if n else 0.0 for own, n, label in pairs)


def winner(answers: Sequence[str]) -> str:
    """The most frequent answer, the earliest among equals; samples without one do not vote."""
    votes = Counter(answer for answer in answers if answer)
    return max(votes, key=lambda a: (votes[a], -list(answers).index(a))) if votes else ""
