"""Whole answers asked for in one call, where a server honours n: fewer calls, and nothing is lost by it."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import pytest

from itscale.bench.sharing import SharedSamples
from itscale.budget import Budget
from itscale.methods import BestOfN, Majority, Result
from itscale.models.base import Model
from itscale.models.fake import FakeModel
from itscale.models.openai.asking import _shares
from itscale.models.recorded import RecordedModel
from itscale.recording import Recording
from itscale.scorers.fake import FakeOutcomeScorer
from itscale.testing import enumerate_law
from itscale.types import Prompt, StopReason
from tests.models.openai.canned import fault
from tests.models.openai.servers import Server, connected

PROMPT = Prompt.user("a b c")
END = {"$": 1.0}
ANSWERS = {"Answer: 1": 0.4, "Answer: 2": 0.35, "nothing": 0.25}
FLAT = {(): ANSWERS, **{(text,): END for text in ANSWERS}}
SCORES = {"Answer: 1": 0.3, "Answer: 2": 0.9, "nothing": 0.7}
BY_SCORE = FakeOutcomeScorer(SCORES.__getitem__)
BY_LENGTH = FakeOutcomeScorer(len)
KINDS: dict[str, dict[str, Any]] = {
    "token": {},
    "chat": {"tokens": False},
    "chat, counted at the end": {"tokens": False, "streams": "closing"},
    "chat, no logprobs": {"tokens": False, "logprobs": False},
    "chat, no logprobs, counted at the end": {"tokens": False, "logprobs": False, "streams": "closing"},
}
UNTOLD = [kind for kind in KINDS if "no logprobs" in kind]
TOLD = [kind for kind in KINDS if "no logprobs" not in kind]


class Together(FakeModel):
    """It would rather be asked once for several whole answers."""

    samples_together = True


@dataclass
class Stalling(Server):
    """Its streams stand still after some events, until they are let go on."""

    stall_after: int | None = None
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def _send_events(self, send: Any, events: Any) -> None:
        sent = itertools.count(1)

        async def stalling(message: dict[str, Any]) -> None:
            await send(message)
            if message["type"] == "http.response.body" and next(sent) == self.stall_after:
                self.generated += 1  # the event just sent, which is counted after this only if it goes on
                await self.go_on.wait()
                self.generated -= 1

        await super()._send_events(stalling, events)


def asked(server: Server) -> list[int]:
    """How many texts each request wanted."""
    return [body.get("n", 1) for where, body, _ in server.requests if where.endswith("completions")]


async def best_of(model: Model, n: int, **limits: Any) -> Result:
    return await BestOfN(max_tokens=20).run(PROMPT, model, BY_LENGTH, Budget(generations=n, **limits), 3)


@pytest.mark.parametrize("n", [2, 3])
def test_the_law_of_best_of_n_stays_exact(n: int):
    """Every draw enumerated: the best of n independent samples, which come in one call."""
    expected: Counter[str] = Counter()
    for drawn in itertools.product(ANSWERS, repeat=n):
        expected[max(drawn, key=SCORES.__getitem__)] += math.prod(ANSWERS[text] for text in drawn)

    async def run(rng: Any) -> str:
        model = Together(FLAT)
        result = await BestOfN().run(PROMPT, model, BY_SCORE, Budget(generations=n), rng)
        assert model.calls == 1
        return result.text

    got = enumerate_law(run)
    finished = {text: p for text, p in expected.items() if p}
    assert got == pytest.approx(finished, abs=1e-12)


def test_a_model_that_draws_child_by_child_gives_the_same_run():
    """Candidates, scores and tokens are those of one call each; calls are fewer, sixteen answers in one."""
    runs = []
    for kind in (FakeModel, Together):
        model = kind(FLAT)
        result = asyncio.run(BestOfN().run(PROMPT, model, BY_SCORE, Budget(generations=20), 5))
        runs.append(([(c.path.text, c.score) for c in result.candidates], result.usage.generated_tokens))
        assert result.usage.model_calls == model.calls == (20 if kind is FakeModel else 2)
    assert runs[0] == runs[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_honours_n_is_asked_once(kind: str):
    """Six samples come in one request, and the account is the server's, to the token."""

    async def run() -> None:
        server = Server(**KINDS[kind])
        result = await best_of(await connected(server), 6)
        assert asked(server) == [6]
        assert len(result.candidates) == 6
        assert result.usage.model_calls == 1
        assert result.usage.prompt_tokens == 3
        kept = sum(c.path.n_tokens for c in result.candidates)
        assert result.usage.generated_tokens == server.generated == kept

    asyncio.run(run())


@pytest.mark.parametrize(
    "server", [{"n": "ignores"}, {"n": "rejects"}, {"streams": None}, {"streams": "uncounted"}], ids=str
)
def test_elsewhere_every_sample_is_a_request(server: dict[str, Any]):
    """Where n is not honoured, or an answer in one piece would be lost to a deadline as a whole."""

    async def run() -> None:
        served = Server(**server)
        assert len((await best_of(await connected(served), 3)).candidates) == 3
        assert asked(served) == [1, 1, 1]

    asyncio.run(run())


@pytest.mark.parametrize("stride", [1, 2])
def test_what_has_to_be_seen_one_by_one_is_asked_for_so(stride: int, tmp_path: FilePath):
    """A limit on tokens, temperature 0, an early stop; a recording and samples that cells share only where
    together others would be drawn."""

    async def requests(
        method: Any, budget: Budget, wrapped: type[SharedSamples] | None, recording: Recording | None
    ) -> list[int]:
        server = Server(stride=stride)
        model: Model = await connected(server)
        model = wrapped(model) if wrapped else RecordedModel(model, recording) if recording else model
        await method.run(PROMPT, model, None, budget, 0)
        return asked(server)

    free = Budget(generations=3)
    assert asyncio.run(requests(Majority(max_tokens=20), free, None, None)) == [3]
    with Recording(tmp_path / "calls.sqlite") as recording:
        for method, budget, wrapped, kept in [
            (Majority(max_tokens=20), Budget(generations=3, tokens=1000), None, None),
            (Majority(max_tokens=20, temperature=0.0), free, None, None),
            (Majority(max_tokens=20, early_stop=True), free, None, None),
            (Majority(max_tokens=20), free, SharedSamples, None),
            (Majority(max_tokens=20), free, None, recording),
        ]:
            alike = stride == 1 and (wrapped or kept)
            assert asyncio.run(requests(method, budget, wrapped, kept)) == ([3] if alike else [1] * 3)


@pytest.mark.parametrize("kind", TOLD)
def test_a_sample_is_judged_while_others_are_still_written(kind: str):
    """The scorer sees the short ones before the request has ended."""

    async def run() -> None:
        server = Stalling(**KINDS[kind])
        model = await connected(server)
        whole = await best_of(model, 6)
        lengths = [c.path.n_tokens for c in whole.candidates]
        assert min(lengths) < max(lengths)
        server.stall_after = sum(min(length, min(lengths)) for length in lengths) + 1
        judged: list[str] = []

        def score(text: str) -> float:
            judged.append(text)
            return float(len(text))

        method = BestOfN(max_tokens=20)
        run = method.run(PROMPT, model, FakeOutcomeScorer(score), Budget(generations=6), 3)
        task = asyncio.ensure_future(run)
        while not judged:
            await asyncio.sleep(0.001)
        assert server.running == 1
        server.go_on.set()
        result = await task
        assert [c.path.text for c in result.candidates] == [c.path.text for c in whole.candidates]
        assert [c.score for c in result.candidates] == [c.score for c in whole.candidates]

    asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
def test_samples_that_are_whole_when_time_is_up_are_candidates(kind: str):
    """The others are given up with their request, and what had come of them is paid for."""

    async def run() -> None:
        server = Stalling(**KINDS[kind])
        model = await connected(server)
        whole = await best_of(model, 6)
        texts, least = [c.path.text for c in whole.candidates], 4
        server.stall_after, server.generated = 6 * least, 0
        result = await best_of(model, 6, seconds=0.3)
        assert result.stop_reason is StopReason.SECONDS
        short = [c.path.text for c in whole.candidates if server_tokens(c.path.text) <= least]
        assert [c.path.text for c in result.candidates] == short
        assert set(short) < set(texts)
        # Where nothing but text is told of a token, the one that ends an answer is not seen.
        unseen = len(short) if kind in UNTOLD and server.streams == "closing" else 0
        assert result.usage.generated_tokens == server.generated - unseen
        assert (server.aborted, server.running) == (1, 0)

    def server_tokens(text: str) -> int:
        return len(text.replace("|", " ").split()) + 1

    asyncio.run(run())


@pytest.mark.parametrize("kind", TOLD)
def test_a_request_that_breaks_off_keeps_what_is_whole(kind: str):
    """The rest is asked for one by one; every token that was sent is paid for."""

    async def run() -> None:
        server = Server(**KINDS[kind])
        model = await connected(server)
        whole = await best_of(model, 6)
        short = min(c.path.n_tokens for c in whole.candidates)
        server.requests.clear()
        server.generated, server.cuts = 0, [6 * short]
        result = await best_of(model, 6)
        assert len(result.candidates) == 6
        first, *rest = asked(server)
        assert first == 6
        assert 0 < len(rest) < 6
        assert set(rest) == {1}
        kept = {c.path.text for c in result.candidates}
        assert {c.path.text for c in whole.candidates if c.path.n_tokens == short} <= kept
        assert result.usage.generated_tokens == server.generated
        assert result.usage.failed_calls == 0

    asyncio.run(run())


def test_copies_are_noticed_before_they_are_candidates():
    """Texts that say the same are told of last, when it is seen whether they are samples at all."""

    async def run() -> None:
        server = Server(n="copies")
        model = await connected(server)
        result = await best_of(model, 16)
        assert asked(server) == [16, *[1] * 15]
        assert len(result.candidates) == 16
        assert len({c.path.text for c in result.candidates}) > 1
        assert result.usage.generated_tokens == server.generated
        assert not model.facts.n

    asyncio.run(run())


def test_a_failure_stays_one_candidates():
    """A request for four that fails for good is made for each, and one of those that fails costs itself."""

    async def run() -> None:
        server = Server()
        model = await connected(server)
        server.faults = [*[fault(500, "oops")] * 5, fault(401, "no")]
        result = await best_of(model, 4)
        assert asked(server) == [4, 4, 4, 4, 4, 1, 1, 1, 1]
        assert len(result.candidates) == 3
        assert result.usage.failed_calls == 1
        assert result.usage.generated_tokens == server.generated

    asyncio.run(run())


def test_a_cancelled_run_leaves_nothing_behind():
    """Neither its request nor a judgement goes on."""

    async def run() -> None:
        server = Stalling()
        model = await connected(server)
        server.stall_after = 3
        task = asyncio.ensure_future(best_of(model, 6))
        while server.generated < 3:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert server.running == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_the_first_of_n_are_the_first_of_more():
    """Where a server's texts have its seed plus their number, as vLLM's have: it is named after the first."""

    async def texts(n: int) -> tuple[list[str], list[int]]:
        server = Server()
        result = await best_of(await connected(server), n)
        return [c.path.text for c in result.candidates], asked(server)

    few, many = asyncio.run(texts(5)), asyncio.run(texts(18))
    assert few == (many[0][:5], [5])
    assert many[1] == [16, 2]


def test_tokens_nobody_told_apart_are_shared_by_length():
    """All of them, none with more than were allowed."""
    assert _shares(12, [1, 2, 3], 100) == [2, 4, 6]
    assert _shares(10, [1, 1, 98], 4) == [3, 3, 4]
    for total, most in itertools.product(range(40), (14, 20)):
        shares = _shares(total, [7, 1, 30], most)
        assert sum(shares) == total
        assert max(shares) <= most
