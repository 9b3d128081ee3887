"""HTTP/1.1 with as little between a call and its socket as Python allows: httptools parses, asyncio carries.

A gateway makes many calls for each request it answers, so what one costs decides how much it carries: a
call through httpx's own connections takes about a millisecond of CPU time, through these a tenth of it.

Laws: a response that is closed before it was read to its end closes its connection, so that the server
hears of it at once; a connection is used again only when the answer before has come whole; bytes nobody
takes are not read from the socket without end.

Not covered: HTTP/2, proxies, redirects, compressed bodies (nothing here asks for one).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import TypeAlias, cast

import httptools
import httpx

__all__ = ["LeanTransport"]

KEEP_ALIVE_S = 4.0
"""Less than the 5 s after which uvicorn-based servers close an idle connection, so that no request
meets a closing one."""
_MOST_UNREAD = 256 * 1024
"""Bytes of a body that may lie unread before its socket is left alone."""
Origin: TypeAlias = tuple[bytes, str, int]
"""Scheme, host and port."""


class LeanTransport(httpx.AsyncBaseTransport):
    """Connections to servers, kept for the next call for `keep_alive_s` seconds.

    Of a request's timeouts `connect` and `read` hold; `read` is for each wait, as in httpx.
    """

    def __init__(self, *, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._keep_alive_s = keep_alive_s
        self._idle: dict[Origin, deque[_Connection]] = {}
        self._open: set[_Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._secure: ssl.SSLContext | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The response, its body still to be read.

        Raises:
            httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.ReadTimeout,
            httpx.RemoteProtocolError: as httpx's own connections do.
        """
        url = request.url
        limits = request.extensions.get("timeout", {})
        origin = url.raw_scheme, url.host, url.port or (443 if url.scheme == "https" else 80)
        body = await request.aread()
        connection = self._kept(origin) or await self._connected(origin, limits.get("connect"))
        try:
            connection.send(_head(request) + body)
            connection.patience_s = limits.get("read")
            status = await connection.begun()
        except BaseException:
            connection.abort()
            raise
        return httpx.Response(
            status,
            headers=connection.headers,
            stream=_Body(self, connection),
            extensions={"http_version": b"HTTP/1.1"},
        )

    async def aclose(self) -> None:
        """Close every connection, those in use too."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in list(self._open):
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # closed sockets leave the loop in its next turn

    def release(self, connection: _Connection) -> None:
        """A response is over: keep its connection, or close it."""
        if not connection.reusable:
            connection.abort()
            return
        connection.idle_since = connection.loop.time()
        self._idle.setdefault(connection.origin, deque()).append(connection)
        if self._sweep is None:
            self._sweep = connection.loop.call_later(self._keep_alive_s, self._expire)

    def made(self, connection: _Connection) -> None:
        """A connection is open."""
        self._open.add(connection)

    def lost(self, connection: _Connection) -> None:
        """A connection is closed."""
        self._open.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None and connection in idle:
            idle.remove(connection)

    def _kept(self, origin: Origin) -> _Connection | None:
        """An open connection that nobody uses, the one used last."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            fresh = connection.loop.time() - connection.idle_since < self._keep_alive_s
            if fresh and connection.reusable:
                return connection
            connection.abort()
        return None

    def _expire(self) -> None:
        self._sweep = None
        for idle in self._idle.values():
            while idle and idle[0].loop.time() - idle[0].idle_since >= self._keep_alive_s:
                idle.popleft().abort()
        oldest = min((idle[0] for idle in self._idle.values() if idle), key=_since, default=None)
        if oldest is not None:
            wait_s = oldest.idle_since + self._keep_alive_s - oldest.loop.time()
            self._sweep = oldest.loop.call_later(max(0.01, wait_s), self._expire)

    async def _connected(self, origin: Origin, limit_s: float | None) -> _Connection:
        loop = asyncio.get_running_loop()
        scheme, host, port = origin
        secure = None
        if scheme == b"https":
            secure = self._secure = self._secure or httpx.create_ssl_context()
        made = _Connection(self, origin, loop)
        try:
            async with asyncio.timeout(limit_s):
                await loop.create_connection(lambda: made, host, port, ssl=secure)
        except TimeoutError:
            raise httpx.ConnectTimeout(f"no connection within {limit_s} s") from None
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        return made


def _since(connection: _Connection) -> float:
    return connection.idle_since


def _head(request: httpx.Request) -> bytes:
    lines = [b"%b %b HTTP/1.1\r\n" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%b: %b\r\n" % pair for pair in request.headers.raw]
    lines.append(b"\r\n")
    return b"".join(lines)


class _Body(httpx.AsyncByteStream):
    """The rest of a response, as it comes. An iterator of its own: generators cost more than sockets."""

    def __init__(self, transport: LeanTransport, connection: _Connection) -> None:
        self._transport = transport
        self._connection: _Connection | None = connection

    @property
    def whole(self) -> bool:
        """Whether all of it has come, so that reading it to its end waits for nothing."""
        return self._connection is None or self._connection.whole

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._connection.piece() if self._connection is not None else None
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport.release(connection)


class _Connection(asyncio.Protocol):
    """One socket; one request at a time."""

    def __init__(self, owner: LeanTransport, origin: Origin, loop: asyncio.AbstractEventLoop) -> None:
        self.origin = origin
        self.loop = loop
        self.idle_since = 0.0
        self.patience_s: float | None = None
        """How long a wait for more may take."""
        self.headers: list[tuple[bytes, bytes]] = []
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._pieces: deque[bytes] = deque()
        self._unread = 0
        self._paused = False
        self._status = 0
        self.whole = True
        """Whether the last response has come to its end."""
        self._kept_alive = True
        self._sized = False
        """Whether the response says where it ends; otherwise it ends with the connection."""
        self._error: Exception | None = None

    @property
    def reusable(self) -> bool:
        """Whether another request may go out on it."""
        transport = self._transport
        open_ = transport is not None and not transport.is_closing()
        return open_ and self.whole and self._kept_alive and self._error is None

    def send(self, request: bytes) -> None:
        """Send a request, whole. Raises httpx.ReadError if the server has closed the connection meanwhile."""
        if self._transport is None or self._transport.is_closing():
            raise httpx.ReadError("the server closed the connection before it was asked")
        self._status, self.whole, self._sized = 0, False, False
        self.headers = []
        self._pieces.clear()  # of an answer that came whole and was not read to its end
        self._unread = 0
        self._transport.write(request)

    async def begun(self) -> int:
        """The status, once the head of the response is there."""
        while not self._status:
            await self._more()
        return self._status

    async def piece(self) -> bytes | None:
        """The next piece of the body; None at its end."""
        while not self._pieces:
            if self.whole:
                return None
            await self._more()
        if len(self._pieces) == 1:
            piece = self._pieces.popleft()
        else:
            piece = b"".join(self._pieces)
            self._pieces.clear()
        self._unread = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return piece

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    async def _more(self) -> None:
        """Wait until something has come. Raises what has broken it."""
        if self._error is not None:
            raise self._error
        self._waiter = self.loop.create_future()
        try:
            if self.patience_s is None:
                await self._waiter
            else:
                async with asyncio.timeout(self.patience_s):
                    await self._waiter
        except TimeoutError:
            raise httpx.ReadTimeout(f"nothing came for {self.patience_s} s") from None
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass
        self._owner.made(self)

    def data_received(self, data: bytes) -> None:
        if self.whole:  # nobody asked
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._broken(httpx.RemoteProtocolError(f"no HTTP response ({error})"))
            self.abort()
        if self._unread > _MOST_UNREAD and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.lost(self)
        if not self.whole:
            if self._status and not self._sized and exc is None and self._error is None:
                self.whole, self._kept_alive = True, False  # it ends where the connection ends
            elif exc is not None:
                self._broken(httpx.ReadError(str(exc)))
            else:
                self._broken(httpx.RemoteProtocolError("the server closed the connection in its answer"))
        self._wake()

    def _broken(self, error: Exception) -> None:
        self._error = self._error or error

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._status:
            self._broken(httpx.RemoteProtocolError("the server answered more than it was asked"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._error is not None:
            return
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._error is not None:
            return
        status = self._parser.get_status_code()
        if status < 200:  # a word before the response
            self.headers = []
            return
        self._sized = any(name.lower() in _ENDS for name, _ in self.headers) or status in (204, 304)
        self._kept_alive = self._parser.should_keep_alive()
        self._status = status

    def on_body(self, body: bytes) -> None:
        if self._error is not None:
            return
        self._pieces.append(body)
        self._unread += len(body)

    def on_message_complete(self) -> None:
        self.whole = self._status != 0


_ENDS = (b"content-length", b"transfer-encoding")
