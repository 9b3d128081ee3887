"""Calls to one endpoint: pooled, bounded, retried, and abandoned at once when nobody waits any more.

Retries have full jitter (Brooker 2015, "Exponential Backoff and Jitter") and wait at least as long
as Retry-After asks. Redirects are not followed. The library's own draws are not used for jitter:
it must differ between processes, and changes no result.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, cast

import httpx

from itscale.models.openai.address import Address, Key
from itscale.models.openai.concurrency import Concurrency
from itscale.models.openai.failures import (
    Refused,
    Trouble,
    Unanswered,
    detail_of,
    error_in,
    refusal,
    retry_after_s,
)
from itscale.models.openai.pool import Pool, join, leave
from itscale.models.openai.stream import Assembly, Delta, Events
from itscale.models.openai.wire import Malformed
from itscale.version import __version__

__all__ = ["Call", "Endpoint"]

T = TypeVar("T")
ATTEMPTS = 5
BASE_DELAY_S = 0.5
LONGEST_DELAY_S = 20.0
LONGEST_RETRY_AFTER_S = 120.0
END_S = 1.0
"""How long a stream that is whole may take to end."""
_OVERLOADED = (429, 503)
_INVALID = "validation error"
"""llama-cpp-python's server answers 500 to a request it finds invalid; asking again is of no use."""
_PASSING = (408, 425, 500, 502, 504, *_OVERLOADED, 529)


@dataclass(slots=True)
class Call:
    """How far a call has come, also when it is cut off."""

    heard: Callable[[Assembly, Delta], None] | None = None
    """Told of every piece of a streamed answer, and what has come so far with it."""
    again: Callable[[Call], bool] = lambda _: True
    """Asked before an attempt is made again: whether it may be. It settles what the last one brought."""
    sent: int = 0
    """Attempts that went out."""
    wait_s: float = 0.0
    """How long the server wanted to be left alone after the last one."""
    worked_on: bool = False
    """Whether the server may have read the prompt of the last attempt."""
    assembly: Callable[[], Assembly] = Assembly
    """Puts the pieces of a streamed answer together."""
    came: Assembly = field(default_factory=Assembly)
    """What came of a streamed answer in the last attempt."""

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
        concurrency: how many calls at once; otherwise that of all who ask the same server.
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
        self.protocol: str | None = None
        """What the server speaks, as its last answer had it: HTTP/1.1 or HTTP/2."""
        self._key = key
        self._own = (concurrency or Concurrency(), transport) if concurrency or transport else None
        self._attempts = attempts
        self._sleep = sleep
        self._jitter = jitter or random.Random().random
        self._joined: tuple[asyncio.AbstractEventLoop, Pool] | None = None
        self._headers = {"Content-Type": "application/json", "User-Agent": f"itscale/{__version__}"}
        self._targets: dict[str, tuple[httpx.URL, list[tuple[bytes, bytes]]]] = {}
        """The URLs asked so far, parsed, each with the headers that go there."""

    def __repr__(self) -> str:
        return f"Endpoint({self.address.url!r})"

    @property
    def concurrency(self) -> Concurrency:
        """How many requests the server gets at a time, in the running loop."""
        return self._pool().concurrency

    async def get(self, url: str) -> dict[str, Any]:
        """The JSON object at `url`.

        Raises:
            Refused: the server said no.
            ModelError: no usable answer after all attempts.
        """
        return await self._call("GET", url, None, Call(), min(self._attempts, 2))

    async def post(self, url: str, body: Mapping[str, Any], call: Call | None = None) -> dict[str, Any]:
        """The JSON object `url` answers to `body`, put together if it came as a stream.

        Cancelling it closes its connection at once.

        Raises:
            Refused: the server said no.
            ModelError: no usable answer after all attempts.
        """
        return await self._call("POST", url, json.dumps(body).encode(), call or Call(), self._attempts)

    def alone(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `work` with this endpoint comes to, whether or not a loop is running here.

        It has a thread and a loop of its own, and its connections are closed after it. Raises what it raises.
        """
        came: list[T] = []
        failed: list[BaseException] = []

        async def then_closed() -> T:
            try:
                return await work()
            finally:
                await self.close()

        def run() -> None:
            try:
                came.append(asyncio.run(then_closed()))
            except BaseException as error:  # noqa: BLE001  raised again in the thread that asked
                failed.append(error)

        thread = threading.Thread(target=run, name="itscale-probe", daemon=True)
        thread.start()
        thread.join()
        for error in failed:
            raise error
        [result] = came
        return result

    async def close(self) -> None:
        """Leave the pool of connections; the next call joins one again."""
        joined, self._joined = self._joined, None
        if joined is not None and joined[0] is asyncio.get_running_loop():
            if self._own:
                await joined[1].client.aclose()
            else:
                await leave(joined[1], self.address.url)

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
                wait_s = call.wait_s = trouble.wait_s or 0.0
                enough = attempt >= attempts or (trouble.slow and attempt > 1)
                if enough or wait_s > LONGEST_RETRY_AFTER_S or not call.again(call):
                    told = self.masked(f"{url} {trouble}")
                    raise Unanswered(told, trouble.status, trouble.wait_s, trouble.error) from None
            ceiling = min(LONGEST_DELAY_S, BASE_DELAY_S * 2 ** (attempt - 1))
            await self._sleep(wait_s + ceiling * self._jitter())

    async def _attempt(self, method: str, url: str, body: bytes | None, call: Call) -> dict[str, Any]:
        overloaded = succeeded = False
        slots = self.concurrency
        mark = await slots.acquire()
        try:
            call.sent += 1
            call.worked_on = True
            call.came = call.assembly()
            answer = await self._answer(method, url, body, call)
            succeeded = True
        except Trouble as trouble:
            overloaded, call.worked_on = trouble.overloaded, not trouble.unread
            raise
        except Refused:
            call.worked_on = False
            raise
        finally:
            slots.release(mark, overloaded=overloaded, succeeded=succeeded)
        return answer

    async def _answer(self, method: str, url: str, body: bytes | None, call: Call) -> dict[str, Any]:
        limit = self.address.timeout_s
        try:
            async with asyncio.timeout(limit):
                response = await self._pool().send(self._request(method, url, body))
                try:
                    self.protocol = response.http_version
                    kind = response.headers.get("content-type", "")
                    if response.status_code == 200 and kind.startswith("text/event-stream"):
                        return await self._heard(response, url, body, call)
                    await response.aread()
                    return self._checked(response, url, body)
                finally:
                    await response.aclose()
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

    def _request(self, method: str, url: str, body: bytes | None) -> httpx.Request:
        """The request, out of parts that are made once: parsing a URL takes longer than sending."""
        if url not in self._targets:
            target = httpx.URL(url)
            headers = self._headers | (self._key.header_for(url) if self._key else {})
            self._targets[url] = target, httpx.Request("GET", target, headers=headers).headers.raw
        target, shared = self._targets[url]
        sent = [*shared, (b"Content-Length", str(len(body or b"")).encode())]
        return httpx.Request(method, target, headers=sent, stream=httpx.ByteStream(body or b""))

    async def _heard(
        self, response: httpx.Response, url: str, body: bytes | None, call: Call
    ) -> dict[str, Any]:
        """A streamed answer, to its end."""
        coded = "content-encoding" in response.headers
        blocks = aiter(response.aiter_bytes() if coded else cast("httpx.AsyncByteStream", response.stream))
        events, ended = Events(), False
        while not ended:
            block = await anext(blocks, None)
            ended = block is None
            for event in events.end() if block is None else events.feed(block):
                if event != b"[DONE]":
                    self._taken(event, url, body, call)
                if event == b"[DONE]" or call.came.over:
                    await _to_the_end(blocks)
                    return call.came.body()
        raise Trouble("ended its answer before it was whole; see the server's log")

    def _taken(self, event: bytes, url: str, body: bytes | None, call: Call) -> None:
        """One piece of a streamed answer, put behind those before it."""
        try:
            said = json.loads(event.decode())
            if "error" in said:
                self._raise_for(_status_in(said), event, None, url, body)
            deltas = call.came.add(said)
        except (ValueError, TypeError, AttributeError) as error:
            why = f": {error}" if isinstance(error, Malformed) else ""
            raise Trouble(f"streamed something that is no piece of an answer{why}") from None
        if call.heard is not None:
            for delta in deltas:
                call.heard(call.came, delta)

    def _checked(self, response: httpx.Response, url: str, body: bytes | None) -> dict[str, Any]:
        """The JSON object in a response; anything else raises."""
        if response.status_code >= 300:
            wait_s = retry_after_s(response.headers.get("retry-after"))
            self._raise_for(response.status_code, response.content, wait_s, url, body)
        try:
            answer = json.loads(response.content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Trouble("answered something that is no JSON object; is it an OpenAI-compatible server?")
        return answer

    def _raise_for(
        self, status: int, content: bytes, wait_s: float | None, url: str, body: bytes | None
    ) -> NoReturn:
        """The error that a status, and what came with it, stand for."""
        detail = self.masked(detail_of(content))
        if status == 500 and _INVALID in detail:
            status = 422
        if status in _PASSING:
            raise Trouble(
                f"answered {status} ({detail}); try later, or ask for less at once",
                overloaded=status in _OVERLOADED,
                unread=status in _OVERLOADED,
                wait_s=wait_s,
                status=status,
                error=error_in(content),
            )
        model = str(json.loads(body).get("model", "")) if body else self.address.model
        raise refusal(status, detail, url, model, keyed=self._key is not None, error=error_in(content))

    def _pool(self) -> Pool:
        """The pool of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._joined is None or self._joined[0] is not loop:
            self._joined = (loop, Pool(self.address.url, *self._own) if self._own else join(self.address.url))
        return self._joined[1]


async def _to_the_end(blocks: AsyncIterator[bytes]) -> None:
    """Read to its end, a body leaves its connection to the next call."""
    if getattr(blocks, "whole", False):
        return
    with suppress(TimeoutError, httpx.RequestError):
        async with asyncio.timeout(END_S):
            async for _ in blocks:
                pass


def _status_in(said: Mapping[str, Any]) -> int:
    """The status an error within a stream names; a fault of the server's if it names none."""
    error = said["error"]
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500
