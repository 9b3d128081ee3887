"""A sweep: every method at every budget on every problem, one model and scorer, all at once.

Sweeps that share model and scorer (other tasks, levels, seeds) run as one, `run_sweeps`.

Law: a row depends on its problem, method, budget and the sweep's seed alone, never on order,
concurrency or what else is in the sweep. A problem's seed is derived from its id and serves every
method and budget, so that sampling methods see the same samples (and share them, `sharing.py`).

Runs start problem after problem with a fixed number in flight and no barrier in between: the model
always has work, and the samples of only a few problems are held at a time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from itscale.bench.rows import CellKey, Context, Row, RowKey
from itscale.bench.sharing import SharedSamples, share_scores
from itscale.budget import Budget, Ledger, Usage
from itscale.errors import ItscaleError, OptionError, RecordingError, whole_number
from itscale.methods.arrivals import together
from itscale.methods.base import Method, Result
from itscale.models.base import Came, Model, WrappedModel
from itscale.randomness import Randomness, derive, stream_of
from itscale.registry import method_label
from itscale.scorers.base import Scorer
from itscale.tasks.base import Task
from itscale.types import Path, Problem, Sampling, Until

__all__ = ["DEFAULT_CONCURRENCY", "Cell", "OnRow", "Sweep", "run_sweep", "run_sweeps"]

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

    task: Task
    methods: tuple[Method, ...]
    budgets: tuple[int, ...]
    count: int
    level: int | None
    seed: int = 0
    """Of every draw, and of the choice of problems unless `problem_seed` is given."""
    problem_seed: int | None = None
    """Chooses the problems, so that sweeps of several seeds draw anew on the same ones."""
    model: str = ""
    """What rows call the model."""
    scorer: str = ""

    def __post_init__(self) -> None:
        if not self.methods or not self.budgets:
            raise OptionError("a sweep needs at least one method and one budget")
        object.__setattr__(
            self, "budgets", tuple(whole_number("budget", n, "from 1 up") for n in self.budgets)
        )
        object.__setattr__(self, "seed", stream_of(self.seed).seed)
        if min(self.budgets) < 1:
            raise OptionError(f"budget {min(self.budgets)} runs nothing; give whole numbers from 1 up")
        if self.count < 1:
            raise OptionError(f"{self.count} problems measure nothing; give at least 1")
        self.problems  # noqa: B018  an unknown level fails here, before a model is loaded

    @cached_property
    def problems(self) -> list[Problem]:
        """The held-out problems, the same for every sweep of this task, level, seed and count."""
        seed = self.seed if self.problem_seed is None else self.problem_seed
        return self.task.problems(self.count, level=self.level, seed=seed)

    @property
    def context(self) -> Context:
        """What this sweep's cells share."""
        return Context(self.task.name, self.level, self.model, self.scorer)

    @cached_property
    def cells(self) -> list[Cell]:
        """Methods in their order, budgets within; N = 1 alone for a method that N does not change."""
        return [
            Cell(method, method_label(method), budget)
            for method in dict.fromkeys(self.methods)
            for budget in (sorted(set(self.budgets)) if method.scales else (1,))
        ]

    @property
    def cell_keys(self) -> list[CellKey]:
        """The cells as their rows name them."""
        return [CellKey(*self.context, cell.label, cell.budget) for cell in self.cells]

    @cached_property
    def keys(self) -> list[RowKey]:
        """The key of every row, problem after problem."""
        return [self.key(problem, cell) for problem in self.problems for cell in self.cells]

    def key(self, problem: Problem, cell: Cell) -> RowKey:
        """The key of one row."""
        return RowKey(self.task.name, problem.id, self.model, self.scorer, cell.label, cell.budget, self.seed)


OnRow = Callable[[Row, Mapping[str, Any] | None], None]
"""Told of every row as it is finished, with the run's trace as plain values; None where it failed."""


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
    """Run one sweep without traces, as `run_sweeps` does."""
    return await run_sweeps(
        [sweep], model, scorer, on_row=lambda row, _: on_row(row), done=done, concurrency=concurrency,
        share=share, traces=False,
    )  # fmt: skip


async def run_sweeps(
    sweeps: Sequence[Sweep],
    model: Model,
    scorer: Scorer | None,
    *,
    on_row: OnRow,
    done: Collection[RowKey] = (),
    only: Collection[str] | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    share: bool = True,
    traces: bool = True,
) -> int:
    """Run what is not `done` of all sweeps, telling `on_row` of each row as it is finished.

    A run that raises an itscale error becomes a row that is wrong; an impossible combination of
    method, model and scorer ends the sweep, before any token.

    Args:
        sweeps: they share model and scorer; run one after the other without a pause between.
        model: asked for every sample.
        scorer: judges; None where no method needs one.
        on_row: keeps the row.
        done: keys of rows that exist.
        only: ids of the problems to run; all by default.
        concurrency: runs in flight.
        share: make equal samples and judgements once. Changes no row but its seconds.
        traces: give `on_row` the traces.

    Returns:
        Generated tokens that were charged to rows without being generated again.

    Raises:
        OptionError: a method needs what the model or scorer does not offer.
        RecordingError: a recording failed, or lacks a call while nothing may be asked live.
    """
    if concurrency < 1:
        raise OptionError(f"concurrency {concurrency} runs nothing; give at least 1")
    for method in dict.fromkeys(method for sweep in sweeps for method in sweep.methods):
        method.check(model, scorer)
    shared = SharedSamples(model) if share else None
    judge = share_scores(scorer) if share and scorer is not None else scorer
    finished = set(done)
    todo = [
        (sweep, problem, cell) for sweep, problem, cell, key in _runs(sweeps, only) if key not in finished
    ]
    waiting = Counter(problem.prompt for _, problem, _ in todo)
    queue = iter(todo)

    async def work() -> None:
        for sweep, problem, cell in queue:
            # A sample that another method made is there at once: it would win every race.
            source = model if shared is None or cell.method.races else shared
            on_row(*await _run(sweep, problem, cell, source, judge, traces))
            waiting[problem.prompt] -= 1
            if shared is not None and not waiting[problem.prompt]:
                shared.forget(problem.prompt)

    await together(work() for _ in range(min(concurrency, len(todo))))
    return shared.shared_tokens if shared else 0


def _runs(
    sweeps: Sequence[Sweep], only: Collection[str] | None
) -> Iterator[tuple[Sweep, Problem, Cell, RowKey]]:
    """Problem after problem, the sweeps side by side: seeds of one problem share what they can."""
    for i in range(max(len(sweep.problems) for sweep in sweeps)):
        for sweep in sweeps:
            for problem in sweep.problems[i : i + 1]:
                if only is not None and problem.id not in only:
                    continue
                yield from ((sweep, problem, cell, sweep.key(problem, cell)) for cell in sweep.cells)


async def _run(
    sweep: Sweep, problem: Problem, cell: Cell, model: Model, scorer: Scorer | None, traced: bool
) -> tuple[Row, dict[str, Any] | None]:
    """One run and its check, or the row of its failure."""
    witness = _Witness(model)
    seed, budget = derive(sweep.seed, problem.id), Budget(generations=cell.budget)
    row = partial(
        Row,
        task=sweep.task.name,
        model=sweep.model,
        scorer=sweep.scorer,
        problem=problem.id,
        level=problem.level,
        all_levels=sweep.level is None,
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
        ), None
    right = await _checked(sweep.task, problem, result)
    verdicts = [right[candidate.path.text] for candidate in result.candidates]
    return row(
        correct=right[result.text] and not result.abstained,
        any_correct=any(verdicts),
        candidates=len(verdicts),
        correct_candidates=sum(verdicts),
        distinct_answers=len({c.answer for c in result.candidates if c.answer is not None}),
        answer=result.answer,
        stop_reason=result.stop_reason.value,
        error=None,
        ess=result.ess,
        log_evidence=result.log_evidence,
        usage=result.usage,
    ), _trace(result, verdicts) if traced else None


async def _checked(task: Task, problem: Problem, result: Result) -> dict[str, bool]:
    """Whether each text of a result is right; texts are checked once."""
    texts = {candidate.path.text for candidate in result.candidates} | {result.text}
    if task.checks_are_slow:
        return {text: await asyncio.to_thread(task.check, problem, text) for text in texts}
    return {text: task.check(problem, text) for text in texts}


def _trace(result: Result, verdicts: Sequence[bool]) -> dict[str, Any]:
    """What the report shows of a run: its events, and of each candidate what the trace does not say."""
    return {
        "chosen": result.chosen,
        "candidates": [
            {"path": path, "answer": c.answer, "score": c.score, "weight": c.weight, "correct": correct}
            for path, c, correct in zip(result.path_ids, result.candidates, verdicts, strict=True)
        ],
        "events": result.trace.to_json(),
    }


class _Witness(WrappedModel):
    """The model of one run; knows the run's account even if the run raises."""

    has_extend_each = True

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._ledger: Ledger | None = None

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        self._ledger = ledger
        return await self._model.extend(path, n, until, sampling, rng, ledger)

    async def extend_each(
        self,
        path: Path,
        n: int,
        until: Until,
        sampling: Sampling,
        rng: Randomness,
        ledger: Ledger,
        came: Came,
    ) -> list[Path]:
        self._ledger = ledger
        return await self._model.extend_each(path, n, until, sampling, rng, ledger, came)

    async def logprobs_of(
        self, path: Path, token_ids: Sequence[int], sampling: Sampling, ledger: Ledger
    ) -> tuple[float, ...]:
        self._ledger = ledger
        return await self._model.logprobs_of(path, token_ids, sampling, ledger)

    def usage(self) -> Usage:
        """What a run without a result has spent; all of it discarded."""
        return self._ledger.usage(kept_tokens=0) if self._ledger else Usage()
