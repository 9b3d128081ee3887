"""The scorer seam: process scorers judge every step of a prefix, outcome scorers a finished path,
comparison scorers several paths against each other."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

from itscale.budget import Ledger, Price
from itscale.errors import ScorerError
from itscale.types import Path

__all__ = [
    "AGGREGATIONS",
    "Aggregation",
    "ComparisonScorer",
    "OutcomeScorer",
    "ProcessScorer",
    "Scorer",
    "checked_ranks",
    "checked_scores",
]

Aggregation = Literal["last", "min", "mean", "product"]

AGGREGATIONS: dict[Aggregation, Callable[[Sequence[float]], float]] = {
    "last": lambda scores: scores[-1],
    "min": min,
    "mean": lambda scores: math.fsum(scores) / len(scores),
    "product": math.prod,
}
"""Step scores to one number."""


class _Named(ABC):
    """What every kind of scorer has."""

    name: str
    calls_each: int = 1
    """Scorer calls that one judgement counts as: more for a judge that is asked several times."""
    plain_only: bool = False
    """Whether it reads roles and texts, and refuses a prompt that says more (`Prompt.judged`)."""
    price: Price | None = None
    """Of the tokens of a judge; what other scorers compute costs no dollars."""

    @property
    def identity(self) -> str:
        """What tells this scorer from every other, as `Model.identity` does; the name by default."""
        return self.name

    @property
    def computing_s(self) -> float | None:
        """Seconds that its engine has computed so far; None where nobody measures it."""
        return None

    async def close(self) -> None:  # noqa: B027  most scorers have nothing to release
        """Release what the scorer holds."""


class ProcessScorer(_Named):
    """Gives one score in the open interval (0, 1) for each step of a path, finished or not."""

    @abstractmethod
    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        """Scores of all steps, first to last: exactly `path.depth` of them.

        Raises:
            ScorerError: the call failed for good.
        """


class OutcomeScorer(_Named):
    """Gives one number for a finished path; larger is better, any scale."""

    @abstractmethod
    async def score(self, path: Path, ledger: Ledger) -> float:
        """The score of a finished path.

        Raises:
            ScorerError: the call failed for good.
        """


class ComparisonScorer(_Named):
    """Ranks answers to one prompt that it sees side by side.

    It sees them in the order given and does nothing against a liking for a place: whoever asks does,
    by asking in other orders too (`methods/comparing.py`).
    """

    @abstractmethod
    async def compare(self, paths: Sequence[Path], ledger: Ledger) -> Sequence[int]:
        """A rank for each of two or more paths, in the order given: 0 is best, equal ranks are ties.

        Raises:
            ScorerError: the call failed for good, or came to no verdict.
        """


Scorer = ProcessScorer | OutcomeScorer | ComparisonScorer


def checked_scores(
    scorer: ProcessScorer | OutcomeScorer, path: Path, result: Sequence[float] | float
) -> tuple[float, ...]:
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


def checked_ranks(scorer: ComparisonScorer, count: int, result: Sequence[int]) -> tuple[int, ...]:
    """The ranks a scorer gave `count` paths, held against its contract.

    Raises:
        ScorerError: a wrong count, or something that is no whole number of at least 0.
    """
    ranks = tuple(result)
    if len(ranks) != count:
        raise ScorerError(
            f"scorer {scorer.name!r} gave {len(ranks)} ranks for {count} answers; return one for each"
        )
    if not all(type(rank) is int and rank >= 0 for rank in ranks):
        raise ScorerError(f"scorer {scorer.name!r} returned the ranks {ranks}; return whole numbers from 0")
    return ranks
