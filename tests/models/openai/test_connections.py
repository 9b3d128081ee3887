"""The lean connections against a server that says byte for byte what a test wants."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from itscale.models.openai.connections import LeanTransport
from itscale.models.openai.pool import Pool

Say = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SIZED = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
LATER = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + SIZED


class Served:
    """A server whose every answer is the next of `says`, in pieces of `size` bytes; the last one again."""

    def __init__(self, *says: bytes, size: int = 10**6, close: bool = False, hang: bool = False) -> None:
        self.says, self.size, self.close, self.hang = list(says), size, close, hang
        self.connections = self.gone = 0
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split()[0])
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(length))
                said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
                for i in range(0, len(said), self.size):
                    writer.write(said[i : i + self.size])
                    await writer.drain()
                    await asyncio.sleep(0)
                if self.hang:
                    await reader.read()
                    return
                if self.close:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.gone += 1
            writer.close()


def within(served: Served, work: Callable[[LeanTransport, str], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        server = await asyncio.start_server(served, "127.0.0.1", 0)
        transport = LeanTransport(**options)
        try:
            return await work(transport, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/x?y=1")
        finally:
            await transport.aclose()
            for _ in range(200):
                if served.gone == served.connections:
                    break
                await asyncio.sleep(0.01)
            server.close()
            assert served.gone == served.connections
            assert not transport._open

    return asyncio.run(run())


async def ask(transport: LeanTransport, url: str, body: bytes = b"{}", **limits: float) -> httpx.Response:
    request = httpx.Request("POST", url, content=body, extensions={"timeout": limits})
    response = await transport.handle_async_request(request)
    await response.aread()
    await response.aclose()
    return response


@pytest.mark.parametrize("said", [SIZED, CHUNKED, LATER], ids=["sized", "chunked", "after 1xx"])
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_an_answer_is_the_same_however_its_bytes_are_cut(said: bytes, size: int):
    """Status, headers and body, and the connection carries the next request too."""
    served = Served(said, size=size)

    async def work(transport: LeanTransport, url: str) -> Any:
        return [await ask(transport, url, b"x" * n) for n in (0, 3, 100_000)]

    answers = within(served, work)
    assert [(r.status_code, r.content, r.http_version) for r in answers] == [(200, b"hello", "HTTP/1.1")] * 3
    assert "link" not in answers[0].headers
    assert served.connections == 1
    assert served.bodies == [b"", b"xxx", b"x" * 100_000]
    assert served.heads[0].startswith(b"POST /v1/x?y=1 HTTP/1.1\r\n")
    assert served.heads[0].lower().count(b"host: 127.0.0.1:") == 1


def test_an_answer_without_a_length_ends_with_its_connection():
    """And the next request opens another."""
    served = Served(b"HTTP/1.1 200 OK\r\n\r\nhello", close=True)

    async def work(transport: LeanTransport, url: str) -> Any:
        return [(await ask(transport, url)).content for _ in range(2)]

    assert within(served, work) == [b"hello"] * 2
    assert served.connections == 2


def test_a_connection_that_the_server_closes_is_not_used_again():
    """Neither one it announced to close, nor one it closed while idle, nor one kept too long."""
    close = SIZED.replace(b"content-type", b"connection: close\r\ncontent-type")
    for served, options, wait_s in (
        (Served(close), {}, 0.0),
        (Served(SIZED, close=True), {}, 0.05),
        (Served(SIZED), {"keep_alive_s": 0.05}, 0.2),
    ):

        async def work(transport: LeanTransport, url: str, wait_s: float = wait_s) -> Any:
            first = await ask(transport, url)
            await asyncio.sleep(wait_s)
            kept = len(transport._open)
            return first.content, kept, (await ask(transport, url)).content

        content, kept, again = within(served, work, **options)
        assert (content, again) == (b"hello", b"hello")
        assert kept == 0 or wait_s == 0
        assert served.connections == 2


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", httpx.RemoteProtocolError),
        (SIZED[:-2], httpx.RemoteProtocolError),
        (CHUNKED[:-5], httpx.RemoteProtocolError),
        (b"SSH-2.0-OpenSSH_9.6\r\n", httpx.RemoteProtocolError),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            httpx.RemoteProtocolError,
        ),
    ],
    ids=["nothing", "half a body", "half a chunked body", "another protocol", "an upgrade"],
)
def test_what_is_no_whole_answer_is_an_error(said: bytes, error: type[Exception]):
    """A connection closed too early, or other bytes."""

    async def work(transport: LeanTransport, url: str) -> None:
        with pytest.raises(error):
            await ask(transport, url)

    within(Served(said, close=True), work)


def test_an_answer_nobody_asked_for_spoils_its_connection():
    """Two answers to one request: the second is nobody's, whatever is asked next."""

    async def work(transport: LeanTransport, url: str) -> Any:
        try:
            first = (await ask(transport, url)).content
        except httpx.RemoteProtocolError:
            first = b"hello"
        await asyncio.sleep(0.05)
        return first, (await ask(transport, url)).content

    served = Served(SIZED + SIZED.replace(b"hello", b"wrong"), SIZED)
    assert within(served, work) == (b"hello", b"hello")
    assert served.connections == 2


def test_a_server_that_hangs_up_before_it_is_asked_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch):
    """Also when it does so between the connection's coming about and the request."""

    async def run() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        transport = LeanTransport()
        connect = transport._connected

        async def slowly(*args: Any) -> Any:
            made = await connect(*args)
            await asyncio.sleep(0.05)
            return made

        monkeypatch.setattr(transport, "_connected", slowly)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with asyncio.timeout(5):
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                await ask(transport, url)
        await transport.aclose()
        server.close()

    asyncio.run(run())


def test_waiting_has_limits():
    """Of a read, and of connecting to where nobody listens."""

    async def work(transport: LeanTransport, url: str) -> None:
        with pytest.raises(httpx.ReadTimeout):
            await ask(transport, url, read=0.05)
        with pytest.raises(httpx.ConnectError):
            await ask(transport, "http://127.0.0.1:1/")

    within(Served(SIZED[:-2], hang=True), work)


def test_closing_an_answer_early_or_cancelling_its_request_closes_the_connection():
    """The server hears of it at once."""

    async def work(transport: LeanTransport, url: str) -> None:
        request = httpx.Request("POST", url, content=b"{}")
        response = await transport.handle_async_request(request)
        await response.aclose()
        served.says = [b"HTTP/1.1"]
        task = asyncio.ensure_future(ask(transport, url))
        while served.connections < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(200):
            if served.gone == 2:
                return
            await asyncio.sleep(0.005)
        raise AssertionError("the server was left waiting")

    served = Served(SIZED[:-2], hang=True)
    within(served, work)


def test_a_body_nobody_reads_stays_with_its_server():
    """Not more than a bounded part of it comes into memory, and all of it once it is read."""
    size = 8 * 2**20
    served = Served(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size, size=65_536)

    async def work(transport: LeanTransport, url: str) -> Any:
        response = await transport.handle_async_request(httpx.Request("POST", url, content=b"{}"))
        await asyncio.sleep(0.2)
        [connection] = transport._open
        held = connection._unread
        return held, len(await response.aread())

    held, read = within(served, work)
    assert held < 2**20
    assert read == size


@pytest.mark.parametrize(
    ("proxies", "url", "lean"),
    [
        ({}, "http://h:1/v1", True),
        ({"http": "http://p:1"}, "http://h:1/v1", False),
        ({"all": "http://p:1"}, "http://h:1/v1", False),
        ({"http": "http://p:1"}, "http://127.0.0.1:1/v1", True),
        ({"http": "http://p:1"}, "https://h:1/v1", True),
    ],
)
def test_connections_are_lean_unless_a_proxy_stands_between(
    monkeypatch: pytest.MonkeyPatch, proxies: dict[str, str], url: str, lean: bool
):
    """A proxy of the environment is used, and not for the hosts it is not for."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for scheme, proxy in proxies.items():
        monkeypatch.setenv(f"{scheme}_proxy", proxy)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("itscale.models.openai.pool.may_be_http2", lambda: False)
    assert isinstance(Pool(url).transport, LeanTransport) == lean


def test_tls_is_spoken_and_the_certificate_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server somebody vouches for answers; one nobody knows, or of another name, is no connection."""
    authority, offered = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(offered)
    known = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(known)
    served = Served(SIZED)

    async def run() -> Any:
        server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=offered)
        port = server.sockets[0].getsockname()[1]
        stranger, friend = LeanTransport(), LeanTransport()
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await ask(stranger, f"https://localhost:{port}/")
        monkeypatch.setenv("SSL_CERT_FILE", str(known))
        said = [(await ask(friend, f"https://localhost:{port}/")).content for _ in range(2)]
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await ask(friend, f"https://127.0.0.1:{port}/")
        for transport in (stranger, friend):
            await transport.aclose()
        server.close()
        await asyncio.sleep(0.05)
        return said

    assert asyncio.run(run()) == [b"hello"] * 2
    assert len(served.bodies) == 2
