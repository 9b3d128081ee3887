"""Best-of-Majority, best-of-n and majority as N grows, with a scorer made imperfect in steps.

The embedded process reward model scores the pool (last step). It is made imperfect by errors that stay
with an answer, as those of a reward model do: the log odds of all samples of one answer are shifted by
one normal draw of standard deviation sigma. Accuracy is of the first answer each would hand in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.claims.common import Claim, Finding, Pooled, estimate, judged, pool, tasks
from itscale.randomness import derive

CLAIM = Claim(
    "best-of-majority",
    "Best-of-Majority does not degrade as N grows, where best-of-n and majority do",
    "2510.03199",
)
NS = (4, 16, 64)
SIGMAS = (0.0, 2.0, 4.0, 8.0)
ALPHA = 0.1
Answers = tuple[str | None, ...]
Choice = Callable[[Answers, np.ndarray], int]


def measure() -> list[Finding]:
    return [on(name) for name in tasks()]


def on(name: str) -> Finding:
    pooled = pool(name)
    log_odds = asyncio.run(judged(name, pooled))
    parts, falls = [], dict.fromkeys(METHODS, 0)
    for sigma in SIGMAS:
        shifted = log_odds + errors(pooled, sigma)
        rows = []
        for method, choose in METHODS.items():
            right = {n: rightness(pooled, shifted, n, choose) for n in NS}
            change = estimate(right[64] - right[16])
            falls[method] += int(change.high < 0)
            means = ", ".join(f"{right[n].mean():.0%}" for n in NS)
            rows.append(f"{method} {means} ({change.points()})")
        parts.append(f"sigma {sigma:g}: " + "; ".join(rows))
    measured = f"N = {', '.join(map(str, NS))}, change from 16 to 64. " + ". ".join(parts)
    if falls["best-of-majority"]:
        return Finding(name, measured, "does not hold", "it degrades as well")
    if falls["best-of-n"] and falls["majority"]:
        return Finding(name, measured, "holds", "as said")
    others = [m for m in ("best-of-n", "majority") if falls[m]]
    why = f"it does not degrade; of the others {others[0]} does" if others else "none of the three degrades"
    return Finding(name, measured, "holds partly", why)


def rightness(pooled: Pooled, scores: np.ndarray, n: int, choose: Choice) -> np.ndarray:
    """Whether what is chosen of the first n samples is right, (P,)."""
    pairs = zip(pooled.correct, pooled.answers, scores, strict=True)
    return np.array([float(right[choose(answers[:n], own[:n])]) for right, answers, own in pairs])


def best(answers: Answers, scores: np.ndarray) -> int:
    del answers
    return int(np.argmax(scores))


def groups(answers: Answers) -> list[list[int]]:
    """Samples of each answer, most first, ties to the earliest."""
    found: dict[str, list[int]] = {}
    for i, answer in enumerate(answers):
        if answer is not None:
            found.setdefault(answer, []).append(i)
    return sorted(found.values(), key=lambda own: (-len(own), own[0]))


def vote(answers: Answers, scores: np.ndarray) -> int:
    del scores
    grouped = groups(answers)
    return grouped[0][0] if grouped else 0


def best_of_majority(answers: Answers, scores: np.ndarray) -> int:
    grouped = groups(answers)
    if not grouped:
        return best(answers, scores)
    frequent = [own for own in grouped if len(own) >= ALPHA * len(answers)] or grouped[:1]
    chosen = max(frequent, key=lambda own: float(scores[own].mean()))
    return chosen[int(np.argmax(scores[chosen]))]


METHODS: Mapping[str, Choice] = {"best-of-n": best, "majority": vote, "best-of-majority": best_of_majority}


def errors(pooled: Pooled, sigma: float) -> np.ndarray:
    """One normal draw for each question and answer, (P, N)."""
    shift = np.zeros(pooled.correct.shape)
    for q, answers in enumerate(pooled.answers):
        for i, answer in enumerate(answers):
            shift[q, i] = np.random.default_rng(derive(0, q, str(answer))).normal()
    return sigma * shift
