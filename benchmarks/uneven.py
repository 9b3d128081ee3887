"""Backends on which steps and judgements take unequal time, and methods timed side by side on them."""

from __future__ import annotations

import argparse
import asyncio
import math
import selectors
import statistics
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from itscale.bench import wilson_interval
from itscale.budget import Budget, Ledger
from itscale.methods import Method
from itscale.methods.base import Result
from itscale.models.base import Model, WrappedModel
from itscale.randomness import Randomness, derive
from itscale.scorers.base import ProcessScorer
from itscale.types import Path, Problem, Sampling, Until

__all__ = ["HEAD", "LateScorer", "SimulatedTime", "Timed", "UnevenModel", "from_command_line", "timed"]


def _jitter(seed: int, spread: float) -> float:
    """A factor of median 1: exp of a normal draw of that standard deviation."""
    return math.exp(spread * float(np.random.default_rng(seed).standard_normal()))


class UnevenModel(WrappedModel):
    """A model behind a server: each call takes its tokens' time, times a factor of its own.

    As many calls at once as there are; `spread` is the factor's standard deviation on the log scale.
    """

    def __init__(self, model: Model, token_s: float, spread: float) -> None:
        super().__init__(model)
        self.token_s = token_s
        self.spread = spread

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        grown = await self._model.extend(path, n, until, sampling, rng, ledger)
        tokens = max(child.n_tokens - path.n_tokens for child in grown)
        await asyncio.sleep(tokens * self.token_s * _jitter(rng.seed, self.spread))
        return grown


class LateScorer(ProcessScorer):
    """A scorer whose judgement takes that long, times a factor of its own."""

    def __init__(self, scorer: ProcessScorer, call_s: float, spread: float) -> None:
        self.name = scorer.name
        self.call_s = call_s
        self.spread = spread
        self._scorer = scorer

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        scores = await self._scorer.score(path, ledger)
        await asyncio.sleep(self.call_s * _jitter(derive(0, path.text), self.spread))
        return scores


@dataclass
class Timed:
    """What one method did on all problems."""

    label: str
    seconds: list[float]
    tokens: list[int]
    discarded: list[int]
    right: list[bool]

    def row(self, first: Timed) -> str:
        """As a line of a table; `first` is what its time is compared with."""
        low, high = wilson_interval(sum(self.right), len(self.right))
        parts = [
            self.label,
            f"{100 * statistics.mean(self.right):.1f} % ({100 * low:.1f} to {100 * high:.1f})",
            f"{statistics.mean(self.tokens):.0f}",
            f"{statistics.mean(self.discarded):.0f}",
            f"{statistics.mean(self.seconds):.2f}",
            f"{self._ratio(first)}",
        ]
        return f"| {' | '.join(parts)} |"

    def _ratio(self, first: Timed) -> str:
        """Total seconds of the first over its own, with a bootstrap interval over problems."""
        if self is first:
            return "1"
        pairs = np.array([first.seconds, self.seconds])
        picks = np.random.default_rng(0).integers(0, pairs.shape[1], (2000, pairs.shape[1]))
        sums = pairs[:, picks].sum(axis=2)
        low, high = np.quantile(sums[0] / sums[1], [0.025, 0.975])
        return f"{pairs[0].sum() / pairs[1].sum():.2f} ({low:.2f} to {high:.2f})"


class Exercises(Protocol):
    """Problems and their check."""

    def problems(self, count: int, *, seed: int = 0) -> list[Problem]: ...

    def check(self, problem: Problem, text: str) -> bool: ...


class SimulatedTime(asyncio.SelectorEventLoop):
    """An event loop whose clock goes on to the next wake-up whenever nothing else is to be done.

    What waits takes its time to the microsecond and what computes takes none, so that a figure says
    what waiting costs, on any machine under any load. Only for runs that wait for nothing but sleeps.
    """

    def __init__(self) -> None:
        self._now = 0.0
        selector = selectors.DefaultSelector()
        honest = selector.select

        def select(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            ready = honest(0)
            if not ready and timeout:
                self._now += timeout
            return ready

        selector.select = select  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        """Simulated seconds."""
        return self._now


HEAD = (
    "| method | accuracy (95 %) | tokens a problem | discarded | seconds a problem | times as fast (95 %) |\n"
    "|---|---|---:|---:|---:|---|"
)


async def timed(
    methods: dict[str, Method],
    task: Exercises,
    problems: int,
    model: Model,
    scorer: ProcessScorer,
    n: int,
    in_flight: int,
) -> list[Timed]:
    """Every method on the same held-out problems, each problem's runs one after the other.

    The order rotates from problem to problem, so that what else the machine does falls on all alike.
    """
    done = {label: Timed(label, *([0] * problems for _ in range(4))) for label in methods}
    gate = asyncio.Semaphore(in_flight)

    async def one(i: int, problem: Problem) -> None:
        async with gate:
            labels = list(methods)
            for label in labels[i % len(labels) :] + labels[: i % len(labels)]:
                began = asyncio.get_running_loop().time()
                result: Result = await methods[label].run(
                    problem.prompt, model, scorer, Budget(generations=n), seed=i
                )
                done[label].seconds[i] = asyncio.get_running_loop().time() - began
                done[label].tokens[i] = result.usage.generated_tokens
                done[label].discarded[i] = result.usage.discarded_tokens
                done[label].right[i] = task.check(problem, result.text)

    await asyncio.gather(*(one(i, problem) for i, problem in enumerate(task.problems(problems, seed=1))))
    assert all(len(a.seconds) == len(b.seconds) for a, b in pairwise(done.values()))
    return list(done.values())


def from_command_line(
    about: str | None,
    on_the_table: Callable[[int], Coroutine[Any, Any, None]],
    on_the_embedded_models: Callable[[int], Coroutine[Any, Any, None]],
    *,
    problems: int,
    embedded: int,
) -> None:
    """Run a script's two parts on as many problems as its command line says: the first in simulated time."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--problems", type=int, default=problems, help="on the table; 0 leaves it out")
    parser.add_argument(
        "--embedded", type=int, default=embedded, help="on the embedded models; 0 leaves them out"
    )
    arguments = parser.parse_args()
    if arguments.problems:
        with asyncio.Runner(loop_factory=SimulatedTime) as runner:
            runner.run(on_the_table(arguments.problems))
    if arguments.embedded:
        asyncio.run(on_the_embedded_models(arguments.embedded))
