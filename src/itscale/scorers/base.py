"""The scorer seam: process scorers judge every step of a prefix, outcome scorers a finished path."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

from itscale.budget import Ledger
from itscale.errors import ScorerError
from itscale.types import Path

__all__ = ["AGGREGATIONS", "Aggregation", "OutcomeScorer", "ProcessScorer", "Scorer", "checked_scores"]

Aggregation = Literal["last", "min", "mean", "product"]

AGGREGATIONS: dict[Aggregation, Callable[[Sequence[float]], float]] = {
    "last": lambda scores: scores[-1],
    "min": min,
    "mean": lambda scores: math.fsum(scores) / len(scores),
    "product": math.prod,
}
"""Step scores to one number."""


class ProcessScorer(ABC):
    """Gives one score in the open interval (0, 1) for each step of a path, finished or not."""

    name: str

    @property
    def identity(self) -> str:
        """What tells this scorer from every other, as `Model.identity` does; the name by default."""
        return self.name

    @abstractmethod
    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        """Scores of all steps, first to last: exactly `path.depth` of them.

        Raises:
            ScorerError: the call failed for good.
        """

    async def close(self) -> None:  # noqa: B027  most scorers have nothing to release
        """Release what the scorer holds."""


class OutcomeScorer(ABC):
    """Gives one number for a finished path; larger is better, any scale."""

    name: str

    @property
    def identity(self) -> str:
        """What tells this scorer from every other, as `Model.identity` does; the name by default."""
        return self.name

    @abstractmethod
    async def score(self, path: Path, ledger: Ledger) -> float:
        """The score of a finished path.

        Raises:
            ScorerError: the call failed for good.
        """

    async def close(self) -> None:  # noqa: B027  most scorers have nothing to release
        """Release what the scorer holds."""


Scorer = ProcessScorer | OutcomeScorer


def checked_scores(scorer: Scorer, path: Path, result: Sequence[float] | float) -> tuple[float, ...]:
    """What a scorer returned, held against its contract.

    Raises:
        ScorerError: wrong count, NaN, or a process score outside (0, 1).
    """
    if isinstance(scorer, OutcomeScorer):
        scores: tuple[float, ...] = (float(result),)  # type: ignore[arg-type]
    else:
        scores = tuple(float(s) for s in result)  # type: ignore[union-attr]
        if len(scores) != path.depth:
            raise ScorerError(
                f"scorer {scorer.name!r} gave {len(scores)} scores for {path.depth} steps; "
                "a process scorer returns exactly one score a step"
            )
    for score in scores:
        if math.isnan(score):
            raise ScorerError(f"scorer {scorer.name!r} returned NaN; return a number for every path")
        if isinstance(scorer, ProcessScorer) and not 0.0 < score < 1.0:
            raise ScorerError(
                f"scorer {scorer.name!r} returned {score}, outside (0, 1); "
                "apply a sigmoid, or make it an OutcomeScorer"
            )
    return scores
