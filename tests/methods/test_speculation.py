"""Steps begun while the last ones are judged: the same results, less waiting, an exact account."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from itscale.budget import Budget, Ledger
from itscale.events import Proposed, Pruned
from itscale.methods import (
    MCTS,
    Beam,
    DiffusionTreeSampling,
    DiffusionTreeSearch,
    EntropicParticleFilter,
    ParticleFilter,
)
from itscale.methods.base import StepMethod
from itscale.methods.lineage import Lineage
from itscale.models.fake import FakeModel
from itscale.registry import METHODS
from itscale.scorers.base import ProcessScorer
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import enumerate_expectation
from itscale.types import Path, StopReason
from tests.methods.trees import JUDGEMENTS, PROMPT, TREE, exact

STEP_METHODS = [method() for method in METHODS.values() if issubclass(method, StepMethod)]
STEP_METHODS += [
    EntropicParticleFilter(look_ahead=1.0),
    Beam(width=2, scope="parent"),
    ParticleFilter(ess_threshold=1),
    MCTS(value="rollouts"),
    DiffusionTreeSampling(widen=1, alpha=0.5),
    DiffusionTreeSearch(widen=1, alpha=0.5),
]


def run(method, model=None, n=8, seed=0, scorer=None, **budget):
    """A run to its end, and its model."""
    model = model or FakeModel(TREE)
    scorer = scorer or FakeProcessScorer(JUDGEMENTS.__getitem__)
    return asyncio.run(method.run(PROMPT, model, scorer, Budget(generations=n, **budget), seed)), model


def told(result) -> list:
    """Everything a result says but what it cost."""
    paths = [(c.path.text, c.weight, c.score, tuple(c.step_scores)) for c in result.candidates]
    return [result.text, result.answer, result.stop_reason, result.log_evidence, result.ess, paths]


@pytest.mark.parametrize("method", STEP_METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("seed", range(3))
def test_same_seed_same_result_with_and_without(method, seed):
    """Every step method, whatever it drops on the way; what is paid more is all discarded."""
    plain, plain_model = run(method, seed=seed)
    ahead, model = run(replace(method, speculate=True), seed=seed)
    assert told(ahead) == told(plain)
    assert ahead.usage.generated_tokens == model.tokens_generated >= plain_model.tokens_generated
    wasted = ahead.usage.discarded_tokens - plain.usage.discarded_tokens
    assert wasted == model.tokens_generated - plain_model.tokens_generated
    assert ahead.usage.scorer_calls == plain.usage.scorer_calls


@pytest.mark.parametrize("method", STEP_METHODS, ids=lambda method: method.name)
def test_the_trace_tells_every_step_that_was_paid_for(method):
    """Steps begun ahead and wanted by nobody are in it, as proposed and pruned, each token once."""
    result, model = run(replace(method, speculate=True))
    proposed = {e.path: e for e in result.trace.events if isinstance(e, Proposed)}
    assert sum(e.tokens for e in proposed.values()) == result.usage.generated_tokens == model.tokens_generated
    pruned = {path for e in result.trace.events if isinstance(e, Pruned) for path in e.paths}
    assert pruned.isdisjoint(result.path_ids) or result.usage.discarded_tokens == 0


def test_another_stream_for_steps_begun_ahead_is_caught(monkeypatch):
    """What makes the results equal is that both ways name the same stream: planted, they differ."""
    honest = Lineage.coming
    monkeypatch.setattr(Lineage, "next", lambda self, path, kind: honest(self, path, kind).child("late"))
    plain = [told(run(ParticleFilter(), seed=seed)[0]) for seed in range(5)]
    ahead = [told(run(ParticleFilter(speculate=True), seed=seed)[0]) for seed in range(5)]
    assert plain != ahead


class Watching(ProcessScorer):
    """Judges slowly, and notes how many calls the model had running before and after."""

    name = "watching"

    def __init__(self, model: FakeModel) -> None:
        self.model = model
        self.started_meanwhile = 0

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        before = self.model.calls
        await asyncio.sleep(0.005)
        self.started_meanwhile += self.model.calls > before
        texts = tuple(step.text for step in path.steps)
        return [JUDGEMENTS[texts[: i + 1]] for i in range(len(texts))]


@pytest.mark.parametrize("speculate", [False, True])
def test_the_model_works_while_the_scorer_judges(speculate):
    """With a slow scorer calls to the model begin during a judgement, and otherwise none does."""
    model = FakeModel(TREE)
    scorer = Watching(model)
    run(ParticleFilter(speculate=speculate), model, scorer=scorer)
    assert (scorer.started_meanwhile > 0) == speculate


class Stuck(ProcessScorer):
    """Gives no judgement until it is let."""

    name = "stuck"

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        await self.open.wait()
        return [JUDGEMENTS[tuple(step.text for step in path.steps)[: i + 1]] for i in range(path.depth)]


def calls_before_the_first_judgement(method) -> int:
    """How many calls the model got while nothing at all had been judged."""

    async def scenario() -> int:
        model, scorer = FakeModel(TREE), Stuck()
        task = asyncio.ensure_future(method.run(PROMPT, model, scorer, Budget(generations=8), 0))
        for _ in range(100):
            await asyncio.sleep(0)
        calls = model.calls
        scorer.open.set()
        await task
        return calls

    return asyncio.run(scenario())


@pytest.mark.parametrize("method", STEP_METHODS, ids=lambda method: method.name)
def test_every_step_method_works_ahead(method):
    """None of them has the option and leaves the model idle while the scorer judges."""
    ahead, plain = (
        calls_before_the_first_judgement(replace(method, speculate=speculate)) for speculate in (True, False)
    )
    assert ahead > plain > 0


def test_what_a_resampling_kills_is_cancelled_and_charged():
    """A slow model is stopped in the middle of a step nobody wants; what it had drawn is discarded."""
    table = {(): {"a|": 0.5, "b|": 0.5}}
    for first in ("a|", "b|"):
        for length in range(5):
            table[(first, *"w" * length)] = {"w": 1.0}
        table[(first, *"w" * 5)] = {"$": 1.0}
    scorer = FakeProcessScorer(lambda texts: 0.99 if texts[0] == "a|" else 0.01)
    model = FakeModel(table, latency_s=0.002)
    method = ParticleFilter(speculate=True, ess_threshold=1.0)
    result, _ = run(method, model, n=8, scorer=scorer)
    assert {c.path.text[:2] for c in result.candidates} == {"a|"}
    assert model.running == 0
    assert result.usage.generated_tokens == model.tokens_generated
    # Eight first steps of one token and eight last ones of six: more was begun, none of it ended.
    assert 8 + 48 < model.tokens_generated < 8 + 48 + 8 * 6


def test_a_cancelled_run_leaves_nothing_running():
    """Steps begun ahead are cancelled with the run they were for."""

    async def scenario() -> int:
        model = FakeModel(TREE, latency_s=0.01)
        scorer = FakeProcessScorer(JUDGEMENTS.__getitem__, latency_s=10.0)
        method = ParticleFilter(speculate=True)
        task = asyncio.ensure_future(method.run(PROMPT, model, scorer, Budget(generations=4), 0))
        while model.calls < 5:  # the first of the steps begun ahead
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return model.running

    assert asyncio.run(scenario()) == 0


def test_a_call_that_fails_ahead_costs_what_it_would_have_cost():
    """One slot of weight zero; the failure of a step that nobody asks for is no error."""
    failing = FakeModel(TREE, fail=lambda call: call >= 8)
    result, _ = run(ParticleFilter(speculate=True, ess_threshold=0), failing, seed=1)
    went_on = [c for c in result.candidates if not c.path.finished]
    assert went_on
    assert all(c.weight == 0 for c in went_on)
    assert result.usage.failed_calls == len(went_on)


@pytest.mark.parametrize("method", [ParticleFilter(speculate=True), Beam(speculate=True, width=2)])
@pytest.mark.parametrize("tokens", range(1, 24))
def test_a_token_limit_is_kept(method, tokens):
    """Whatever it falls on: never overstepped, and the run ends with what it has."""
    result, model = run(method, n=4, tokens=tokens)
    assert model.tokens_generated == result.usage.generated_tokens <= tokens
    assert result.stop_reason in (StopReason.TOKENS, StopReason.DONE)


def test_the_law_is_exact_with_steps_begun_ahead():
    """Two particles, all draws enumerated, those of unwanted steps too."""
    truth = exact(TREE, "final")
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)

    async def estimate(rng) -> np.ndarray:
        method = ParticleFilter(speculate=True, ess_threshold=1.0)
        result = await method.run(PROMPT, FakeModel(TREE), scorer, Budget(generations=2), rng)
        return math.exp(result.log_evidence) * np.array(
            [sum(c.weight for c in result.candidates if c.path.token_ids == ids) for ids in truth]
        )

    assert enumerate_expectation(estimate) == pytest.approx(np.array(list(truth.values())), abs=1e-12)
