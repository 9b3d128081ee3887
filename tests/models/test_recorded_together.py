"""Samples that come in one request, recorded: kept one by one, and the same however they are asked for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path as FilePath
from typing import Any

import pytest

from itscale.budget import Budget, Ledger
from itscale.methods import BestOfN, Result
from itscale.models.base import Model, WrappedModel
from itscale.models.recorded import RecordedModel
from itscale.randomness import Seeded
from itscale.recording import Recording
from itscale.scorers.fake import FakeOutcomeScorer
from itscale.types import Path, Prompt, Sampling, Until
from tests.models.openai.canned import fault
from tests.models.openai.servers import Server, connected
from tests.models.recorded_runs import timeless

PROMPT = Prompt.user("a b c")


@pytest.fixture
def file(tmp_path: FilePath) -> FilePath:
    return tmp_path / "calls.sqlite"


async def best_of(model: Model, n: int, seed: int = 3, **limits: Any) -> Result:
    method, budget = BestOfN(max_tokens=20), Budget(generations=n, **limits)
    return await method.run(PROMPT, model, FakeOutcomeScorer(len), budget, seed)


def asked(server: Server) -> list[int]:
    return [body.get("n", 1) for where, body, _ in server.requests if where.endswith("completions")]


@pytest.mark.parametrize("tokens", [True, False])
def test_a_recorded_run_is_the_run_and_replays(tokens: bool, file: FilePath):
    """Requests, texts, scores and account are those of a run without a recording; again, they are free."""

    async def run() -> None:
        plain = await best_of(await connected(Server(tokens=tokens)), 20)
        live = Server(tokens=tokens)
        with Recording(file) as recording:
            first = await best_of(RecordedModel(await connected(live), recording), 20)
        assert timeless(first) == timeless(plain)
        assert asked(live) == [16, 4]
        silent = Server(tokens=tokens)
        with Recording(file, offline=True) as recording:
            again = await best_of(RecordedModel(await connected(silent), recording), 20)
        assert timeless(again) == timeless(plain)
        assert again.usage.replayed_tokens == again.usage.generated_tokens == live.generated
        assert again.usage.replayed_calls == again.usage.model_calls == 2
        assert asked(silent) == []

    asyncio.run(run())


def test_more_samples_than_were_recorded_ask_for_the_others_alone(file: FilePath):
    """Those are what they would have been, by whatever calls the first ones came."""

    async def run() -> None:
        expected = await best_of(await connected(Server()), 12)
        with Recording(file) as recording:
            server = Server()
            model = RecordedModel(await connected(server), recording)
            await best_of(model, 1)
            await best_of(model, 4, tokens=10_000)
            assert asked(server) == [1] * 4
            more = await best_of(model, 12)
        assert asked(server) == [1] * 4 + [8]
        assert timeless(more) == timeless(expected)
        assert more.usage.replayed_tokens == sum(c.path.n_tokens for c in more.candidates[:4])
        assert more.usage.replayed_calls == 0

    asyncio.run(run())


class Before(WrappedModel):
    """Asked as runs asked before samples were drawn together where they are recorded."""

    async def as_it_was(self, n: int, seed: int = 3) -> tuple[list[str], dict[str, int]]:
        ledger, rng, call = Ledger(Budget()), Seeded(seed), (Until("end", 20), Sampling())
        paths = [
            path
            for i in range(n)
            for path in await self.extend(Path.root(PROMPT), 1, *call, rng.child("sample", i), ledger)
        ]
        return [path.text for path in paths], dict(ledger.charges())


def test_older_recordings_replay_with_their_own_account(file: FilePath):
    """Every sample was a call, and is charged as one; nothing is asked."""

    async def run() -> None:
        with Recording(file) as recording:
            texts, charges = await Before(RecordedModel(await connected(Server()), recording)).as_it_was(20)
        silent = Server()
        with Recording(file, offline=True) as recording:
            result = await best_of(RecordedModel(await connected(silent), recording), 20)
        assert [c.path.text for c in result.candidates] == texts
        assert charges["model_calls"] == 20
        usage = result.usage.to_json()
        assert {name: usage[name] for name in charges} == charges
        assert asked(silent) == []

    asyncio.run(run())


def test_a_run_that_was_cancelled_goes_on_to_the_same_end(file: FilePath):
    """What was under way is asked for again, with the same seeds; what was whole before is not."""

    async def run() -> None:
        expected = await best_of(await connected(Server()), 12)
        with Recording(file) as recording:
            server = Server(turns=5)
            model = RecordedModel(await connected(server), recording)
            await best_of(model, 4)
            made = server.generated
            task = asyncio.ensure_future(best_of(model, 12))
            while server.generated < made + 10:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert server.running == 0
            server.requests.clear()
            again = await best_of(model, 12)
            assert asked(server) == [8]
        assert json.dumps(timeless(again)) == json.dumps(timeless(expected))

    asyncio.run(run())


def test_those_that_came_are_kept_when_one_fails(file: FilePath):
    """The one that did not is asked for alone the next time, and is what it would have been."""

    async def run() -> None:
        expected = await best_of(await connected(Server()), 4)
        with Recording(file) as recording:
            server = Server()
            model = RecordedModel(await connected(server), recording)
            server.faults = [*[fault(500, "oops")] * 5, fault(200, "no"), fault(401, "no")]
            assert len((await best_of(model, 4)).candidates) < 4
            server.requests.clear()
            server.faults.clear()
            again = await best_of(model, 4)
            assert 0 < len(asked(server)) < 4
        assert [c.path.text for c in again.candidates] == [c.path.text for c in expected.candidates]

    asyncio.run(run())


def test_samples_whole_at_a_deadline_are_candidates_of_a_recorded_run_too(file: FilePath):
    """They are told of as they come, though kept with their call."""

    class Slow(Server):
        slow = False

        async def _send_events(self, send: Any, events: Any) -> None:
            async def slowly(message: dict[str, Any]) -> None:
                await send(message)
                if self.slow and self.generated >= 23:  # the short ones have ended, the long ones have not
                    await asyncio.sleep(5)

            await super()._send_events(slowly, events)

    async def run() -> None:
        server = Slow()
        with Recording(file) as recording:
            model = RecordedModel(await connected(server), recording)
            server.slow = True
            result = await best_of(model, 6, seconds=0.3)
        assert 0 < len(result.candidates) < 6
        assert asked(server) == [6]
        assert result.usage.generated_tokens >= server.generated

    asyncio.run(run())
