"""HTTP/2, against hypercorn behind TLS on this machine, with a certificate of the test's own."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import Any

import pytest
import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config

from itscale.budget import Budget, Ledger
from itscale.errors import ModelError
from itscale.models.openai import http2
from itscale.models.openai.address import Address
from itscale.models.openai.client import Endpoint
from itscale.models.openai.model import OpenAIModel
from itscale.randomness import Seeded
from itscale.types import Path, Prompt, Sampling, Until
from tests.models.openai.servers import Server, Sleeps

ROOT = Path.root(Prompt.user("a b c"))


class Watched:
    """A fake as hypercorn wants it: what the client gives up is ended, and every connection is counted."""

    def __init__(self, app: Server) -> None:
        self.app = app
        self.clients: set[Any] = set()
        self.protocols: set[str] = set()
        self.given_up = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        self.clients.add(scope["client"])
        self.protocols.add(scope["http_version"])
        said: asyncio.Queue[Any] = asyncio.Queue()

        async def hear() -> None:
            while (message := await receive())["type"] != "http.disconnect":
                said.put_nowait(message)

        hearing = asyncio.ensure_future(hear())
        answering = asyncio.ensure_future(self.app(scope, said.get, send))
        await asyncio.wait([hearing, answering], return_when=asyncio.FIRST_COMPLETED)
        self.given_up += not answering.done()
        for task in (hearing, answering):
            task.cancel()
        await asyncio.wait([hearing, answering])

    async def _live(self, receive: Any, send: Any) -> None:
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return


@asynccontextmanager
async def listening(watched: Watched, folder: FilePath, alpn: list[str]) -> AsyncIterator[Endpoint]:
    """The server on a free port of localhost, and an endpoint there."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    key, chain = folder / "key.pem", folder / "chain.pem"
    certificate.private_key_pem.write_to_path(key)
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    authority.cert_pem.write_to_path(folder / "authority.pem")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = Config.from_mapping(
        bind=f"127.0.0.1:{port}", certfile=str(chain), keyfile=str(key), alpn_protocols=alpn, errorlog=None
    )
    over = asyncio.Event()
    serving = asyncio.ensure_future(serve(watched, config, shutdown_trigger=over.wait))  # type: ignore[arg-type]
    url = f"https://localhost:{port}/v1"
    endpoint = Endpoint(Address("tiny", url, boundary="|", timeout_s=20.0), sleep=Sleeps())
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    break
        yield endpoint
    finally:
        await endpoint.close()
        over.set()
        await serving


@pytest.fixture
def trusted(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> FilePath:
    """The folder of the certificates, whose authority is trusted as the docs say."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return tmp_path


async def asked(model: OpenAIModel, seed: int) -> Path:
    [path] = await model.extend(ROOT, 1, Until("end", 20), Sampling(), Seeded(seed), Ledger(Budget()))
    return path


def test_http2_is_spoken_where_it_is_offered(trusted: FilePath):
    """All requests at once share one connection, the answers are whole, and the endpoint says so."""

    async def run() -> None:
        watched = Watched(Server())
        async with listening(watched, trusted, ["h2", "http/1.1"]) as endpoint:
            model = await OpenAIModel.connect(endpoint)
            watched.clients.clear()
            paths = await asyncio.gather(*(asked(model, seed) for seed in range(12)))
            assert all(path.finished for path in paths)
            assert endpoint.protocol == "HTTP/2"
            assert watched.protocols == {"2"}
            assert len(watched.clients) == 1

    asyncio.run(run())


def test_a_server_without_http2_is_spoken_to_as_before(trusted: FilePath):
    """The handshake settles it; nothing fails."""

    async def run() -> None:
        watched = Watched(Server())
        async with listening(watched, trusted, ["http/1.1"]) as endpoint:
            assert (await asked(await OpenAIModel.connect(endpoint), 0)).finished
            assert endpoint.protocol == "HTTP/1.1"
            assert watched.protocols == {"1.1"}

    asyncio.run(run())


class Dribbling(Server):
    """Its streams stop after the first event, once that is wanted."""

    dribbles = False

    async def _send_events(self, send: Any, events: Iterator[dict[str, Any]]) -> None:
        if not self.dribbles:
            await super()._send_events(send, events)
            return
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        data = f"data: {json.dumps(next(events))}\n\n".encode()
        await send({"type": "http.response.body", "body": data, "more_body": True})
        await asyncio.Event().wait()


@pytest.mark.parametrize("within", [True, False])
def test_giving_up_over_http2_tells_the_server_at_once(trusted: FilePath, within: bool):
    """A cancelled request is reset, before or within its answer; the connection serves the next one."""

    async def run() -> None:
        app = Dribbling()
        watched = Watched(app)
        async with listening(watched, trusted, ["h2"]) as endpoint:
            model = await OpenAIModel.connect(endpoint)
            watched.clients.clear()
            app.dribbles, app.turns = within, 1 if within else 10**9
            heard = asyncio.Event()
            task = asyncio.ensure_future(
                model.extend(
                    ROOT, 1, Until("end", 20), Sampling(), Seeded(0), Ledger(Budget()),
                    heard=lambda delta: heard.set(),
                )
            )  # fmt: skip
            async with asyncio.timeout(20):
                while not (heard.is_set() if within else app.running):
                    await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(20):
                while app.running:
                    await asyncio.sleep(0.001)
            assert watched.given_up == app.aborted == 1
            app.dribbles, app.turns = False, 1
            assert (await asked(model, 1)).finished
            assert len(watched.clients) == 1

    asyncio.run(run())


def test_a_certificate_nobody_vouches_for_is_one_sentence(tmp_path: FilePath):
    """The server cannot be reached, and why."""

    async def run() -> None:
        async with listening(Watched(Server()), tmp_path, ["h2"]) as endpoint:
            with pytest.raises(ModelError, match=r"cannot be reached .*certificate verify failed"):
                await OpenAIModel.connect(endpoint)

    asyncio.run(run())


def test_without_the_extra_a_probe_says_what_it_takes(trusted: FilePath, monkeypatch: pytest.MonkeyPatch):
    """HTTP/1.1 is spoken, though the server offers more; plain http has nothing to offer."""
    monkeypatch.setattr("itscale.models.openai.pool.may_be_http2", lambda: False)
    monkeypatch.setattr(http2, "may_be_http2", lambda: False)

    async def run() -> tuple[str | None, str]:
        async with listening(Watched(Server()), trusted, ["h2", "http/1.1"]) as endpoint:
            await OpenAIModel.connect(endpoint)
            return endpoint.protocol, endpoint.address.url

    protocol, url = asyncio.run(run())
    assert protocol == "HTTP/1.1"
    said = http2.spoken(protocol, url)
    assert said is not None
    assert said.endswith('pip install "itscale[http2]")')
    assert http2.spoken(protocol, "http://localhost/v1") == "HTTP/1.1"
