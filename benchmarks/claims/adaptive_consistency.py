"""Adaptive consistency against plain majority at the same largest N, on the same samples.

The paper's N is 40. Loss is paired, question by question, with an interval; samples are those the
unchanged method looked at.
"""

from __future__ import annotations

import asyncio

import numpy as np

from benchmarks.claims.common import (
    Claim,
    Finding,
    Questions,
    estimate,
    pool,
    ratio,
    recorded,
    results,
    tasks,
)
from itscale.methods import AdaptiveConsistency

CLAIM = Claim(
    "adaptive-consistency",
    "Adaptive consistency takes up to 6 times fewer samples than majority voting, at a loss under 0.1 %",
    "2305.11860",
)
MOST = 40


def measure() -> list[Finding]:
    return [on(name) for name in tasks()]


def on(name: str) -> Finding:
    pooled = pool(name)
    questions = pooled.questions
    used, right = asyncio.run(adaptive(name, questions))
    voted = [pooled.correct[i, winner(pooled.answers[i][:MOST])] for i in range(len(questions.problems))]
    fewer = ratio(np.full(len(used), float(MOST)), used)
    loss = estimate(np.array(voted, float) - np.array(right, float))
    plain = estimate(np.array(voted, float))
    measured = (
        f"{fewer.plain(1)} times fewer samples than {MOST}; accuracy {loss.points()} lost of "
        f"{plain.percent()}"
    )
    cheap, safe = fewer.high >= 6, loss.low <= 0.001
    if safe and cheap:
        return Finding(name, measured, "holds", "as said")
    if safe and fewer.low > 1:
        return Finding(
            name,
            measured,
            "holds partly",
            "the loss is within the claim, the saving is smaller: answers here are less often unanimous",
        )
    return Finding(name, measured, "does not hold", "the loss is larger than claimed")


def winner(answers: tuple[str | None, ...]) -> int:
    """The earliest sample of the most frequent answer; the first sample if none has one."""
    votes: dict[str, list[int]] = {}
    for i, answer in enumerate(answers):
        if answer is not None:
            votes.setdefault(answer, []).append(i)
    return max(votes.values(), key=lambda own: (len(own), -own[0]))[0] if votes else 0


async def adaptive(name: str, questions: Questions) -> tuple[list[float], list[bool]]:
    async with recorded(name) as (model, _):
        found = await results(questions, AdaptiveConsistency(), MOST, model)
    right = [questions.task.check(p, r.text) for p, r in zip(questions.problems, found, strict=True)]
    return [float(r.usage.model_calls) for r in found], right
