"""Rules that end a race, on live backends: what still runs is cancelled there and paid for."""

from __future__ import annotations

import asyncio
import math

import pytest

from itscale.budget import Budget
from itscale.errors import OptionError
from itscale.methods import Majority, PrunedMajority, ShortMAtK
from itscale.methods.probes import Probe, logprob_features
from itscale.methods.success import SuccessPredictor
from itscale.scorers.answers import AnswerKind
from itscale.tasks.chain import Chain
from itscale.types import Prompt
from tests.models.openai.servers import Server, connected

ALIKE = AnswerKind("alike", extract=lambda text: "yes")


def test_a_probe_on_log_probabilities_runs_on_a_server(tmp_path):
    """Probes on `logprobs` ask for nothing more, those on `statistics` for the likeliest tokens; a
    server that tells none refuses, as every server does for hidden states."""
    servers = []

    async def run(features, width, likeliest=20):
        servers.append(Server(likeliest=likeliest))
        model = await connected(servers[-1])
        probe = Probe(features, (0.0,) * width, (1.0,) * width, (1.0,) * width, 0.0)
        file = tmp_path / f"{features}.json"
        SuccessPredictor(model.identity, probe, probe, 1).to_calibration({}).save(file)
        method = PrunedMajority(calibration=str(file), answers=ALIKE, keep=0.5, max_tokens=20)
        return await method.run(Prompt.user("a b c"), model, None, Budget(generations=6), 3)

    result = asyncio.run(run("logprobs", 6))
    assert len(result.candidates) == 3
    for candidate in result.candidates:
        told = logprob_features(candidate.path)
        assert told[0] < 0
        assert candidate.score == pytest.approx(1 / (1 + math.exp(-told.sum())))
    assert {body["logprobs"] for body in servers[-1].asked("/v1/completions")} == {1}
    result = asyncio.run(run("statistics", 10))
    assert {body["logprobs"] for body in servers[-1].asked("/v1/completions")} == {20}
    for candidate in result.candidates:
        told = logprob_features(candidate.path, entropies=True)
        assert candidate.score == pytest.approx(1 / (1 + math.exp(-told.sum())))
    for features, width, need in (("statistics", 10, "token_statistics"), ("hidden", 4, "hidden")):
        with pytest.raises(OptionError, match=f"needs {need}"):
            asyncio.run(run(features, width, None))
        assert servers[-1].requests == []


RULES = [
    ShortMAtK(m=1, temperature=1.7, max_tokens=90),
    Majority(early_stop=True, temperature=1.7, max_tokens=90),
]


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
