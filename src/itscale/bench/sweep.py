"""A sweep: every method at every budget on every problem, one model and scorer, all at once.

Law: a row depends on its problem, method, budget and the sweep's seed alone, never on order,
concurrency or what else is in the sweep. A problem's seed is derived from its id and serves every
method and budget, so that sampling methods see the same samples (and share them, `sharing.py`).

Runs start problem after problem with a fixed number in flight and no barrier in between: the model
always has work, and the samples of only a few problems are held at a time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from functools import cached_property, partial

from itscale.bench.sharing import SharedSamples, share_scores
from itscale.bench.store import Row, RowKey
from itscale.budget import Budget, Ledger, Usage
from itscale.errors import ItscaleError, OptionError, RecordingError
from itscale.methods.base import Method
from itscale.models.base import Model
from itscale.randomness import Randomness, derive
from itscale.registry import method_label
from itscale.scorers.base import Scorer
from itscale.tasks.base import GeneratedTask
from itscale.types import Path, Problem, Sampling, Until

__all__ = ["DEFAULT_CONCURRENCY", "Cell", "Sweep", "run_sweep"]

DEFAULT_CONCURRENCY = 64
"""Runs in flight."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A method at a budget N."""

    method: Method
    label: str
    budget: int


@dataclass(frozen=True)
class Sweep:
    """What is to be run. Equal sweeps give equal rows, apart from seconds.

    Raises:
        OptionError: no method, no budget or no problem, or one that is not positive.
        TaskError: the task has no such level.
    """

    task: GeneratedTask
    methods: tuple[Method, ...]
    budgets: tuple[int, ...]
    count: int
    level: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.methods or not self.budgets:
            raise OptionError("a sweep needs at least one method and one budget")
        if min(self.budgets) < 1:
            raise OptionError(f"budget {min(self.budgets)} runs nothing; give whole numbers from 1 up")
        if self.count < 1:
            raise OptionError(f"{self.count} problems measure nothing; give at least 1")
        self.problems  # noqa: B018  an unknown level fails here, before a model is loaded

    @cached_property
    def problems(self) -> list[Problem]:
        """The held-out problems, the same for every sweep of this task, level, seed and count."""
        return self.task.problems(self.count, level=self.level, seed=self.seed)

    @cached_property
    def cells(self) -> list[Cell]:
        """Methods in their order, budgets within; N = 1 alone for a method that N does not change."""
        return [
            Cell(method, method_label(method), budget)
            for method in dict.fromkeys(self.methods)
            for budget in (sorted(set(self.budgets)) if method.scales else (1,))
        ]

    @cached_property
    def keys(self) -> list[RowKey]:
        """The key of every row, problem after problem."""
        return [
            (problem.id, cell.label, cell.budget, self.seed)
            for problem in self.problems
            for cell in self.cells
        ]


async def run_sweep(
    sweep: Sweep,
    model: Model,
    scorer: Scorer | None,
    *,
    on_row: Callable[[Row], None],
    done: Collection[RowKey] = (),
    concurrency: int = DEFAULT_CONCURRENCY,
    share: bool = True,
) -> int:
    """Run what is not `done`, telling `on_row` of each row as it is finished.

    A run that raises an itscale error becomes a row that is wrong; an impossible combination of
    method, model and scorer ends the sweep, before any token.

    Args:
        sweep: what to run.
        model: used, not closed.
        scorer: used, not closed.
        on_row: called once a row, in the order in which runs end.
        done: keys of rows that exist already.
        concurrency: runs in flight.
        share: make equal samples and judgements once. Changes no row but its seconds.

    Returns:
        Generated tokens that were charged to rows without being generated again.

    Raises:
        OptionError: a method needs what the model or scorer does not offer.
        RecordingError: a recording failed, or lacks a call while nothing may be asked live.
    """
    if concurrency < 1:
        raise OptionError(f"concurrency {concurrency} runs nothing; give at least 1")
    for method in sweep.methods:
        method.check(model, scorer)
    shared = SharedSamples(model) if share else None
    judge = share_scores(scorer) if share and scorer is not None else scorer
    runs = ((problem, cell) for problem in sweep.problems for cell in sweep.cells)
    finished = set(done)
    todo = [run for run, key in zip(runs, sweep.keys, strict=True) if key not in finished]
    waiting = Counter(problem.id for problem, _ in todo)
    queue = iter(todo)

    async def work() -> None:
        for problem, cell in queue:
            # A sample that another method made is there at once: it would win every race.
            source = model if shared is None or cell.method.races else shared
            on_row(await _run(sweep, problem, cell, source, judge))
            waiting[problem.id] -= 1
            if shared is not None and not waiting[problem.id]:
                shared.forget(problem.prompt)

    await _all([work() for _ in range(min(concurrency, len(todo)))])
    return shared.shared_tokens if shared else 0


async def _all(works: list[Coroutine[None, None, None]]) -> None:
    """Wait for all; the first error, or being cancelled, ends all and is raised when they have ended."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(sweep: Sweep, problem: Problem, cell: Cell, model: Model, scorer: Scorer | None) -> Row:
    """One run and its check, or the row of its failure."""
    witness = _Witness(model)
    seed, budget = derive(sweep.seed, problem.id), Budget(generations=cell.budget)
    row = partial(
        Row,
        problem=problem.id,
        level=problem.level,
        method=cell.label,
        budget=cell.budget,
        seed=sweep.seed,
    )
    try:
        result = await cell.method.run(problem.prompt, witness, scorer, budget, seed)
    except (OptionError, RecordingError):
        raise  # what was asked for is impossible, and would be for every problem
    except ItscaleError as error:
        return row(
            correct=False,
            any_correct=False,
            answer=None,
            stop_reason=None,
            error=f"{type(error).__name__}: {error}",
            usage=witness.usage(),
        )
    texts = {candidate.path.text for candidate in result.candidates}
    return row(
        correct=sweep.task.check(problem, result.text),
        any_correct=any(sweep.task.check(problem, text) for text in texts),
        answer=result.answer,
        stop_reason=result.stop_reason.value,
        error=None,
        usage=result.usage,
    )


class _Witness(Model):
    """The model of one run; knows the run's account even if the run raises."""

    def __init__(self, model: Model) -> None:
        self.name = model.name
        self.capabilities = model.capabilities
        self.price = model.price
        self._model = model
        self._ledger: Ledger | None = None

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        self._ledger = ledger
        return await self._model.extend(path, n, until, sampling, rng, ledger)

    def usage(self) -> Usage:
        """What a run without a result has spent; all of it discarded."""
        return self._ledger.usage(kept_tokens=0) if self._ledger else Usage()
