"""HTTP/1.1 with a limit on how long the head of a request may take, so that a thousand slow clients
hold nothing: uvicorn's protocol waits for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Guarded"]


class Guarded(HttpToolsProtocol):
    """Closes a connection whose request head is not complete in time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience_s: float = self.config.loaded_app.runtime.config.server.header_timeout_s
        self._impatient: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        if self._impatient is None:
            self._wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._calm()
        super().on_headers_complete()

    def _wait(self) -> None:
        self._impatient = self.loop.call_later(self._patience_s, self._close)

    def _calm(self) -> None:
        if self._impatient is not None:
            self._impatient.cancel()
            self._impatient = None

    def _close(self) -> None:
        self._impatient = None
        if not self.transport.is_closing():
            self.transport.abort()
