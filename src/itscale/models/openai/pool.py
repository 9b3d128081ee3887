"""What all calls to one server share: kept connections, and how many requests it gets at a time.

One pool for each event loop and server, whoever asks: models, scorers and runs that name the same
server share its connections and its limit. A pool lives as long as somebody uses it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary

import httpx

from itscale.errors import OptionError
from itscale.models.openai.concurrency import Concurrency
from itscale.models.openai.connections import LeanTransport
from itscale.models.openai.http2 import may_be_http2

__all__ = ["Pool", "join", "leave", "transport_to"]

CONNECT_S = 10.0
_TIMEOUT = httpx.Timeout(None, connect=CONNECT_S).as_dict()
"""Of one request; an attempt as a whole has a limit of its own."""


@dataclass(eq=False)
class Pool:
    """Connections to the server at `url` in one event loop."""

    url: str
    concurrency: Concurrency = field(default_factory=Concurrency)
    transport: httpx.AsyncBaseTransport | None = None
    """The network in the way that costs least if none is given."""
    client: httpx.AsyncClient = field(init=False)
    users: int = 0

    def __post_init__(self) -> None:
        self.transport = self.transport or _lean(self.url)
        self.client = httpx.AsyncClient(
            transport=self.transport,
            http2=may_be_http2(),
            follow_redirects=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=self.concurrency.ceiling),
        )

    async def send(self, request: httpx.Request) -> httpx.Response:
        """The response to a request, its body still to be read. What httpx's client would do to a request
        (a base URL, cookies, parameters, redirects) there is nothing of here, and it takes longer than
        sending, so a transport that is given is asked directly."""
        request.extensions["timeout"] = _TIMEOUT
        if self.transport is not None:
            return await self.transport.handle_async_request(request)
        return await self.client.send(request, stream=True)


_POOLS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Pool]] = WeakKeyDictionary()


def join(url: str) -> Pool:
    """The pool of the server at `url` in the running loop; `leave` it after use."""
    here = _POOLS.setdefault(asyncio.get_running_loop(), {})
    origin = _origin(url)
    if origin not in here:
        here[origin] = Pool(url)
    pool = here[origin]
    pool.users += 1
    return pool


async def leave(pool: Pool, url: str) -> None:
    """Leave a pool; the last one out closes its connections."""
    pool.users -= 1
    if pool.users == 0:
        _POOLS.get(asyncio.get_running_loop(), {}).pop(_origin(url), None)
        await pool.client.aclose()


def transport_to(url: str) -> httpx.AsyncBaseTransport:
    """Connections to the server at `url`: through the proxy that the environment names for it, else lean.

    Over lean ones a call takes a fraction of the CPU time it takes over httpx's own, whose pool looks at all
    of them for each request.

    Raises:
        OptionError: the proxy is none that can be spoken to.
    """
    proxy = _proxy_for(url)
    if proxy is None:
        return LeanTransport()
    try:
        return httpx.AsyncHTTPTransport(
            proxy=proxy if "://" in proxy else f"http://{proxy}",
            http2=may_be_http2(),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )
    except (ImportError, ValueError, httpx.InvalidURL):  # their words may tell the proxy's password
        raise OptionError(
            f"the proxy that the environment names for {_origin(url)} is no http:// or https:// one "
            "(socks5:// takes pip install socksio); set HTTP_PROXY or HTTPS_PROXY to one, or put the host "
            "into NO_PROXY"
        ) from None


def _lean(url: str) -> httpx.AsyncBaseTransport | None:
    """The same, but for HTTP/2, which is left to httpx's client."""
    if _proxy_for(url) is None and urlsplit(url).scheme == "https" and may_be_http2():
        return None
    return transport_to(url)


def _proxy_for(url: str) -> str | None:
    """The proxy between here and a server: HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, less NO_PROXY."""
    server, proxies = urlsplit(url), getproxies()
    host = server.netloc.rpartition("@")[2]
    if proxy_bypass(server.hostname or "") or proxy_bypass(host):
        return None
    return proxies.get(server.scheme) or proxies.get("all")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
