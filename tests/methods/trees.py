"""Trees small enough to enumerate, their judgements, and their law by brute force."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator

from itscale.budget import Budget
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import all_paths, enumerate_law
from itscale.types import Prompt

PROMPT = Prompt.user("count")
END = {"$": 1.0}
# Paths finish after one step (x), two (a|x, a|y, b|y) and three (b|a|x, b|a|y).
TREE = {
    (): {"a|": 0.5, "b|": 0.3, "x": 0.2},
    ("x",): END,
    ("a|",): {"x": 0.7, "y": 0.3},
    ("a|", "x"): END,
    ("a|", "y"): END,
    ("b|",): {"a|": 0.4, "y": 0.6},
    ("b|", "y"): END,
    ("b|", "a|"): {"x": 0.5, "y": 0.5},
    ("b|", "a|", "x"): END,
    ("b|", "a|", "y"): END,
}
SMALL = {
    (): {"a|": 0.6, "x": 0.4},
    ("x",): END,
    ("a|",): {"x": 0.3, "y": 0.7},
    ("a|", "x"): END,
    ("a|", "y"): END,
}
JUDGEMENTS = {
    ("a|",): 0.15,
    ("b|",): 0.9,
    ("x",): 0.6,
    ("a|", "x"): 0.8,
    ("a|", "y"): 0.05,
    ("b|", "a|"): 0.3,
    ("b|", "y"): 0.2,
    ("b|", "a|", "x"): 0.95,
    ("b|", "a|", "y"): 0.1,
}
POTENTIALS = {
    "final": lambda scores: scores[-1],
    "max": lambda scores: scores[-1],
    "sum": lambda scores: scores[-1],
    "product": math.prod,
    "odds": lambda scores: math.prod(r / (1 - r) for r in scores),
}

Prefix = tuple[str, ...]


def exact(table: dict, target: str) -> dict[tuple[int, ...], float]:
    """p(x) times the potentials by token ids, by brute force over the table."""
    law = {}
    for path, p in all_paths(FakeModel(table), PROMPT):
        texts = tuple(step.text for step in path.steps)
        scores = [JUDGEMENTS[texts[: i + 1]] for i in range(len(texts))]
        law[path.token_ids] = p * POTENTIALS[target](scores)
    return law


def finished(prefix: Prefix) -> bool:
    """Whether a path of these steps is at its end: only the last step has no boundary."""
    return bool(prefix) and not prefix[-1].endswith("|")


def draws(table: dict, prefix: Prefix, n: int) -> Iterator[tuple[list[Prefix], float]]:
    """All ordered ways to draw n children of a prefix, with their probability; itself if finished."""
    if finished(prefix):
        yield [prefix], 1.0
        return
    for tokens in itertools.product(table[prefix], repeat=n):
        yield [(*prefix, token) for token in tokens], math.prod(table[prefix][token] for token in tokens)


def joint(ways: list[list[tuple[list[Prefix], float]]]) -> Iterator[tuple[list[list[Prefix]], float]]:
    """Independent draws together."""
    for drawn in itertools.product(*ways):
        yield [children for children, _ in drawn], math.prod(p for _, p in drawn)


def best_finished(prefixes: list[Prefix]) -> str:
    """The text of the finished prefix judged best, the earliest among equals; of any if none is."""
    return "".join(max(list(filter(finished, prefixes)) or prefixes, key=JUDGEMENTS.__getitem__))


def path_law(table: dict) -> dict[str, float]:
    """The model's law of texts."""
    return {path.text: p for path, p in all_paths(FakeModel(table), PROMPT)}


async def result_of(method, table, n, rng, judge=JUDGEMENTS.__getitem__):
    """A run of a method that is guided by judgements, to its end."""
    scorer = FakeProcessScorer(judge)
    return await method.run(PROMPT, FakeModel(table), scorer, Budget(generations=n), rng)


def law_of(method, table: dict, n: int) -> dict[str, float]:
    """The exact law of the text it returns."""

    async def answer(rng) -> str:
        return (await result_of(method, table, n, rng)).text

    return enumerate_law(answer)


def run(method, table=TREE, n=4, seed=0, judge=JUDGEMENTS.__getitem__):
    """One such run, from a test."""
    return asyncio.run(result_of(method, table, n, seed, judge))


def run_alone(method, table=TREE, n=4, seed=0, **budget):
    """A run of a method without a scorer to its end, and the model it ran on."""
    model = table if isinstance(table, FakeModel) else FakeModel(table)
    return asyncio.run(method.run(PROMPT, model, None, Budget(generations=n, **budget), seed)), model


def words(prefix):
    """Ten words of two kinds, then an answer: long enough to share, no two samples alike."""
    if prefix and "answer" in prefix[-1]:
        return END
    return {"1 ": 0.5, "2 ": 0.5} if len(prefix) < 10 else {"\nanswer: 1": 0.7, "\nanswer: 2": 0.3}


def wordy(**options) -> FakeModel:
    """A model whose steps are long, so that forks are inside them."""
    return FakeModel(words, **options, vocabulary=["1 ", "2 ", "\nanswer: 1", "\nanswer: 2", "$"])
