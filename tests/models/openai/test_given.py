"""Log-probabilities of given tokens and text of a method's own, over the wire."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import ModelError, OptionError
from itscale.models.base import Capability
from itscale.models.openai.model import OpenAIModel
from itscale.randomness import Seeded
from itscale.types import End, Path, Prompt, Sampling, Until
from tests.models.openai.canned import fault
from tests.models.openai.servers import ANSWERS, Server, connected

ROOT = Path.root(Prompt.user("a b c"))
IDS = {token: i for i, token in enumerate(ANSWERS.vocabulary)}


async def told(model: OpenAIModel, path: Path, tokens: list[str], ledger: Ledger) -> tuple[float, ...]:
    return await model.logprobs_of(path, [IDS[token] for token in tokens], Sampling(), ledger)


async def step(model: OpenAIModel, path: Path, seed: int = 0) -> Path:
    ledger = Ledger(Budget())
    [child] = await model.extend(path, 1, Until("step", 20), Sampling(), Seeded(seed), ledger)
    return child


@pytest.mark.parametrize("way", ["echo", "prompt_logprobs"])
def test_given_tokens_have_the_log_probabilities_of_the_model(way: str):
    """After the prompt, and after a path; charged as the server counts, and nothing for no tokens."""

    async def run() -> None:
        server = Server(given=way)
        model, ledger = await connected(server), Ledger(Budget())
        assert model.facts.given == way
        assert Capability.GIVEN in model.capabilities
        first = await told(model, ROOT, ["one ", "or ", "more|"], ledger)
        assert first == pytest.approx((math.log(0.7), math.log(0.4), 0.0))
        path = model.forced(ROOT, "two and|")
        assert await told(model, path, ["yes", "$"], ledger) == pytest.approx((math.log(0.55), 0.0))
        assert await told(model, ROOT, [], ledger) == ()
        assert ledger.generated_tokens == server.generated == (0 if way == "echo" else 2)
        assert (ledger.model_calls, ledger.prompt_tokens) == (2, 6 + 7)

    asyncio.run(run())


@pytest.mark.parametrize("server", [{"given": None}, {"given": "wrong"}, {"tokens": False}])
def test_what_is_not_told_is_not_offered(server: dict[str, Any]):
    """A server that knows neither way, tells other numbers, or has no token ids: refused in a sentence."""

    async def run() -> None:
        model = await connected(Server(**server))
        assert Capability.GIVEN not in model.capabilities
        with pytest.raises(OptionError, match="does not tell the log-probability of a given continuation"):
            await told(model, ROOT, ["one "], Ledger(Budget()))

    asyncio.run(run())


def test_other_temperatures_are_refused():
    """A server's numbers are those of temperature 1; at another they would be wrong."""

    async def run() -> None:
        model = await connected(Server())
        for sampling in (Sampling(temperature=0.5), Sampling(top_p=0.9)):
            with pytest.raises(OptionError, match="tells log-probabilities at temperature 1"):
                await model.logprobs_of(ROOT, [1], sampling, Ledger(Budget()))
        greedy = await model.logprobs_of(ROOT, [IDS["one "]], Sampling(temperature=0.0), Ledger(Budget()))
        assert greedy == pytest.approx((math.log(0.7),))

    asyncio.run(run())


@pytest.mark.parametrize(
    "body", [b"{}", b'{"choices": []}', b'{"choices": [{"logprobs": {"token_logprobs": [null, 0.5]}}]}']
)
def test_an_answer_without_the_numbers_is_one_sentence(body: bytes):
    """Missing, too few, or no log-probabilities at all: nothing is guessed."""

    async def run() -> None:
        server = Server()
        model, ledger = await connected(server), Ledger(Budget())
        server.faults = [fault(200, body)]
        with pytest.raises(ModelError, match="does not tell the log-probability of each given token"):
            await told(model, ROOT, ["one "], ledger)
        assert (ledger.model_calls, ledger.prompt_tokens) == (1, 4)

    asyncio.run(run())


@pytest.mark.parametrize("dialect", [{}, {"tokens": False}, {"tokens": False, "prefill": "prefix"}])
def test_forced_text_is_continued_as_if_the_model_had_said_it(dialect: dict[str, Any]):
    """The server reads it in its place, what follows obeys its law, and only what is drawn is paid for."""

    async def run() -> None:
        server = Server(**dialect)
        model = await connected(server)
        assert Capability.FORCING in model.capabilities
        path = model.forced(ROOT, "two or more|")
        assert (path.step.forced, path.step.end, path.n_tokens) == (True, End.BOUNDARY, 0)
        with pytest.raises(OptionError, match="in text, not in token ids"):
            model.forced(ROOT, [1, 2])
        ends = {(await step(model, path, seed)).text for seed in range(12)}
        assert ends == {"two or more|yes", "two or more|no|"}
        after = await step(model, model.forced(await step(model, ROOT), "yes"))
        assert after.text.endswith("yes")
        assert after.finished
        if not dialect:
            ids = [IDS[token] for token in ("two ", "or ", "more|")]
            assert server.asked("/v1/completions")[0]["prompt"][-3:] == ids
            assert len([b for b in server.asked("/tokenize") if b.get("prompt") == "two or more|"]) == 1

    asyncio.run(run())


def test_where_nothing_is_continued_no_text_is_forced():
    """The capability is absent and the refusal says what to use."""
    model = asyncio.run(connected(Server(tokens=False, prefill=None)))
    assert Capability.FORCING not in model.capabilities
    with pytest.raises(OptionError, match="cannot continue text that it did not write"):
        model.forced(ROOT, "x")


def test_tokens_carry_their_log_probabilities():
    """One for each token, adding up to the step's; at temperatures a server does not tell of, none."""

    async def run() -> None:
        for dialect in ({}, {"tokens": False}):
            model = await connected(Server(**dialect))
            path = await step(model, ROOT)
            assert len(path.step.token_logprobs) == path.step.n_tokens
            assert math.fsum(path.step.token_logprobs) == path.step.logprob
            warm = Sampling(temperature=0.7)
            [path] = await model.extend(ROOT, 1, Until("end", 20), warm, Seeded(0), Ledger(Budget()))
            assert path.step.token_logprobs is None

    asyncio.run(run())
