"""Small gateways: an exact toy model, a judge, an upstream, and clients that reach them in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx

from itscale.gateway.app import Gateway, application
from itscale.gateway.config import Config
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from tests.gateway.wire import Upstream, Wire

T = TypeVar("T")
MESSAGES = [{"role": "user", "content": "pick one"}]
ANSWERS = {
    (): {"think|": 1.0},
    ("think|",): {"\nAnswer: 1": 0.6, "\nAnswer: 2": 0.4},
    ("think|", "\nAnswer: 1"): {"$": 1.0},
    ("think|", "\nAnswer: 2"): {"$": 1.0},
}
"""Two steps: a thought everybody has, then 1 or 2; three tokens an answer."""


def toy(**options: Any) -> FakeModel:
    return FakeModel(ANSWERS, **options)


def judge() -> FakeProcessScorer:
    """Prefers 2."""
    return FakeProcessScorer(lambda texts: 0.9 if "2" in texts[-1] else 0.5)


CONFIG: dict[str, Any] = {
    "server": {"accounts": None},
    "models": {
        "toy": {"spec": "embedded", "scorer": "judge"},
        "far": {"spec": "openai:tiny@http://upstream:1/v1"},
    },
    "scorers": {"judge": {"spec": "embedded"}},
    "presets": {"careful": {"model": "toy", "method": "best-of-n", "generations": 4}},
}


class World:
    """One gateway and everything around it."""

    def __init__(self, model: FakeModel | None = None, upstream: Any = None, **sections: Any) -> None:
        self.model = model or toy()
        self.upstream: Any = upstream or Upstream()
        config = {**CONFIG, **sections}
        self.gateway: Gateway = application(
            Config.model_validate(config),
            models={"toy": self.model},
            scorers={"judge": judge()},
            transports=lambda _: Wire(self.upstream),
        )
        self.client = httpx.AsyncClient(transport=Wire(self.gateway), base_url="http://gateway", timeout=20)

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(
            path, content=content, headers={"content-type": "application/json", **headers}
        )

    async def chat(self, model: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": MESSAGES, **fields}
        return await self.post("/v1/chat/completions", body, **(headers or {}))


def within(work: Callable[[World], Awaitable[T]], model: FakeModel | None = None, **options: Any) -> T:
    """What `work` gives, with a world that is closed afterwards."""

    async def run() -> T:
        world = World(model, **options)
        await world.gateway.start()
        try:
            return await work(world)
        finally:
            await world.client.aclose()
            await world.gateway.stop()

    return asyncio.run(run())


def events_of(text: str) -> list[Any]:
    """The data of an event stream, the end as the word it is; comments are skipped."""
    data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [one if one == "[DONE]" else json.loads(one) for one in data]
