"""Requests for a plain model behind a server pass through it, and its answers come back, byte for byte.

What is changed: the model's name where the server calls it differently, the `itscale` object, which
is ours, and (only where a key has a daily budget) the request for a usage chunk, which is then not
shown. Headers of the client do not travel; the server's key comes from the configuration alone.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx

from itscale.gateway.encoding import encoded
from itscale.gateway.faults import Fault, upstream_fault
from itscale.gateway.runtime import ServedModel
from itscale.models.openai.failures import retry_after_s
from itscale.models.openai.wire import Counts, counts_in
from itscale.version import __version__

__all__ = ["Passed", "ask", "stream", "usage_in"]

_AGENT = f"itscale/{__version__}"
CONNECT_S = 10.0
_MOST_BYTES = 256 * 1024 * 1024
_LONGEST_LINE = 1024 * 1024
"""Of a stream; a longer one is passed on as it is and not read for its usage."""


class Passed:
    """An answer that came."""

    __slots__ = ("body", "content_type", "counts")

    def __init__(self, body: bytes, content_type: str, counts: Counts | None) -> None:
        self.body = body
        self.content_type = content_type
        self.counts = counts
        """What it says it took."""


async def ask(served: ServedModel, route: str, body: bytes, said: Mapping[str, Any]) -> Passed:
    """The server's answer to `body`, which says `said`, at `/v1/{route}`.

    Raises:
        Fault: it refused, broke or was too slow.
    """
    async with _response(served, route, await _renamed(served, body, said)) as response:
        raw = await _read(response, served)
        return Passed(raw, response.headers.get("content-type", "application/json"), usage_in(raw))


async def stream(
    served: ServedModel,
    route: str,
    body: bytes,
    said: Mapping[str, Any],
    *,
    count: bool,
    counted: list[Counts],
) -> AsyncGenerator[bytes, None]:
    """The server's stream, byte for byte; what it says it took is put into `counted`.

    With `count` it is asked to say, and what the client did not ask for is left out.

    Raises:
        Fault: it refused, or broke before the first byte. Later, it breaks off the stream.
    """
    options = said.get("stream_options")
    asked = isinstance(options, dict) and bool(options.get("include_usage"))
    if count and not asked:
        said = {**said, "stream_options": {**(options or {}), "include_usage": True}}
        body = json.dumps(said).encode()
    async with _response(served, route, await _renamed(served, body, said)) as response:
        hidden = count and not asked
        pieces = _events(response) if hidden else _raw(response)
        reading = _Reading(counted)
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    told = reading.read(piece)
                    if not (hidden and told and b'"choices":[]' in piece.replace(b" ", b"")):
                        yield piece
                reading.read(b"\n")
        except httpx.RequestError as error:
            raise _broken(served, error) from None
        finally:
            if count and not counted:  # broken off, or a server that does not count: what is known at least
                counted.append(Counts(prompt=0, cached=0, generated=reading.events))


@asynccontextmanager
async def _response(served: ServedModel, route: str, body: bytes) -> AsyncIterator[httpx.Response]:
    """A response that is an answer, its body still to be read. Leaving closes it, also upstream."""
    address, transport = served.address, served.transport
    assert address is not None
    assert transport is not None
    url = f"{address.url}/{route}"
    headers = {"content-type": "application/json", "user-agent": _AGENT, "accept-encoding": "identity"}
    headers |= served.key.header_for(url) if served.key else {}
    limit = address.timeout_s
    request = httpx.Request("POST", url, content=body, headers=headers)
    request.extensions["timeout"] = {"connect": CONNECT_S, "read": limit, "write": limit, "pool": None}
    try:
        response = await transport.handle_async_request(request)
    except (httpx.ReadTimeout, httpx.WriteTimeout, TimeoutError):
        raise Fault(
            504,
            f"the model's server gave no answer within {limit:g} s; ask for less, or try later",
            code="upstream_timeout",
        ) from None
    except (httpx.RequestError, OSError) as error:
        raise _broken(served, error) from None
    try:
        if response.status_code != 200:
            raise await _refused(response, served)
        yield response
    finally:
        await response.aclose()


async def _read(response: httpx.Response, served: ServedModel) -> bytes:
    raw = bytearray()
    try:
        async for piece in response.aiter_raw():
            raw += piece
            if len(raw) > _MOST_BYTES:
                raise Fault(502, "the model's server answered without end; try again", code="upstream_error")
    except (httpx.RequestError, OSError) as error:
        raise _broken(served, error) from None
    return bytes(raw)


async def _refused(response: httpx.Response, served: ServedModel) -> Fault:
    raw = await _read(response, served)
    try:
        said = json.loads(raw)
    except ValueError:
        said = {}
    error = said.get("error", said) if isinstance(said, dict) else {}
    if not isinstance(error, dict):
        error = {"message": str(error)}
    text = str(error.get("message") or error.get("detail") or raw[:300].decode("utf-8", "replace"))
    if served.key is not None:
        text = served.key.masked(text)
    wait_s = retry_after_s(response.headers.get("retry-after"))
    return upstream_fault(response.status_code, {**error, "message": text}, wait_s)


def _broken(served: ServedModel, error: Exception) -> Fault:
    if isinstance(error, httpx.TimeoutException):
        return Fault(
            504, "the model's server fell silent; try again, or ask for less", code="upstream_timeout"
        )
    return Fault(
        502,
        f"the server of model {served.name!r} cannot be reached or broke off ({type(error).__name__}); "
        "try again later",
        code="upstream_error",
    )


async def _renamed(served: ServedModel, body: bytes, said: Mapping[str, Any]) -> bytes:
    """The very body where nothing in it is ours."""
    name = await served.upstream_name()
    if said.get("model") == name and "itscale" not in said:
        return body
    kept = {key: value for key, value in said.items() if key != "itscale"}
    return encoded({**kept, "model": name})


async def _raw(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    async for piece in response.aiter_raw():
        yield piece


async def _events(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Whole events, one at a time."""
    held = b""
    async for piece in response.aiter_raw():
        held += piece.replace(b"\r\n", b"\n")
        *whole, held = held.split(b"\n\n")
        for event in whole:
            yield event + b"\n\n"
    if held:
        yield held


def usage_in(raw: bytes) -> Counts | None:
    """The usage in an answer; None if it states none."""
    try:
        said = json.loads(raw)
    except ValueError:
        return None
    return counts_in(said) if isinstance(said, dict) else None


class _Reading:
    """Reads along in a stream of events for what it says it took, however its bytes are cut."""

    def __init__(self, counted: list[Counts]) -> None:
        self._counted = counted
        self.events = 0
        """That had a choice in them: each is a token or more."""
        self._line = b""
        """The beginning of a line whose end is still to come."""

    def read(self, piece: bytes) -> bool:
        """Take a piece in; whether a usage was in it, which then is the one that counts."""
        whole, end, rest = (self._line + piece if self._line else piece).rpartition(b"\n")
        self._line = rest if len(rest) <= _LONGEST_LINE else b""
        told = False
        if end:
            self.events += whole.count(b'"choices"')
        if end and b'"usage"' in whole:
            for line in whole.split(b"\n"):
                if line.startswith(b"data:") and b'"usage"' in line and (found := usage_in(line[5:].strip())):
                    self._counted[:] = [found]
                    told = True
        return told
