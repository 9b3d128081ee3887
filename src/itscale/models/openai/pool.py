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

from itscale.models.openai.concurrency import Concurrency
from itscale.models.openai.connections import LeanTransport
from itscale.models.openai.http2 import may_be_http2

__all__ = ["Pool", "join", "leave"]

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


def _lean(url: str) -> httpx.AsyncBaseTransport | None:
    """Connections over which a call takes a fraction of the CPU time it takes over httpx's own, whose pool
    looks at all of them for each request. Left to httpx: HTTP/2 and proxies."""
    server = urlsplit(url)
    proxies = getproxies()
    proxied = (server.scheme in proxies or "all" in proxies) and not proxy_bypass(server.hostname or "")
    if proxied or (server.scheme == "https" and may_be_http2()):
        return None
    return LeanTransport()


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
