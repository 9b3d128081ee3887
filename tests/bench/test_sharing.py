from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from itscale.bench.sharing import SharedSamples, share_scores
from itscale.budget import Budget, Ledger
from itscale.errors import ModelError, ScorerError
from itscale.models.fake import FakeModel
from itscale.randomness import Seeded
from itscale.scorers.base import OutcomeScorer, ProcessScorer
from itscale.types import Path, Prompt, Sampling, Until
from tests.bench.worlds import CoinOutcome, CoinScorer, coin_model

PROMPT = Prompt.user("Call coin 7.")
END = Until("end", 9)


async def ask(
    model: SharedSamples,
    ledger: Ledger | None = None,
    *,
    n: int = 1,
    what: Until = END,
    seed: int = 5,
    sampling: Sampling = Sampling(),
) -> list[Path]:
    """One call, from a root of its own as every run has."""
    ledger = ledger or Ledger(Budget())
    return await model.extend(Path.root(PROMPT), n, what, sampling, Seeded(seed), ledger)


def charges(ledger: Ledger) -> tuple[int, int, int]:
    """What a ledger was charged by models."""
    return ledger.prompt_tokens, ledger.generated_tokens, ledger.model_calls


def test_the_same_call_is_made_once_and_charged_to_all():
    """Both get the same paths and pay the same; the model worked once."""

    async def scenario() -> None:
        inner = coin_model()
        model, ledgers = SharedSamples(inner), [Ledger(Budget()), Ledger(Budget())]
        first, second = [await ask(model, ledger, n=2) for ledger in ledgers]
        assert first == second
        assert inner.calls == 1
        assert charges(ledgers[0]) == charges(ledgers[1]) == (inner.tokens_read, inner.tokens_generated, 1)
        assert model.shared_tokens == inner.tokens_generated

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "other", [{"n": 2}, {"what": Until("end", 8)}, {"seed": 6}, {"sampling": Sampling(temperature=0.5)}]
)
def test_calls_that_differ_in_anything_are_made_apart(other: dict[str, object]):
    """n, token limit, seed and sampling are each part of what was asked."""

    async def scenario() -> None:
        inner = coin_model()
        model = SharedSamples(inner)
        await ask(model)
        await ask(model, **other)  # type: ignore[arg-type]
        assert inner.calls == 2
        assert model.shared_tokens == 0

    asyncio.run(scenario())


def test_stepwise_calls_are_never_shared():
    """A step is the first of a search, whose paths must not be another search's."""

    async def scenario() -> None:
        inner = coin_model()
        model = SharedSamples(inner)
        [first], [second] = [await ask(model, what=Until("step", 9)) for _ in range(2)]
        assert first is not second
        assert inner.calls == 2

    asyncio.run(scenario())


def test_a_call_in_flight_is_joined():
    """Who asks while the call runs waits for it instead of making another."""

    async def scenario() -> None:
        inner = coin_model(latency_s=0.01)
        model = SharedSamples(inner)
        first, second = await asyncio.gather(ask(model), ask(model))
        assert first == second
        assert inner.calls == 1

    asyncio.run(scenario())


class Gated(FakeModel):
    """Answers when its gate is opened; a cancelled call ends when it is let go."""

    def __init__(self, *world: Any, **options: Any) -> None:
        super().__init__(*world, **options)
        self.entered = 0
        self.gate = asyncio.Event()
        self.let_go = asyncio.Event()

    async def extend(self, *call: Any) -> list[Path]:
        self.entered += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            await self.let_go.wait()
            raise
        return await super().extend(*call)


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until something is so."""
    while not condition():
        await asyncio.sleep(0)


def test_cancelling_one_of_two_leaves_the_call_to_the_other():
    """The one who still waits gets the answer and pays for it."""

    async def scenario() -> None:
        inner = coin_model(Gated)
        assert isinstance(inner, Gated)
        model, ledger = SharedSamples(inner), Ledger(Budget())
        gone, stays = asyncio.create_task(ask(model)), asyncio.create_task(ask(model, ledger))
        await until(lambda: inner.entered == 1)
        gone.cancel()
        await until(gone.done)
        inner.gate.set()
        [path] = await stays
        assert path.finished
        assert gone.cancelled()
        assert charges(ledger) == (inner.tokens_read, inner.tokens_generated, 1)
        assert model.shared_tokens == 0  # the one who left was charged nothing, so nothing was for free

    asyncio.run(scenario())


def test_the_call_is_cancelled_with_the_last_who_waits():
    """Nothing runs on upstream, what had been made is charged, and a later run makes it anew."""

    async def scenario() -> None:
        inner = coin_model(latency_s=3600)
        model, ledgers = SharedSamples(inner), [Ledger(Budget()), Ledger(Budget())]
        tasks = [asyncio.create_task(ask(model, ledger)) for ledger in ledgers]
        await until(lambda: inner.tokens_generated == 1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert inner.running == 0
        assert [ledger.generated_tokens for ledger in ledgers] == [0, 1]
        inner.latency_s = 0
        [path] = await ask(model)
        assert path.finished
        assert inner.calls == 2

    asyncio.run(scenario())


def test_who_asks_while_a_call_is_being_cancelled_gets_one_of_its_own():
    """A call that was given up serves nobody, not even before it has ended."""

    async def scenario() -> None:
        inner = coin_model(Gated)
        assert isinstance(inner, Gated)
        model = SharedSamples(inner)
        gone = asyncio.create_task(ask(model))
        await until(lambda: inner.entered == 1)
        gone.cancel()
        await asyncio.sleep(0)
        inner.gate.set()
        [path] = await ask(model)
        assert path.finished
        assert not gone.done()
        inner.let_go.set()
        await asyncio.wait([gone])
        assert inner.entered == 2

    asyncio.run(scenario())


def test_a_failure_reaches_all_who_wait_and_is_then_forgotten():
    """Everyone is charged for the failed call; the next to ask has a chance of its own."""

    async def scenario() -> None:
        inner = coin_model(latency_s=0.01, fail=lambda call: call == 0)
        model, ledgers = SharedSamples(inner), [Ledger(Budget()), Ledger(Budget())]
        results = await asyncio.gather(*(ask(model, ledger) for ledger in ledgers), return_exceptions=True)
        assert [type(result) for result in results] == [ModelError, ModelError]
        assert [ledger.generated_tokens for ledger in ledgers] == [1, 1]
        [path] = await ask(model)
        assert path.finished

    asyncio.run(scenario())


def test_samples_live_until_their_prompt_is_forgotten():
    """Memory is bounded by what the sweep still needs."""

    async def scenario() -> None:
        model = SharedSamples(coin_model())
        [path] = await ask(model)
        await ask(model)
        alive, shared = weakref.ref(path), model.shared_tokens
        del path
        await asyncio.sleep(0)  # until then the event loop holds what it is handing over
        gc.collect()
        assert alive() is not None
        model.forget(PROMPT)
        gc.collect()
        assert alive() is None
        assert model.shared_tokens == shared > 0

    asyncio.run(scenario())


@pytest.mark.parametrize("scorer", [CoinScorer(), CoinOutcome()])
def test_a_path_is_judged_once_and_charged_to_all(scorer: CoinScorer | CoinOutcome):
    """The kind of scorer stays what it was; the second judgement is the first one's."""

    async def scenario() -> None:
        [path] = await ask(SharedSamples(coin_model()))
        shared = share_scores(scorer)
        assert isinstance(shared, ProcessScorer) == isinstance(scorer, ProcessScorer)
        assert isinstance(shared, OutcomeScorer) == isinstance(scorer, OutcomeScorer)
        ledgers = [Ledger(Budget()), Ledger(Budget())]
        first, second = [await shared.score(path, ledger) for ledger in ledgers]
        assert first == second
        assert scorer.calls == 1
        assert ledgers[0].scorer_tokens == ledgers[1].scorer_tokens

    asyncio.run(scenario())


class Refusing(ProcessScorer):
    name = "refusing"

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        raise ScorerError("no; ask another")


@pytest.mark.parametrize("scorer", [CoinScorer(), Refusing()])
def test_judgements_do_not_keep_paths_alive(scorer: ProcessScorer):
    """A path nobody holds any more is freed, judged well or not at all."""

    async def scenario() -> weakref.ref[Path]:
        shared = share_scores(scorer)
        [path] = await FakeModel.extend(
            coin_model(), Path.root(PROMPT), 1, END, Sampling(), Seeded(5), Ledger(Budget())
        )
        alive = weakref.ref(path)
        await asyncio.gather(shared.score(path, Ledger(Budget())), return_exceptions=True)
        del path
        await asyncio.sleep(0)
        gc.collect()
        assert alive() is None
        return alive

    asyncio.run(scenario())
