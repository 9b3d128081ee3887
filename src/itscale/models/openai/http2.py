"""HTTP/2 where a server offers it in the TLS handshake: needs `pip install "itscale[http2]"`.

httpx's own, with one thing added. When a request is given up, httpcore (1.0) forgets its stream without a
word, and the server works on; here the stream is reset (RFC 9113, section 5.4.2), so that it stops at once.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import Any

import httpx

__all__ = ["may_be_http2", "spoken"]


@functools.cache
def may_be_http2() -> bool:
    """Whether connections may be HTTP/2: its package is here, and streams can be reset.

    Elsewhere a server is spoken to over HTTP/1.1, where giving up closes the connection.
    """
    try:
        import h2.connection
        import h2.errors
        import h2.exceptions
        import httpcore
        from httpcore._async.http2 import AsyncHTTP2Connection
    except ImportError:
        return False
    closed: Any = getattr(AsyncHTTP2Connection, "_response_closed", None)
    if closed is None or not hasattr(AsyncHTTP2Connection, "_write_outgoing_data"):
        return False
    nobody = httpcore.Request("POST", "https://localhost")

    async def reset_and_closed(self: Any, stream_id: int) -> None:
        stream = self._h2_state.streams.get(stream_id)
        if stream is not None and not stream.closed:
            with suppress(h2.exceptions.ProtocolError, httpcore.NetworkError):
                self._h2_state.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
                await self._write_outgoing_data(nobody)
        await closed(self, stream_id)

    AsyncHTTP2Connection._response_closed = reset_and_closed  # type: ignore[method-assign]
    return True


def spoken(protocol: str | None, url: str) -> str | None:
    """What a server was found to speak, and what would make it more."""
    if protocol != "HTTP/2" and httpx.URL(url).scheme == "https" and not may_be_http2():
        return f'{protocol} (HTTP/2, where it is offered, takes pip install "itscale[http2]")'
    return protocol
