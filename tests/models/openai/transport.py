"""Requests to an application in the test's own event loop, whose answers come piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx


class Transport(httpx.AsyncBaseTransport):
    """Requests to an application in this event loop, its answers piece by piece (httpx's own waits)."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        scope = {"type": "http", "path": request.url.path, "headers": headers}
        sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue(1)  # a server does not run ahead of its reader

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        task = asyncio.ensure_future(self._app(scope, receive, sent.put))
        pieces = _Pieces(task, sent)
        try:
            start = await pieces.next()
        except BaseException:
            await pieces.aclose()
            raise
        return httpx.Response(start["status"], headers=start["headers"], stream=pieces)


class _Pieces(httpx.AsyncByteStream):
    """What an application sends, until it is done, fails or nobody listens any more."""

    def __init__(self, task: asyncio.Future[None], sent: asyncio.Queue[dict[str, Any]]) -> None:
        self._task = task
        self._sent = sent

    async def next(self) -> dict[str, Any]:
        getting = asyncio.ensure_future(self._sent.get())
        try:
            await asyncio.wait([getting, self._task], return_when=asyncio.FIRST_COMPLETED)
            if not getting.done() and self._sent.empty():
                self._task.result()  # its error, if it had one
                raise AssertionError("the application ended without an answer")
            return await getting
        finally:
            getting.cancel()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self.next()
            more = message.get("more_body", False)
            yield message["body"]

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


class Sleeps:
    """Time that passes at once, and is written down."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)
