"""The same fakes behind a real socket on this machine: connections kept, cut, and closed at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import ModelError
from itscale.models.openai.address import Address
from itscale.models.openai.client import Endpoint
from itscale.models.openai.model import OpenAIModel
from itscale.randomness import Seeded
from itscale.types import Path, Prompt, Sampling, Until
from tests.models.openai.servers import Server, Sleeps

ROOT = Path.root(Prompt.user("a b c"))


class Listening:
    """A fake on a port: HTTP/1.1 with keep-alive, and nothing more of it than the client needs."""

    def __init__(self, app: Server) -> None:
        self.app = app
        self.url = ""
        self.connections = 0
        self.closed_early = 0
        self.half_a_body = 0
        """How many of the next answers end in the middle."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *lines = head.decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines if line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                answering = asyncio.ensure_future(self._answer(request.split()[1], headers, body, writer))
                gone = asyncio.ensure_future(reader.read(1))  # the client says nothing more while it waits
                await asyncio.wait([answering, gone], return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    self.closed_early += 1
                    answering.cancel()
                    await asyncio.wait([answering])
                    return
                gone.cancel()
                await asyncio.wait([gone])
                answering.result()
        except (asyncio.IncompleteReadError, ConnectionError, httpx.RemoteProtocolError):
            pass  # the client closed a connection it had kept, or this end broke one off
        finally:
            writer.close()

    async def _answer(
        self, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        streamed = False

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: dict[str, Any]) -> None:
            nonlocal streamed
            if message["type"] == "http.response.start":
                kind = dict(message["headers"]).get(b"content-type", b"application/json")
                streamed = kind.startswith(b"text/event-stream")
                writer.write(f"HTTP/1.1 {message['status']} x\r\ncontent-type: ".encode() + kind + b"\r\n")
                writer.write(b"transfer-encoding: chunked\r\n\r\n" if streamed else b"")
                return
            data = message["body"]
            if not streamed:
                writer.write(f"content-length: {len(data)}\r\n\r\n".encode())
                if self.half_a_body and path.endswith("completions"):
                    self.half_a_body -= 1
                    writer.write(data[: len(data) // 2])
                    raise ConnectionError
                writer.write(data)
            else:
                end = b"" if message.get("more_body") else b"0\r\n\r\n"
                writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n" + end)
            await writer.drain()

        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.app({"path": path, "headers": raw}, receive, send)


@asynccontextmanager
async def listening(app: Server) -> AsyncIterator[tuple[Listening, OpenAIModel]]:
    """The fake on a free port of 127.0.0.1, and a model connected to it."""
    served = Listening(app)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    endpoint = Endpoint(Address("tiny", served.url, boundary="|", timeout_s=20.0), sleep=Sleeps())
    try:
        model = await OpenAIModel.connect(endpoint)
        app.requests.clear()
        yield served, model
    finally:
        await endpoint.close()
        server.close()
        await asyncio.sleep(0)


async def asked(model: OpenAIModel, ledger: Ledger) -> list[Path]:
    return await model.extend(ROOT, 1, Until("end", 20), Sampling(), Seeded(0), ledger)


def test_one_connection_is_kept_for_calls_that_follow_each_other():
    """The probe and thirty calls after it open a single connection."""

    async def run() -> None:
        async with listening(Server()) as (served, model):
            for _ in range(30):
                [path] = await asked(model, Ledger(Budget()))
                assert path.finished
            assert served.connections == 1

    asyncio.run(run())


def test_half_a_body_is_asked_for_again():
    """The connection ends before the announced length: another one brings the whole."""

    async def run() -> None:
        async with listening(Server(streams=None)) as (served, model):
            ledger = Ledger(Budget())
            served.half_a_body = 2
            [path] = await asked(model, ledger)
            assert path.finished
            assert ledger.retries == 2
            served.half_a_body = 5
            with pytest.raises(ModelError, match="broke the connection off"):
                await asked(model, ledger)

    asyncio.run(run())


def test_a_cancelled_call_closes_its_connection_at_once():
    """The server sees it while it still works on the answer, and later calls are not disturbed."""

    async def run() -> None:
        async with listening(Server()) as (served, model):
            await asked(model, Ledger(Budget()))
            served.app.turns = 10**9
            task = asyncio.ensure_future(asked(model, Ledger(Budget())))
            while not served.app.running:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(20):
                while served.app.running:
                    await asyncio.sleep(0)
            assert (served.closed_early, served.app.aborted) == (1, 1)
            served.app.turns = 1
            [path] = await asked(model, Ledger(Budget()))
            assert path.finished

    asyncio.run(run())


def test_models_on_one_server_share_its_limit():
    """Two models, two runs, one endpoint: together they have no more in flight than the server gets."""

    async def run() -> None:
        app = Server(names=("tiny", "big"), turns=20)
        async with listening(app) as (served, model):
            endpoint = Endpoint(Address("big", served.url, boundary="|", timeout_s=20.0), sleep=Sleeps())
            other = await OpenAIModel.connect(endpoint)
            limit = endpoint.concurrency
            assert limit is model.endpoint.concurrency
            limit.limit = limit.ceiling = 3
            app.peak = limit.peak = 0
            paths = await asyncio.gather(
                *(asked(one, Ledger(Budget())) for one in (model, other) for _ in range(8))
            )
            assert len(paths) == 16
            assert app.peak == limit.peak == 3
            await endpoint.close()
            assert [path.finished for path in await asked(model, Ledger(Budget()))] == [True]

    asyncio.run(run())


def test_nobody_listening_is_one_sentence():
    """A port that was closed: the URL is named, and what to look at."""

    async def run() -> str:
        async with listening(Server()) as (served, _):
            pass
        endpoint = Endpoint(Address("tiny", served.url), sleep=Sleeps())
        try:
            with pytest.raises(ModelError) as caught:
                await OpenAIModel.connect(endpoint)
        finally:
            await endpoint.close()
        return str(caught.value)

    said = asyncio.run(run())
    assert "cannot be reached" in said
    assert said.endswith("is the server running, and the URL right?")


def test_what_is_sent_is_plain_json():
    """The body is one JSON object of the protocol's own fields and vLLM's extensions, nothing of ours."""

    async def run() -> set[str]:
        async with listening(Server()) as (served, model):
            await asked(model, Ledger(Budget()))
            [body] = served.app.asked("/v1/completions")
            return set(json.loads(json.dumps(body)))

    assert asyncio.run(run()) == {
        "model", "prompt", "max_tokens", "temperature", "top_p", "seed", "logprobs",
        "return_token_ids", "top_k", "min_p", "repetition_penalty", "stream", "stream_options",
    }  # fmt: skip
