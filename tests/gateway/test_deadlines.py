"""A request's time holds wherever it waits, and what it took is charged however it ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from itscale.gateway.admission import hash_of
from tests.gateway.worlds import CONFIG, MESSAGES, World, events_of, toy, within

BEARER = {"authorization": "Bearer k"}
KEYS = {"k": {"hash": hash_of("k"), "tokens_per_day": 10_000}}
PIECES = [b'data: {"choices": [{"index": 0, "delta": {"content": "%d"}}]}\n\n' % i for i in range(5)]


async def rest(world: World) -> None:
    """Until nothing is under way and all has been written down."""
    while world.model.running or world.upstream.running or world.gateway.gate.inside:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
def test_the_time_in_the_queue_counts(stream: bool):
    """One place, taken for long: who has a tenth of a second is told after it, and leaves the queue."""

    async def ask(world: World) -> Any:
        slow = asyncio.ensure_future(world.chat("majority:n=1/toy"))
        while not world.model.running:
            await asyncio.sleep(0.001)
        loop = asyncio.get_running_loop()
        began = loop.time()
        late = await world.chat("majority:n=1/toy", stream=stream, itscale={"seconds": 0.1})
        took = loop.time() - began
        gate = world.gateway.runtime.models["toy"].gate
        return late, took, gate.waiting, (await slow).status_code

    models = {"toy": {**CONFIG["models"]["toy"], "concurrency": 1}}
    late, took, waiting, slow = within(ask, toy(latency_s=0.4), models=models)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert took < 0.35
    assert (waiting, slow) == (0, 200)


def test_what_was_waited_is_no_longer_there_for_the_run():
    """Half a second of a request's 0.8 is spent in the queue: the run stops after the rest, with a step."""

    async def ask(world: World) -> Any:
        first = asyncio.ensure_future(world.chat("toy", itscale={"seconds": 0.5}))
        while not world.model.running:
            await asyncio.sleep(0.001)
        loop = asyncio.get_running_loop()
        began = loop.time()
        said = await world.chat("toy", itscale={"seconds": 0.8})
        await first
        return said, loop.time() - began

    models = {"toy": {**CONFIG["models"]["toy"], "concurrency": 1}}
    said, took = within(ask, toy(latency_s=0.2), models=models)
    assert said.json()["itscale"]["stop_reason"] == "seconds"
    assert took < 1.0


def test_a_plain_model_of_a_server_keeps_to_the_time_too():
    """504 where nothing has come, a last event where a stream has begun; the server hears of it."""

    async def ask(world: World) -> Any:
        world.upstream.hang_after = 0
        whole = await world.chat("far", itscale={"seconds": 0.05})
        silent = await world.chat("far", stream=True, itscale={"seconds": 0.05})
        world.upstream.pieces, world.upstream.hang_after = PIECES, 2
        begun = await world.chat("far", stream=True, itscale={"seconds": 0.05})
        await rest(world)
        return whole, silent, begun, len(world.upstream.hung_up_at)

    whole, silent, begun, hung_up = within(ask)
    for response in (whole, silent):
        assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert begun.content.startswith(PIECES[0] + PIECES[1])
    assert events_of(begun.text)[-1]["error"]["code"] == "deadline_exceeded"
    assert hung_up == 3


async def heard(world: World, model: str, pieces: int) -> None:
    """Listen to so many pieces of a stream, then hang up."""
    body = json.dumps({"model": model, "messages": MESSAGES, "stream": True, "n": 2}).encode()
    request = httpx.Request("POST", "http://gateway/v1/chat/completions", content=body, headers=BEARER)
    response = await world.client.send(request, stream=True)
    async for _ in response.aiter_raw():
        pieces -= 1
        if not pieces:
            break
    await response.aclose()
    await rest(world)


def test_a_client_that_hangs_up_pays_for_what_was_done():
    """In the middle of a stream, to the token; else a day's tokens would bind only who waits for the end."""

    async def ask(world: World) -> Any:
        await heard(world, "toy", 3)
        charged = world.gateway.accounts.spent_today("k")
        metrics = (await world.client.get("/metrics")).text
        return charged, world.model.tokens_read + world.model.tokens_generated, metrics

    charged, done, metrics = within(ask, toy(latency_s=0.02), keys=KEYS)
    assert charged == done > 0
    assert 'itscale_tokens_total{kind="generated",method="none",model="toy"}' in metrics


def test_a_run_that_fails_is_paid_for():
    """One of two choices is answered and the other fails on its way: both have spent."""

    async def ask(world: World) -> Any:
        response = await world.chat("toy", BEARER, n=2)
        await rest(world)
        spent = world.gateway.accounts.spent_today("k")
        return response.status_code, spent, world.model.tokens_read + world.model.tokens_generated

    status, charged, done = within(ask, toy(fail=lambda call: call == 3), keys=KEYS)
    assert (status, charged) == (502, done)
    assert done > 0


def test_a_passed_stream_that_is_broken_off_is_charged_a_token_a_piece():
    """Its server says what it took at the end only; what was heard of it is known."""

    async def ask(world: World) -> Any:
        world.upstream.pieces, world.upstream.hang_after = PIECES, 3
        await heard(world, "far", 3)
        return world.gateway.accounts.spent_today("k")

    assert within(ask, keys=KEYS) == 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream": True, "stream_options": [1]}, "stream_options"),
    ],
)
def test_what_the_gateway_reads_of_a_passed_request_has_its_type(fields: dict[str, Any], param: str):
    """It decides how the answer is read, and counted."""

    async def ask(world: World) -> Any:
        return await world.chat("far", BEARER, **fields)

    response = within(ask, keys=KEYS)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("stream", [False, True])
def test_nobody_waits_for_a_retry_that_would_come_too_late(stream: bool):
    """A server that wants to be left alone for longer than the request has is told of at once, with when."""

    async def ask(world: World) -> Any:
        assert (await world.chat("majority:n=1/far")).status_code == 200
        world.upstream.status, world.upstream.headers = 429, {"retry-after": "30"}
        world.upstream.pieces = [b'{"error": {"message": "slowly", "type": "t", "code": "c"}}']
        loop = asyncio.get_running_loop()
        began = loop.time()
        response = await world.chat("majority:n=2/far", stream=stream, itscale={"seconds": 3})
        return response, loop.time() - began

    response, took = within(ask)
    assert (response.status_code, response.json()["error"]["code"]) == (429, "c")
    assert response.headers["retry-after"] == "30"
    assert took < 1.0
