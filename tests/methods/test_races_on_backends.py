"""Rules that end a race, on live backends: what still runs is cancelled there and paid for."""

from __future__ import annotations

import asyncio

import pytest

from itscale.budget import Budget
from itscale.methods import Majority, ShortMAtK
from itscale.scorers.answers import AnswerKind
from itscale.tasks.chain import Chain
from itscale.types import Prompt
from tests.models.openai.servers import Server, connected

RULES = [
    ShortMAtK(m=1, temperature=1.7, max_tokens=90),
    Majority(early_stop=True, temperature=1.7, max_tokens=90),
]
ALIKE = AnswerKind("alike", extract=lambda text: "yes")


@pytest.mark.parametrize("method", RULES, ids=lambda method: method.name)
def test_a_server_sees_its_requests_aborted(method):
    """As many tokens are paid for as have arrived, those of aborted answers among them: of each of these at
    most one was still on its way."""
    method = type(method)(**{**vars(method), "answers": ALIKE, "temperature": 1.0})

    async def run():
        server = Server()
        model = await connected(server)
        server.turns, server.generated = 20, 0
        result = await method.run(Prompt.user("a b c"), model, None, Budget(generations=16), 3)
        for _ in range(200):  # nothing goes on behind the back of the run
            await asyncio.sleep(0)
        return server, result

    server, result = asyncio.run(run())
    assert server.aborted >= 1
    assert 0 <= server.generated - result.usage.generated_tokens <= server.aborted
    assert result.usage.discarded_tokens > 0
    assert len(result.candidates) < 16


@pytest.mark.parametrize("method", RULES, ids=lambda method: method.name)
def test_the_engine_lets_go_of_its_rows(method, reasoner):
    """On the embedded model, hot enough that lengths differ: fewer candidates than begun, and no row left."""
    [problem] = Chain().problems(1, seed=2)
    result = asyncio.run(
        type(method)(**{**vars(method), "answers": ALIKE}).run(
            problem.prompt, reasoner, None, Budget(generations=8), 1
        )
    )
    kept = sum(candidate.path.n_tokens for candidate in result.candidates)
    assert len(result.candidates) < 8
    assert result.usage.model_calls == 8
    assert result.usage.generated_tokens > kept
    assert result.usage.discarded_tokens == result.usage.generated_tokens - kept
    assert reasoner.engine._rows.n == 0
    assert reasoner.engine.cache.reserved == 0
