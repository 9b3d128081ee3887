"""Upstream servers behind a proxy: that of the gateway's own environment, and of nobody else."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from itscale.errors import OptionError
from itscale.gateway.app import application
from itscale.gateway.config import Config
from itscale.models.openai.connections import LeanTransport
from itscale.models.openai.pool import transport_to
from tests.gateway.wire import CHAT, Wire
from tests.gateway.worlds import MESSAGES


class Proxy:
    """Answers everything itself, as the server it is asked for; what it was asked for is in `asked`."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.heads: list[bytes] = []
        self._context = context

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
                at = head.lower().find(b"content-length:")
                body = await reader.readexactly(int(head[at + 15 :].split(b"\r\n")[0]) if at >= 0 else 0)
                self.asked.append((method, target, body))
                if method == "CONNECT":
                    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                    assert self._context is not None
                    await writer.start_tls(self._context)
                    continue
                said = json.dumps({"data": [{"id": "tiny"}]} if target.endswith("/models") else CHAT).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(said) + said)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def behind(proxy: Proxy, work: Callable[[str], Awaitable[Any]]) -> Any:
    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    try:
        return await work(f"http://u:p@127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
        await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(("no_proxy", "through"), [("", True), ("elsewhere", True), ("far.invalid", False)])
def test_the_gateway_goes_through_the_proxy_of_its_environment(
    no_proxy: str, through: bool, monkeypatch: pytest.MonkeyPatch
):
    """To the host of its configuration alone, with the proxy's own password, unless NO_PROXY has it."""
    proxy = Proxy()

    async def run(url: str) -> httpx.Response:
        monkeypatch.setenv("HTTP_PROXY", url)
        monkeypatch.setenv("http_proxy", url)  # the one that Windows and others ask first
        monkeypatch.setenv("NO_PROXY", no_proxy)
        far = {"far": {"spec": "openai:tiny@http://far.invalid:1/v1"}}
        gateway = application(Config.model_validate({"server": {"accounts": None}, "models": far}))
        await gateway.start()
        try:
            client = httpx.AsyncClient(transport=Wire(gateway), base_url="http://gateway")
            body = {"model": "far", "messages": MESSAGES}
            headers = {"x-forwarded-host": "evil", "proxy": "http://evil:1", "host": "evil"}
            async with client:
                return await client.post("/v1/chat/completions", json=body, headers=headers)
        finally:
            await gateway.stop()

    response = asyncio.run(behind(proxy, run))
    if not through:
        assert response.status_code == 502
        assert proxy.asked == []
        return
    assert response.json()["choices"] == CHAT["choices"]
    assert {target.rpartition("/v1/")[0] for _, target, _ in proxy.asked} == {"http://far.invalid:1"}
    assert all(b"proxy-authorization: basic dtpw" in head.lower() for head in proxy.heads)
    assert not any(b"evil" in head for head in proxy.heads)


def test_what_is_encrypted_goes_through_a_tunnel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The proxy sees the host's name; the certificate is the server's, and looked at."""
    authority, offered = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("far.invalid").configure_cert(offered)
    authority.cert_pem.write_to_path(known := tmp_path / "authority.pem")
    proxy = Proxy(offered)

    async def run(url: str) -> bytes:
        monkeypatch.setenv("https_proxy", url)
        stranger = transport_to("https://far.invalid/v1")
        request = httpx.Request("POST", "https://far.invalid/v1/chat/completions", content=b"{}")
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await stranger.handle_async_request(request)
        await stranger.aclose()
        monkeypatch.setenv("SSL_CERT_FILE", str(known))
        friend = transport_to("https://far.invalid/v1")
        response = await friend.handle_async_request(request)
        said = await response.aread()
        await response.aclose()
        await friend.aclose()
        return said

    assert json.loads(asyncio.run(behind(proxy, run))) == CHAT
    assert [asked[:2] for asked in proxy.asked] == [
        ("CONNECT", "far.invalid:443"), ("CONNECT", "far.invalid:443"), ("POST", "/v1/chat/completions")
    ]  # fmt: skip


@pytest.mark.parametrize("proxy", ["ftp://u:secret@p:1", "http://u:secret@p:port"])
def test_a_proxy_that_cannot_be_spoken_to_is_a_sentence(proxy: str, monkeypatch: pytest.MonkeyPatch):
    """Which does not tell its password."""
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(OptionError, match="NO_PROXY") as refused:
        transport_to("http://far.invalid:1/v1")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "no_proxy", ["far.invalid", "invalid", "far.invalid:1", "*", "127.0.0.1,far.invalid"]
)
def test_no_proxy_leaves_connections_lean(no_proxy: str, monkeypatch: pytest.MonkeyPatch):
    """By the host, its domain, or host and port."""
    monkeypatch.setenv("all_proxy", "p:1")
    assert not isinstance(transport_to("http://far.invalid:1/v1"), LeanTransport)
    monkeypatch.setenv("no_proxy", no_proxy)
    assert isinstance(transport_to("http://far.invalid:1/v1"), LeanTransport)
