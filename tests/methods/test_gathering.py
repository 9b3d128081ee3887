"""Copies of a path asked for together, where a model prefers that: fewer calls, the same run."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path as FilePath

import numpy as np
import pytest

from itscale.budget import Budget
from itscale.errors import AllFailedError
from itscale.methods import Result
from itscale.methods.base import StepMethod
from itscale.methods.entropic_particle_filter import EntropicParticleFilter
from itscale.methods.gathering import gather, in_slots
from itscale.methods.particle_filter import ParticleFilter
from itscale.models.base import Model
from itscale.models.fake import FakeModel
from itscale.models.recorded import RecordedModel
from itscale.randomness import Seeded
from itscale.recording import Recording
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import enumerate_expectation
from itscale.types import Path, Prompt
from tests.methods.trees import JUDGEMENTS, PROMPT, TREE, exact
from tests.models.openai.canned import fault
from tests.models.openai.servers import Server, connected

ROOT = Prompt.user("a b c")


class Preferring(FakeModel):
    """It would rather be asked once for several children."""

    prefers_n = True


def run(model: Model, method: StepMethod, n: int, budget: Budget | None = None) -> Result:
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)
    return asyncio.run(method.run(PROMPT, model, scorer, budget or Budget(generations=n), 3))


def told(result: Result) -> list[tuple[str, float | None]]:
    return [(candidate.path.text, candidate.weight) for candidate in result.candidates]


@pytest.mark.parametrize(
    "method", [ParticleFilter(), ParticleFilter(ess_threshold=1.0), EntropicParticleFilter()]
)
def test_gathered_calls_give_the_same_run_in_fewer(method: StepMethod):
    """A model that draws child by child gives the very same candidates, tokens and charges."""
    one_by_one, gathered = (run(kind(TREE), method, 8) for kind in (FakeModel, Preferring))
    assert told(gathered) == told(one_by_one)
    assert gathered.usage.generated_tokens == one_by_one.usage.generated_tokens
    assert gathered.usage.model_calls < one_by_one.usage.model_calls


def test_the_law_of_the_filter_stays_exact():
    """Every draw enumerated, two particles, which begin in one call."""
    truth = exact(TREE, "final")
    index = {ids: i for i, ids in enumerate(truth)}
    model, scorer = Preferring(TREE), FakeProcessScorer(JUDGEMENTS.__getitem__)

    async def estimate(rng) -> np.ndarray:
        result = await ParticleFilter(ess_threshold=0.7).run(
            PROMPT, model, scorer, Budget(generations=2), rng
        )
        measure = np.zeros(len(index))
        for c in result.candidates:
            measure[index[c.path.token_ids]] += c.weight
        return math.exp(result.log_evidence) * measure

    expected = np.array(list(truth.values()))
    assert np.abs(enumerate_expectation(estimate) - expected).max() < 1e-12


def test_gathered_calls_are_recorded_and_replayed(tmp_path: FilePath):
    """A run with a recording repeats from it alone: the same candidates and account, nothing asked again."""
    method, results, calls = ParticleFilter(ess_threshold=1.0), [], []
    for offline in (False, True):
        model = Preferring(TREE)
        with Recording(tmp_path / "calls.db", offline=offline) as recording:
            results.append(run(RecordedModel(model, recording), method, 8))
        calls.append(model.calls)
    live, replayed = results
    assert told(live) == told(replayed) == told(run(FakeModel(TREE), method, 8))
    assert calls[0] == live.usage.model_calls == replayed.usage.model_calls
    assert live.usage.generated_tokens == replayed.usage.generated_tokens == replayed.usage.replayed_tokens
    assert calls[1] == 0


def test_speculating_runs_ask_one_by_one():
    """What was begun ahead was begun alone."""
    speculating = ParticleFilter(speculate=True)
    ahead, behind = run(Preferring(TREE), speculating, 4), run(FakeModel(TREE), speculating, 4)
    assert told(ahead) == told(behind)
    assert ahead.usage.model_calls == behind.usage.model_calls


def test_a_limit_stops_the_copies_that_it_leaves_nothing():
    """With tokens for a part of the copies the run ends with what there is, never over the limit."""
    for tokens in range(1, 12):
        result = run(Preferring(TREE), ParticleFilter(), 4, Budget(generations=4, tokens=tokens))
        assert result.usage.generated_tokens <= tokens
        assert len(result.candidates) >= 1


def test_a_failed_call_costs_the_copies_it_was_for():
    """A backend that does not make them one by one after it: with all in it none is left, and it says so."""
    with pytest.raises(AllFailedError):
        run(Preferring(TREE, fail=lambda call: call == 0), ParticleFilter(), 4)


def test_slots_get_their_own_children_back():
    """In the order they were asked, several for one slot or none; child i has the stream of its own call."""
    a, b = Path.root(Prompt.user("a")), Path.root(Prompt.user("b"))
    streams = [Seeded(0).child(i) for i in range(4)]
    first, second = gather([a, b, a, a], [1, 1, 2, 1], streams, together=True)
    assert (first.path, first.slots, first.count) == (a, (0, 2, 3), 4)
    assert first.shared("wxyz") == [["w"], ["x", "y"], ["z"]]
    assert first.shared("wx") == [["w"], ["x"], []]
    own = [streams[0].child(0), streams[2].child(0), streams[2].child(1), streams[3].child(0)]
    assert [first.stream.child(i).seed for i in range(4)] == [stream.seed for stream in own]
    assert first.stream.child("then", 3).seed == streams[3].child("then", 0).seed
    assert second.stream is streams[1]
    assert in_slots([first, second], [[1, 3, 4], [2]]) == [1, 2, 3, 4]
    assert [call.slots for call in gather([a, a], [1, 1], streams, together=False)] == [(0,), (1,)]


@pytest.mark.parametrize(("n", "begun"), [("honours", 1), ("ignores", 6)])
def test_a_server_that_honours_n_is_asked_once_for_all_that_begin(n: str, begun: int):
    """Six particles begin in one request, or in one each; everything is charged as the server counted it."""

    async def requests() -> list[dict]:
        server = Server(n=n)
        model, scorer = await connected(server), FakeProcessScorer(lambda texts: 0.5)
        result = await ParticleFilter().run(ROOT, model, scorer, Budget(generations=6), 0)
        assert len(result.candidates) == 6
        assert result.usage.generated_tokens == server.generated
        return server.asked("/v1/completions")

    asked = asyncio.run(requests())
    first = [body for body in asked if max(body["prompt"]) == body["prompt"][-1]]
    assert len(first) == begun
    assert sum(body.get("n", 1) for body in first) == 6


def test_a_request_for_all_that_fails_for_good_is_made_for_each():
    """A failure is one candidate's: five refusals end the request for six, and each of the six is made."""

    async def run_it() -> tuple[Server, Result]:
        server = Server()
        model, scorer = await connected(server), FakeProcessScorer(lambda texts: 0.5)
        server.faults = [fault(500, "oops")] * 5
        return server, await ParticleFilter().run(ROOT, model, scorer, Budget(generations=6), 0)

    server, result = asyncio.run(run_it())
    assert len(result.candidates) == 6
    assert result.usage.retries == 4
    assert result.usage.failed_calls == 0
    assert result.usage.generated_tokens == server.generated
    first = [body for body in server.asked("/v1/completions") if max(body["prompt"]) == body["prompt"][-1]]
    assert [body.get("n", 1) for body in first] == [6, 6, 6, 6, 6, 1, 1, 1, 1, 1, 1]
