"""Calls to one endpoint: pooled, bounded, retried, and abandoned at once when nobody waits any more.

Retries have full jitter (Brooker 2015, "Exponential Backoff and Jitter") and wait at least as long
as Retry-After asks. Redirects are not followed. The library's own draws are not used for jitter:
it must differ between processes, and changes no result.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from itscale.errors import ModelError
from itscale.models.openai.address import Address, Key
from itscale.models.openai.concurrency import Concurrency
from itscale.models.openai.failures import Refused, Trouble, detail_of, refusal, retry_after_s
from itscale.version import __version__

__all__ = ["Call", "Endpoint"]

ATTEMPTS = 5
BASE_DELAY_S = 0.5
LONGEST_DELAY_S = 20.0
LONGEST_RETRY_AFTER_S = 120.0
CONNECT_S = 10.0
_OVERLOADED = (429, 503)
_PASSING = (408, 425, 500, 502, 504, *_OVERLOADED, 529)


@dataclass(slots=True)
class Call:
    """How far a call has come, also when it is cut off."""

    sent: int = 0
    """Attempts that went out."""
    worked_on: bool = False
    """Whether the server may have read the prompt of the last attempt."""

    @property
    def retries(self) -> int:
        """Attempts after the first."""
        return max(0, self.sent - 1)


class Endpoint:
    """One server, and everything that all calls to it share.

    Args:
        address: where it is; `timeout_s` limits one attempt.
        key: sent to the address's host and nowhere else.
        transport: for tests; the network otherwise.
        concurrency: how many calls at once.
        attempts: of one call, the first included.
        sleep: waits some seconds.
        jitter: a number in [0, 1).
    """

    def __init__(
        self,
        address: Address,
        key: Key | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        concurrency: Concurrency | None = None,
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] | None = None,
    ) -> None:
        self.address = address
        self.concurrency = concurrency or Concurrency()
        self._key = key
        self._transport = transport
        self._attempts = attempts
        self._sleep = sleep
        self._jitter = jitter or random.Random().random
        self._pool: tuple[asyncio.AbstractEventLoop, httpx.AsyncClient] | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.address.url!r})"

    async def get(self, url: str) -> dict[str, Any]:
        """The JSON object at `url`.

        Raises:
            Refused: the server said no.
            ModelError: no usable answer after all attempts.
        """
        return await self._call("GET", url, None, Call(), min(self._attempts, 2))

    async def post(self, url: str, body: Mapping[str, Any], call: Call | None = None) -> dict[str, Any]:
        """The JSON object `url` answers to `body`. Cancelling it closes its connection at once.

        Raises:
            Refused: the server said no.
            ModelError: no usable answer after all attempts.
        """
        return await self._call("POST", url, json.dumps(body).encode(), call or Call(), self._attempts)

    async def close(self) -> None:
        """Close the pooled connections; the next call opens new ones."""
        pool, self._pool = self._pool, None
        if pool is not None and pool[0] is asyncio.get_running_loop():
            await pool[1].aclose()

    def masked(self, text: str) -> str:
        """`text` without the key in it."""
        return text if self._key is None else self._key.masked(text)

    async def _call(
        self, method: str, url: str, body: bytes | None, call: Call, attempts: int
    ) -> dict[str, Any]:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._attempt(method, url, body, call)
            except Trouble as trouble:
                wait_s = trouble.wait_s or 0.0
                if attempt >= attempts or (trouble.slow and attempt > 1) or wait_s > LONGEST_RETRY_AFTER_S:
                    raise ModelError(self.masked(f"{url} {trouble}")) from None
            ceiling = min(LONGEST_DELAY_S, BASE_DELAY_S * 2 ** (attempt - 1))
            await self._sleep(wait_s + ceiling * self._jitter())

    async def _attempt(self, method: str, url: str, body: bytes | None, call: Call) -> dict[str, Any]:
        overloaded = succeeded = False
        mark = await self.concurrency.acquire()
        try:
            call.sent += 1
            call.worked_on = True
            response = await self._respond(method, url, body)
            answer = self._checked(response, url, body)
            succeeded = True
        except Trouble as trouble:
            overloaded, call.worked_on = trouble.overloaded, not trouble.unread
            raise
        except Refused:
            call.worked_on = False
            raise
        finally:
            self.concurrency.release(mark, overloaded=overloaded, succeeded=succeeded)
        return answer

    async def _respond(self, method: str, url: str, body: bytes | None) -> httpx.Response:
        limit = self.address.timeout_s
        headers = {"Content-Type": "application/json", "User-Agent": f"itscale/{__version__}"}
        headers |= self._key.header_for(url) if self._key else {}
        try:
            async with asyncio.timeout(limit):
                return await self._client().request(method, url, content=body, headers=headers)
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout):
            raise Trouble(
                f"gave no answer within {limit:g} s; raise the limit with #timeout=SECONDS, or ask for less",
                overloaded=True,
                slow=True,
            ) from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            why = str(error) or type(error).__name__
            raise Trouble(
                f"cannot be reached ({why}); is the server running, and the URL right?", unread=True
            ) from None
        except httpx.RequestError as error:
            raise Trouble(
                f"broke the connection off ({type(error).__name__}); see the server's log"
            ) from None

    def _checked(self, response: httpx.Response, url: str, body: bytes | None) -> dict[str, Any]:
        """The JSON object in a response; anything else raises."""
        status = response.status_code
        if status in _PASSING:
            raise Trouble(
                f"answered {status} ({detail_of(response.content)}); try later, or ask for less at once",
                overloaded=status in _OVERLOADED,
                unread=status in _OVERLOADED,
                wait_s=retry_after_s(response.headers.get("retry-after")),
            )
        if status >= 300:
            model = str(json.loads(body).get("model", "")) if body else self.address.model
            detail = self.masked(detail_of(response.content))
            raise refusal(status, detail, url, model, keyed=self._key is not None)
        try:
            answer = json.loads(response.content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Trouble("answered something that is no JSON object; is it an OpenAI-compatible server?")
        return answer

    def _client(self) -> httpx.AsyncClient:
        """The pool of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._pool is None or self._pool[0] is not loop:
            client = httpx.AsyncClient(
                transport=self._transport,
                http2=importlib.util.find_spec("h2") is not None,
                follow_redirects=False,
                timeout=httpx.Timeout(self.address.timeout_s, connect=CONNECT_S, pool=None),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=self.concurrency.ceiling),
            )
            self._pool = (loop, client)
        return self._pool[1]
