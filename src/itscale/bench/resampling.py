"""Resampling until a verifier accepts, forecast from labelled samples and measured on others.

Of every problem n samples are drawn, checked (right or not) and judged (accepted or not). The first
half says how wrong the verifier is (`verifiers.estimate_verifier`) and so what K tries should reach;
the second half says what they do reach: with R right and W wrong ones of m accepted,

    accuracy(K) = (1 - C(m - R - W, K) / C(m, K)) R / (R + W)        K <= m

which is unbiased, because in random order the first accepted sample is any of the accepted alike.

Law: forecast and measurement see no sample in common, and problems weigh equally in both.
Not covered: K that is not small against the samples of one half. There a forecast is too low (estimated
rates vary, and 1 - (1 - a)^K is concave in a): a problem none of whose samples was accepted counts as one
whose samples never are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from itscale.bench.statistics import pass_at_k
from itscale.bench.verifiers import (
    BestK,
    ImperfectVerifier,
    best_k,
    estimate_verifier,
    predicted_accuracy,
    predicted_utility,
)
from itscale.budget import Budget
from itscale.errors import OptionError
from itscale.methods.arrivals import together
from itscale.methods.best_of_n import BestOfN
from itscale.models.base import Model
from itscale.randomness import derive
from itscale.scorers.base import Scorer
from itscale.tasks.base import Task
from itscale.types import Problem

__all__ = ["Forecast", "Verdict", "judged_samples", "resampled_accuracy", "resampled_utility"]

Verdict = tuple[bool, bool]
"""Of one sample: whether it is right, and whether the verifier accepts it."""
RESAMPLES = 2000
AT_ONCE = 16
"""Problems under way."""


async def judged_samples(
    task: Task,
    problems: Sequence[Problem],
    model: Model,
    scorer: Scorer,
    method: BestOfN,
    *,
    samples: int,
    seed: int = 0,
) -> list[list[tuple[bool, float | None]]]:
    """Of every problem its samples, each with whether it is right and its score (None: not judged).

    They are the samples of any method under the seed of a sweep. `method` says how they are drawn and
    how step scores become one.
    """
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(problem: Problem) -> list[tuple[bool, float | None]]:
        async with gate:
            budget, own = Budget(generations=samples), derive(seed, problem.id)
            result = await method.run(problem.prompt, model, scorer, budget, own)
        return [
            (task.check(problem, c.path.text), c.score if c.path.finished else None)
            for c in result.candidates
        ]

    return await together(map(one, problems))


def resampled_accuracy(samples: Sequence[Verdict], k: int) -> float:
    """P(the first accepted of `k` of these samples exists and is right), unbiased.

    >>> resampled_accuracy([(True, True), (False, True), (True, False), (False, False)], 4)
    0.5

    Raises:
        ValueError: `k` is not between 1 and the number of samples.
    """
    accepted = [right for right, taken in samples if taken]
    found = pass_at_k(len(samples), len(accepted), k)
    return found * sum(accepted) / len(accepted) if accepted else 0.0


def resampled_utility(samples: Sequence[Verdict], k: int, *, cost: float) -> float:
    """`resampled_accuracy` less `cost` for each wrong answer returned.

    Raises:
        ValueError: `k` is not between 1 and the number of samples.
    """
    returned = pass_at_k(len(samples), sum(taken for _, taken in samples), k)
    accuracy = resampled_accuracy(samples, k)
    return accuracy - cost * (returned - accuracy)


@dataclass(frozen=True)
class Forecast:
    """What K tries should reach and do reach.

    Raises:
        OptionError: no problems, or one with fewer than two samples.
    """

    samples: Sequence[Sequence[Verdict]]
    """Of every problem its labelled samples."""
    cost: float = 1.0
    """Of a wrong answer; a right one counts 1, no answer 0."""

    def __post_init__(self) -> None:
        if min(map(len, self.samples), default=0) < 2:
            raise OptionError("a forecast needs at least two samples of every problem; raise --samples")

    @cached_property
    def verifiers(self) -> list[ImperfectVerifier]:
        """The verifier on each problem, estimated from the first half of its samples."""
        return [estimate_verifier(own[: len(own) // 2]) for own in self.samples]

    @property
    def most(self) -> int:
        """The largest K that is measured."""
        return min(len(own) - len(own) // 2 for own in self.samples)

    def predicted(self, k: int) -> float:
        """Mean accuracy of K tries, from the first halves."""
        return predicted_accuracy(self.verifiers, k)

    def measured(self, k: int) -> npt.NDArray[np.float64]:
        """Accuracy of K tries on each problem, shape (P,), from the second halves."""
        return np.array([resampled_accuracy(own[len(own) // 2 :], k) for own in self.samples])

    def error(self, k: int) -> tuple[float, float]:
        """95 % interval of predicted less measured accuracy: problems are drawn again."""
        gaps = np.array([verifier.accuracy(k) for verifier in self.verifiers]) - self.measured(k)
        return _interval(gaps)

    def interval(self, k: int) -> tuple[float, float]:
        """95 % interval of the measured accuracy: problems are drawn again."""
        return _interval(self.measured(k))

    def predicted_utility(self, k: int) -> float:
        """Accuracy less the cost of wrong answers, from the first halves."""
        return predicted_utility(self.verifiers, k, cost=self.cost)

    def measured_utility(self, k: int) -> float:
        """The same from the second halves."""
        halves = [own[len(own) // 2 :] for own in self.samples]
        return float(np.mean([resampled_utility(own, k, cost=self.cost) for own in halves]))

    @cached_property
    def best(self) -> BestK:
        """The K up to `most` past which more tries hurt, by the first halves."""
        return best_k(self.verifiers, cost=self.cost, most=self.most)

    @property
    def measured_best(self) -> int:
        """The K up to `most` with the largest measured utility, the smallest among equals."""
        return max(range(1, self.most + 1), key=lambda k: (round(self.measured_utility(k), 12), -k))

    @property
    def ceiling(self) -> float:
        """Accuracy as K grows without end."""
        return float(np.mean([verifier.ceiling for verifier in self.verifiers]))

    def rates(self) -> tuple[float, float, float]:
        """Of all samples together: the share of right ones, of right ones and of wrong ones accepted."""
        pairs = np.array([pair for own in self.samples for pair in own])
        right, taken = pairs[:, 0], pairs[:, 1]
        of_right = float(taken[right].mean()) if right.any() else 1.0
        of_wrong = float(taken[~right].mean()) if (~right).any() else 0.0
        return float(right.mean()), of_right, of_wrong


def _interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
