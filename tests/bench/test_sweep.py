from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from itscale.bench.rows import Row
from itscale.bench.statistics import summarise
from itscale.bench.sweep import Sweep, run_sweep
from itscale.budget import Ledger
from itscale.errors import OptionError, TaskError
from itscale.models.fake import FakeModel
from itscale.randomness import Randomness
from itscale.registry import parse_method
from itscale.types import Path, Problem, Sampling, Until
from tests.bench.worlds import SAMPLERS, Coins, CoinScorer, coin_model, coin_sweep, rows_of, timeless


def test_every_problem_and_cell_gives_one_row():
    """No row is missing, doubled or of another sweep."""
    sweep = coin_sweep()
    rows = asyncio.run(rows_of(sweep, coin_model()))
    assert [row.key for row in rows] == sweep.keys
    assert len(rows) == 6 * len(sweep.cells)


def test_a_method_that_n_does_not_change_has_one_cell():
    """Greedy and a single sample stand at N = 1 alone; the rest at every budget, smallest first."""
    cells = coin_sweep(["greedy", "majority"], budgets=[16, 4, 4]).cells
    assert [(cell.label, cell.budget) for cell in cells] == [
        ("greedy", 1),
        ("majority", 4),
        ("majority", 16),
    ]


@pytest.mark.parametrize(
    "options", [{"share": False}, {"concurrency": 1}, {"concurrency": 3, "share": False}]
)
def test_rows_depend_on_nothing_but_problem_method_budget_and_seed(options: dict[str, int]):
    """Sharing and concurrency change no answer and no charge, to the token."""
    alike = [timeless(row) for row in asyncio.run(rows_of(coin_sweep(), coin_model(latency_s=0.0001)))]
    other = [timeless(row) for row in asyncio.run(rows_of(coin_sweep(), coin_model(), **options))]
    assert alike == other


def test_an_answer_that_was_withheld_is_not_right():
    """A method that abstains on a split vote is not credited with the text it did not stand by."""
    sweep = coin_sweep(["majority", "majority:abstain_below=0.7"], budgets=[6])
    rows = asyncio.run(rows_of(sweep, coin_model()))
    credited = [row for row in rows if row.correct and "abstain" not in row.method]
    kept = [row for row in rows if row.correct and "abstain" in row.method]
    assert 0 < len(kept) < len(credited)
    assert all(row.answer is not None for row in kept)


def test_another_seed_is_another_sweep():
    """The seed reaches problems and draws."""
    first, second = (asyncio.run(rows_of(coin_sweep(seed=seed), coin_model())) for seed in (0, 1))
    assert {row.problem for row in first}.isdisjoint(row.problem for row in second)
    assert [row.correct for row in first] != [row.correct for row in second]


def test_charged_less_shared_is_what_the_model_made():
    """Every token is accounted for on both sides of the seam."""

    async def scenario() -> None:
        model, rows = coin_model(), list[Row]()
        shared = await run_sweep(coin_sweep(), model, CoinScorer(), on_row=rows.append)
        charged = sum(row.usage.generated_tokens for row in rows)
        assert shared > 0
        assert charged - shared == model.tokens_generated

    asyncio.run(scenario())


def test_sampling_methods_cost_the_model_what_the_largest_alone_costs():
    """Three samplers at N = 1, 4 and 16 need 16 samples a problem, judged once."""

    async def scenario() -> None:
        model, scorer = coin_model(), CoinScorer()
        sweep = coin_sweep(SAMPLERS, budgets=[1, 4, 16], count=5)
        await run_sweep(sweep, model, scorer, on_row=lambda row: None)
        assert (model.calls, scorer.calls) == (5 * 16, 5 * 16)

    asyncio.run(scenario())


def test_any_correct_is_the_ceiling_of_choosing():
    """Where a sampler is right some candidate is, and all samplers of one N agree on it."""
    sweep = coin_sweep(SAMPLERS, budgets=[4], count=12)
    rows = asyncio.run(rows_of(sweep, coin_model()))
    assert all(row.any_correct for row in rows if row.correct)
    assert any(row.any_correct and not row.correct for row in rows)
    by_problem = {row.problem: set[bool]() for row in rows}
    for row in rows:
        by_problem[row.problem].add(row.any_correct)
    assert all(len(found) == 1 for found in by_problem.values())


def test_a_failed_run_is_a_wrong_row_that_was_paid_for():
    """Every call fails: all problems stay in the denominator with error, tokens and no stop reason."""
    sweep = coin_sweep(["majority"], budgets=[2])
    rows = asyncio.run(rows_of(sweep, coin_model(fail=lambda call: True)))
    [cell] = summarise(rows, sweep.cell_keys)
    assert (cell.problems, cell.failures, cell.accuracy) == (6, 6, 0.0)
    assert all(row.error and row.error.startswith("AllFailedError: ") for row in rows)
    assert {(row.usage.generated_tokens, row.usage.discarded_tokens) for row in rows} == {(2, 2)}
    assert {row.stop_reason for row in rows} == {None}


def test_a_failed_call_costs_one_candidate_only():
    """With three of four samples left the run has a result."""
    sweep = coin_sweep(["majority"], budgets=[4], count=1)
    [row] = asyncio.run(rows_of(sweep, coin_model(fail=lambda call: call == 2)))
    assert row.error is None
    assert row.usage.failed_calls == 1


def test_done_rows_are_not_run_again():
    """A resumed sweep runs what is missing and nothing else."""
    sweep = coin_sweep()
    rows = asyncio.run(rows_of(sweep, coin_model()))
    again = asyncio.run(rows_of(sweep, coin_model(), done=sweep.keys[10:]))
    assert [timeless(row) for row in again] == [timeless(row) for row in rows[:10]]
    untouched = coin_model()
    assert asyncio.run(rows_of(sweep, untouched, done=sweep.keys)) == []
    assert untouched.calls == 0


def test_an_impossible_combination_ends_the_sweep_before_any_token():
    """A search without a scorer is refused, even if other methods could run."""
    model = coin_model()
    with pytest.raises(OptionError, match="beam needs a process scorer"):
        asyncio.run(run_sweep(coin_sweep(["majority", "beam"]), model, None, on_row=lambda row: None))
    assert model.calls == 0


def test_a_cancelled_sweep_leaves_no_call_running_and_keeps_its_rows():
    """Ctrl-C arrives as a cancellation: calls end upstream at once."""

    async def scenario() -> None:
        model, rows = coin_model(latency_s=0.002), list[Row]()
        task = asyncio.create_task(
            run_sweep(coin_sweep(count=50), model, CoinScorer(), on_row=rows.append, concurrency=4)
        )
        while len(rows) < 5:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert model.running == 0
        calls, kept = model.calls, len(rows)
        await asyncio.sleep(0.01)
        assert (model.calls, len(rows)) == (calls, kept)
        assert all(row.error is None for row in rows)

    asyncio.run(scenario())


def test_a_bug_is_raised_not_counted():
    """Only errors raised on purpose are results; anything else is ours to fix, and ends all runs at once."""

    class Broken(Coins):
        checked = 0

        def check(self, problem: Problem, text: str) -> bool:
            Broken.checked += 1
            return 1 // (Broken.checked - 1) > 0  # the first check divides by zero

    async def scenario() -> None:
        model, rows = coin_model(latency_s=0.002), list[Row]()
        sweep = Sweep(Broken(), (parse_method("greedy"),), (1,), 40, level=1)
        with pytest.raises(ZeroDivisionError):
            await run_sweep(sweep, model, None, on_row=rows.append, concurrency=8)
        assert model.running == 0
        assert model.calls < 40

    asyncio.run(scenario())


class Remembering(FakeModel):
    """Knows which of the paths it made still live, by prompt."""

    def __init__(self, *world: Any, **options: Any) -> None:
        super().__init__(*world, **options)
        self.made: list[weakref.ref[Path]] = []

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        paths = await super().extend(path, n, until, sampling, rng, ledger)
        self.made += [weakref.ref(p) for p in paths]
        return paths

    def questions(self) -> set[str]:
        """Questions of all paths alive."""
        gc.collect()
        return {path.prompt.question for ref in self.made if (path := ref())}


def test_samples_of_finished_problems_are_not_kept():
    """One run at a time: when a problem's last row is there, only that problem's samples may live."""
    model, sweep = coin_model(Remembering), coin_sweep(SAMPLERS, budgets=[1, 4], count=4)
    assert isinstance(model, Remembering)
    alive: list[tuple[str, Sequence[str]]] = []
    question = {problem.id: problem.prompt.question for problem in sweep.problems}

    def look(row: Row) -> None:
        alive.append((question[row.problem], sorted(model.questions())))

    asyncio.run(run_sweep(sweep, model, CoinScorer(), on_row=look, concurrency=1))
    assert any(found for _, found in alive)
    assert all(found in ([], [own]) for own, found in alive)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"budgets": [0, 4]}, OptionError, "budget 0"),
        ({"budgets": []}, OptionError, "at least one method and one budget"),
        ({"methods": []}, OptionError, "at least one method and one budget"),
        ({"count": 0}, OptionError, "0 problems"),
    ],
)
def test_a_sweep_of_nothing_is_refused(options: dict[str, list[int]], error: type[Exception], says: str):
    """Each way of asking for nothing has its sentence."""
    with pytest.raises(error, match=says):
        coin_sweep(**options)  # type: ignore[arg-type]


def test_an_unknown_level_is_refused_at_once():
    """Before a model is loaded, not when the sweep begins."""
    with pytest.raises(TaskError, match="no level 7"):
        Sweep(Coins(), (parse_method("greedy"),), (1,), 2, level=7)


def test_no_concurrency_is_refused():
    """A sweep with nothing in flight would never end."""
    with pytest.raises(OptionError, match="concurrency 0"):
        asyncio.run(rows_of(coin_sweep(), coin_model(), concurrency=0))
