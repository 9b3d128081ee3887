"""Streams: what is said is certain, what ends ends properly, and whoever hangs up stops everything."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from itscale.models.fake import FakeModel
from tests.gateway.wire import Upstream
from tests.gateway.worlds import MESSAGES, World, events_of, toy, within

SAMPLES = 32
FORKED = FakeModel(
    {
        (): {"a ": 1.0},
        ("a ",): {"b|": 1.0},
        ("a ", "b|"): {"c2|": 0.5, "d|": 0.5},
        ("a ", "b|", "c2|"): {"e": 1.0},
        ("a ", "b|", "d|"): {"e": 1.0},
        ("a ", "b|", "c2|", "e"): {"$": 1.0},
        ("a ", "b|", "d|", "e"): {"$": 1.0},
    }
)
"""All answers begin with the same step; at the second the judge prefers one of two."""


def stream(model: str, world: Any = None, **fields: Any) -> Any:
    """The status and the text of a streamed answer."""

    async def ask(world: World) -> Any:
        response = await world.chat(model, stream=True, **fields)
        return response.status_code, response.text

    return within(ask, world)


def content(events: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for event in events
        if event != "[DONE]"
        for choice in event["choices"]
    )


@pytest.mark.parametrize("model", ["toy", "best-of-n:n=4/toy", "particle-filter:n=4/toy", "majority:n=3/toy"])
def test_a_stream_says_what_the_whole_answer_would(model: str):
    """Role first, then the text, a finish reason, the usage if asked, [DONE]; one id throughout."""
    _, text = stream(model, seed=4, stream_options={"include_usage": True})

    async def whole(world: World) -> Any:
        return (await world.chat(model, seed=4)).json()

    said, events = within(whole), events_of(text)
    assert events[-1] == "[DONE]"
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert content(events) == said["choices"][0]["message"]["content"]
    assert events[-3]["choices"][0]["finish_reason"] == "stop"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"] == said["usage"]
    assert events[-3]["itscale"]["answer"] == said["itscale"]["answer"]
    assert len({event["id"] for event in events[:-1]}) == 1


def test_a_plain_model_streams_its_steps_as_they_come():
    """Each step is an event of its own."""
    _, text = stream("toy")
    deltas = [e["choices"][0]["delta"].get("content") for e in events_of(text)[:-1]]
    assert [d for d in deltas if d] == ["think|", next(d for d in deltas if d and "Answer" in d)]


def test_a_particle_filter_says_what_all_particles_share_before_it_ends():
    """After a resampling every answer grows out of the resampled paths; their common beginning is certain."""
    _, text = stream("particle-filter:n=16,ess_threshold=1/toy", FORKED, seed=1)
    deltas = [e["choices"][0]["delta"].get("content") for e in events_of(text)[:-1]]
    said = [d for d in deltas if d]
    assert said[0] == "a b|"
    assert "".join(said) in ("a b|c2|e", "a b|d|e")


@pytest.mark.parametrize(("progress", "sign"), [("comments", ": itscale steps="), ("events", '"proposed"')])
def test_progress_comes_as_comments(progress: str, sign: str):
    """Counts by default, events on demand; no parser of events sees them."""
    _, text = stream("majority:n=3/toy", itscale={"progress": progress})
    comments = [line for line in text.splitlines() if line.startswith(":")]
    assert any(sign in line for line in comments)
    if progress == "events":
        told = [json.loads(line.removeprefix(": itscale ")) for line in comments if "{" in line]
        assert sum(one["event"] == "proposed" for one in told) == 6
        assert [one["event"] for one in told][-1] == "chosen"


def test_progress_can_be_reasoning_or_nothing():
    """Reasoning deltas only where they were asked for."""
    _, reasoning = stream("majority:n=3/toy", itscale={"progress": "reasoning"})
    assert '"reasoning_content"' in reasoning
    _, silent = stream("majority:n=3/toy", itscale={"progress": "none"})
    assert not any(line.startswith(": itscale s") for line in silent.splitlines())
    assert '"reasoning_content"' not in silent


def test_choices_stream_side_by_side():
    """n=2: each choice has its role, text and finish."""
    _, text = stream("toy", n=2, seed=1)
    finished = [
        (c["index"], c["finish_reason"])
        for e in events_of(text)[:-1]
        for c in e["choices"]
        if c["finish_reason"]
    ]
    assert sorted(finished) == [(0, "stop"), (1, "stop")]


def test_what_fails_at_once_has_a_status_of_its_own():
    """No 200 for a stream that never began."""
    status, text = stream("majority:n=3/toy", toy(fail=lambda call: True))
    assert status == 502
    assert json.loads(text)["error"]["code"]


def test_what_fails_on_its_way_ends_in_an_error_event_and_no_done():
    """The second step fails: the client sees the first, then an error object, and no [DONE]."""
    _, text = stream("toy", toy(fail=lambda call: call == 1))
    events = events_of(text)
    assert content(events[:-1]) == "think|"
    assert events[-1]["error"]["type"] == "server_error"
    assert "[DONE]" not in text


async def hang_up(world: World, body: dict[str, Any], ready: Any) -> float:
    """Start a request, hang up once `ready`, and say how long it took for the world to be at rest."""
    request = asyncio.ensure_future(world.post("/v1/chat/completions", body))
    while not ready():
        assert not request.done(), request.result().text
        await asyncio.sleep(0.005)
    loop = asyncio.get_running_loop()
    began = loop.time()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    while world.model.running or world.upstream.running:
        await asyncio.sleep(0.001)
        assert loop.time() - began < 5, "work went on after its client had gone"
    return loop.time() - began


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("model", ["best-of-n:n=32/toy", "toy", "far"])
def test_hanging_up_cancels_everything_upstream_within_a_tenth_of_a_second(model: str, streamed: bool):
    """Calls in flight end, their places are free again, and the next request is answered."""

    async def ask(world: World) -> float:
        world.upstream.hang_after = 0
        body = {"model": model, "messages": MESSAGES, "stream": streamed}
        took = await hang_up(world, body, lambda: world.model.running or world.upstream.running)
        assert world.gateway.gate.inside == 0
        assert all(served.gate.inside == 0 for served in world.gateway.runtime.models.values())
        world.model.latency_s = 0.0
        assert (await world.chat("toy")).status_code == 200
        return took

    assert within(ask, toy(latency_s=30.0)) < 0.1


def test_hanging_up_in_the_middle_of_a_stream_cancels_upstream():
    """A passed stream whose client leaves after the first piece."""

    async def ask(world: World) -> float:
        world.upstream.pieces = [b'data: {"choices": []}\n\n', b"data: [DONE]\n\n"]
        world.upstream.hang_after = 1
        body = json.dumps({"model": "far", "messages": MESSAGES, "stream": True}).encode()
        request = httpx.Request("POST", "http://gateway/v1/chat/completions", content=body)
        response = await world.client.send(request, stream=True)
        async for _ in response.aiter_raw():
            break
        began = asyncio.get_running_loop().time()
        await response.aclose()
        while world.upstream.running:
            await asyncio.sleep(0.001)
        return asyncio.get_running_loop().time() - began

    assert within(ask, upstream=Upstream()) < 0.1
