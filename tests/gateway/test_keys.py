"""Keys: who may ask, for what, how often, how much."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from itscale.gateway.admission import Accounts, hash_of, new_key, who
from itscale.gateway.config import KeyEntry
from itscale.gateway.faults import Fault
from tests.gateway.worlds import World, within

KEY = new_key()
BEARER = {"authorization": f"Bearer {KEY}"}


def keyed(**fields: Any) -> dict[str, Any]:
    return {"keys": {"alice": {"hash": hash_of(KEY), **fields}}}


def test_without_a_known_key_nothing_is_answered():
    """401 in OpenAI's form, no token spent; health needs no key."""

    async def ask(world: World) -> Any:
        answers = [
            await world.chat("toy"),
            await world.chat("toy", {"authorization": "Bearer wrong"}),
            await world.chat("toy", {"authorization": KEY}),
            await world.client.get("/v1/models"),
        ]
        return answers, await world.chat("toy", BEARER), await world.client.get("/health"), world.model.calls

    answers, good, health, calls = within(ask, **keyed())
    assert [r.status_code for r in answers] == [401] * 4
    assert answers[0].json()["error"]["type"] == "authentication_error"
    assert (good.status_code, health.status_code) == (200, 200)
    assert calls == 2  # the two steps of the one answer


def test_keys_are_stored_as_hashes_and_compared_to_the_end(monkeypatch: Any):
    """Every entry is compared, in constant time, whichever matches."""
    seen = []
    import hmac

    def compare(a: str, b: str) -> bool:
        seen.append(b)
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = {name: KeyEntry(hash=hash_of(name)) for name in ("a", "b", "c")}
    assert who("Bearer a", keys) == "a"
    assert len(seen) == 3


def test_a_key_sees_and_gets_only_the_models_it_may():
    """403 for the others, and the list leaves them out."""

    async def ask(world: World) -> Any:
        listed = await world.client.get("/v1/models", headers=BEARER)
        return (
            [m["id"] for m in listed.json()["data"]],
            (await world.chat("careful", BEARER)).status_code,
            (await world.chat("toy", BEARER)).status_code,
        )

    assert within(ask, **keyed(models=["careful", "majority*"])) == (
        ["careful", "majority/toy", "majority/far"],
        200,
        403,
    )


def test_a_key_may_ask_so_many_times_a_minute():
    """Then 429 with Retry-After and OpenAI's type."""

    async def ask(world: World) -> Any:
        return [await world.chat("toy", BEARER) for _ in range(4)]

    answers = within(ask, **keyed(requests_per_minute=3))
    assert [r.status_code for r in answers] == [200, 200, 200, 429]
    assert answers[-1].json()["error"]["type"] == "rate_limit_error"
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60


def test_the_rate_is_a_sliding_window():
    """Half of the last minute still counts half-way through this one."""
    now = [120.0]
    accounts = Accounts(now=lambda: now[0])
    entry = KeyEntry(hash=hash_of("x"), requests_per_minute=10)
    for _ in range(10):
        accounts.admit("x", entry)
    now[0] = 120.0 + 90.0
    for _ in range(5):
        accounts.admit("x", entry)
    with pytest.raises(Fault, match="10 times a minute"):
        accounts.admit("x", entry)
    accounts.close()


def test_tokens_of_a_day_bind_and_survive_a_restart(tmp_path: Any):
    """Prompt and generated tokens together; tomorrow there are new ones."""
    now, file = [1000.0], str(tmp_path / "accounts.sqlite")
    entry = KeyEntry(hash=hash_of("x"), tokens_per_day=100)
    accounts = Accounts(file, now=lambda: now[0])
    accounts.admit("x", entry)
    accounts.charge("x", 100)
    accounts.close()
    accounts = Accounts(file, now=lambda: now[0])
    with pytest.raises(Fault) as refused:
        accounts.admit("x", entry)
    assert refused.value.code == "insufficient_quota"
    now[0] += 86_400
    accounts.admit("x", entry)
    accounts.close()


def test_what_an_answer_took_is_charged_to_its_key():
    """Local, passed and streamed answers alike; a passed stream is asked for its usage, unseen."""
    events = [
        b'data: {"choices":[{"index":0,"delta":{"content":"42"}}]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n',
        b"data: [DONE]\n\n",
    ]

    async def ask(world: World) -> Any:
        spent = [0]

        async def charged(response: Any) -> int:
            await asyncio.sleep(0.01)
            spent.append(world.gateway.accounts.spent_today("alice"))
            return spent[-1] - spent[-2]

        local = await world.chat("majority:n=2/toy", BEARER)
        local_tokens = await charged(local)
        passed_tokens = await charged(await world.chat("far", BEARER))
        world.upstream.pieces = events
        stream = await world.chat("far", BEARER, stream=True)
        asked = json.loads(world.upstream.asked[-1][2])
        return (
            local.json()["usage"]["total_tokens"],
            local_tokens,
            passed_tokens,
            stream,
            asked,
            await charged(stream),
        )

    total, local, passed, stream, asked, streamed = within(ask, **keyed(tokens_per_day=10_000))
    assert local == total
    assert passed == 10
    assert asked["stream_options"] == {"include_usage": True}
    assert stream.content == events[0] + events[2]
    assert streamed == 10
