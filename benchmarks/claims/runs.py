"""Methods that need the scorer, measured on the same questions at several N: shared by the claims on search.

A cell (task, method, N) is run once, however many claims ask for it; every model and scorer call of it
is in the task's recording, so a second run of any script pays nothing for it.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.claims.common import Estimate, Floats, Questions, estimate, recorded, results
from itscale.budget import Ledger
from itscale.registry import parse_method
from itscale.scorers.base import ProcessScorer
from itscale.types import Path

__all__ = ["Runs", "Sharpened", "better", "percent", "run", "smallest_budget"]


@dataclass(frozen=True)
class Runs:
    """One method at one N; arrays over the P questions."""

    method: str
    n: int
    right: Floats
    """1.0 or 0.0."""
    tokens: Floats
    """Generated ones."""
    scorer_calls: Floats

    @property
    def accuracy(self) -> Estimate:
        """With its interval over questions."""
        return estimate(self.right)


class Sharpened(ProcessScorer):
    """A scorer made over-confident: its log odds times `factor`, the order of scores unchanged."""

    def __init__(self, scorer: ProcessScorer, factor: float) -> None:
        self.name = f"{scorer.name} x{factor:g}"
        self._scorer = scorer
        self._factor = factor

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        odds = [math.log(r / (1 - r)) for r in await self._scorer.score(path, ledger)]
        return [1 / (1 + math.exp(-max(-30.0, min(30.0, self._factor * x)))) for x in odds]


@functools.lru_cache(maxsize=256)
def run(task: str, method: str, n: int, *, sharpened: float = 1.0) -> Runs:
    """`method` (a spec of the command line) on every question of the task, at N = `n`."""
    questions = Questions.of(task)

    async def measured() -> Runs:
        async with recorded(task, scorer=True) as (model, scorer):
            assert isinstance(scorer, ProcessScorer)
            judge = scorer if sharpened == 1.0 else Sharpened(scorer, sharpened)
            found = await results(questions, parse_method(method), n, model, judge)
        pairs = list(zip(questions.problems, found, strict=True))
        return Runs(
            method,
            n,
            np.array([questions.task.check(p, r.text) for p, r in pairs], float),
            np.array([r.usage.generated_tokens for r in found], float),
            np.array([r.usage.scorer_calls for r in found], float),
        )

    return asyncio.run(measured())


def better(first: Runs, second: Runs) -> Estimate:
    """Accuracy of the first less that of the second, paired by question."""
    return estimate(first.right - second.right)


def percent(runs: Runs) -> str:
    """As `12.3 %`."""
    return f"{100 * runs.right.mean():.1f} %"


def smallest_budget(curve: Sequence[Runs], right: Floats, drawn: np.ndarray | None = None) -> float:
    """The N at which a curve reaches an accuracy: linear in log N between its points, inf beyond the last.

    `right` (P,) are the outcomes to be reached; `drawn` (P,) are the questions of a resample.
    """
    rows = slice(None) if drawn is None else drawn
    goal = right[rows].mean()
    before: tuple[float, float] | None = None
    for runs in curve:
        here = math.log(runs.n), float(runs.right[rows].mean())
        if here[1] >= goal:
            if before is None:
                return float(runs.n)
            share = (goal - before[1]) / (here[1] - before[1])
            return math.exp(before[0] + share * (here[0] - before[0]))
        before = here
    return math.inf
