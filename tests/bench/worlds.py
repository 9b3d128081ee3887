"""A world small enough to know everything about: a task, a model and a scorer for bench and CLI tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from itscale import cli
from itscale.bench import study
from itscale.bench.rows import Row
from itscale.bench.sweep import Sweep, run_sweep
from itscale.budget import Ledger
from itscale.commands import sources
from itscale.models.fake import FakeModel
from itscale.registry import parse_method
from itscale.scorers.base import OutcomeScorer, ProcessScorer
from itscale.tasks.base import Exercise, GeneratedTask
from itscale.types import Path, Problem

RIGHT, WRONG = "Answer: 1", "Answer: 0"
SAMPLERS = ("majority", "best-of-n", "weighted-best-of-n")
EVERY_METHOD = ("greedy", "sample", *SAMPLERS, "beam:width=2", "particle-filter")


class Coins(GeneratedTask):
    """Every problem's answer is 1."""

    name: ClassVar[str] = "coins"
    summary: ClassVar[str] = "call a coin"
    levels: ClassVar[tuple[int, ...]] = (1, 2)
    default_level: ClassVar[int] = 1
    level_meaning: ClassVar[str] = "how hard"

    def draw(self, rng: random.Random, level: int) -> Exercise:
        number = rng.randrange(10**9)
        return Exercise(f"Call coin {number}.", RIGHT, "1", f"coin {number}")

    def check(self, problem: Problem, text: str) -> bool:
        return text.splitlines()[-1:] == [RIGHT]

    def check_steps(self, prompt: str, text: str) -> list[bool]:
        return [line in ("think", RIGHT) for line in text.splitlines()]


def _law(prefix: tuple[str, ...]) -> Mapping[str, float]:
    if not prefix:
        return {"think\n": 0.5, "guess\n": 0.5}
    if len(prefix) == 1:
        p = 0.8 if prefix[0] == "think\n" else 0.2
        return {RIGHT: p, WRONG: 1 - p}
    return {"$": 1.0}


def coin_model(kind: type[FakeModel] = FakeModel, **options: Any) -> FakeModel:
    """Two steps and an end: thinking makes a right answer likely, and is as likely as guessing."""
    return kind(_law, vocabulary=["think\n", "guess\n", RIGHT, WRONG, "$"], boundary="\n", **options)


class CoinScorer(ProcessScorer):
    """Likes thinking, and right answers a little; counts how often it is asked."""

    name = "coin-scorer"

    def __init__(self) -> None:
        self.calls = 0

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        self.calls += 1
        ledger.charge_scorer(tokens=path.n_tokens)
        return [_liking(step.text) for step in path.steps]


class CoinOutcome(OutcomeScorer):
    """One number a path; counts how often it is asked."""

    name = "coin-outcome"

    def __init__(self) -> None:
        self.calls = 0

    async def score(self, path: Path, ledger: Ledger) -> float:
        self.calls += 1
        return _liking(path.steps[-1].text)


def _liking(text: str) -> float:
    return {"think\n": 0.8, "guess\n": 0.3, RIGHT: 0.7}.get(text, 0.4)


def coin_sweep(
    methods: Sequence[str] = EVERY_METHOD, budgets: Sequence[int] = (1, 4), count: int = 6, seed: int = 0
) -> Sweep:
    """A sweep over coins."""
    return Sweep(Coins(), tuple(map(parse_method, methods)), tuple(budgets), count, level=1, seed=seed)


async def rows_of(sweep: Sweep, model: FakeModel, **options: Any) -> list[Row]:
    """All rows of a sweep, in the order of its keys."""
    rows: list[Row] = []
    await run_sweep(sweep, model, CoinScorer(), on_row=rows.append, **options)
    return sorted(rows, key=lambda row: sweep.keys.index(row.key))


def timeless(row: Row) -> dict[str, Any]:
    """A row without what differs from run to run."""
    return row.to_json() | {"seconds": 0.0}


def play_coins(patch: Callable[[Any, str, Any], None], **options: Any) -> None:
    """Make the command line live in this world: `patch` is `setattr`, or one that is undone."""
    patch(study, "load_task", lambda name: Coins())
    for module in (cli, sources):
        patch(module, "load_model", lambda spec: coin_model(**options))
    patch(sources, "load_scorer", lambda spec: None if spec == "none" else CoinScorer())
