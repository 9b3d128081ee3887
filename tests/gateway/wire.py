"""Connections that end in this process: what an app sends arrives piece by piece, hanging up is heard."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx


class Wire(httpx.AsyncBaseTransport):
    """Each request runs the app in a task of its own; closing the response disconnects it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call = _Call(self.app, request, await request.aread())
        try:
            status, headers = await call.begun()
        except BaseException:
            await call.aclose()
            raise
        return httpx.Response(status, headers=headers, stream=call, request=request)


class _Call(httpx.AsyncByteStream):
    def __init__(self, app: Any, request: httpx.Request, body: bytes) -> None:
        self._sent: asyncio.Queue[Any] = asyncio.Queue()
        self._body: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
        self._gone = asyncio.Event()
        path = request.url.raw_path.partition(b"?")[0].decode()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": request.url.query,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": ("127.0.0.1", 1),
            "server": ("gateway", 80),
            "state": {},
        }
        self._task = asyncio.ensure_future(self._run(app, scope))

    async def _run(self, app: Any, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:  # noqa: BLE001  the other side sees it
            self._sent.put_nowait(error)
        else:
            self._sent.put_nowait(None)

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return self._body.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self._sent.put_nowait(message)

    async def begun(self) -> tuple[int, Any]:
        message = await self._sent.get()
        if isinstance(message, Exception):
            raise message
        return message["status"], message["headers"]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._sent.get()) is not None:
            if isinstance(message, Exception):
                raise message
            if message["body"]:
                yield message["body"]

    async def aclose(self) -> None:
        self._gone.set()
        done, _ = await asyncio.wait({self._task}, timeout=5.0)
        assert done, "the app went on after its client had hung up"


class Upstream:
    """A server that says what it is told to; it keeps what it was asked and who hung up."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.pieces: list[bytes] = [json.dumps(CHAT).encode()]
        self.hang_after: int | None = None
        """How many pieces before it falls silent."""
        self.running = 0
        self.hung_up_at: list[float] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if scope["path"].endswith("/models"):
            await _answer(send, 200, {}, [b'{"data":[{"id":"tiny"}]}'])
            return
        self.asked.append((scope["path"], headers, body))
        self.running += 1
        gone = asyncio.ensure_future(receive())
        answer = asyncio.ensure_future(self._answer(send))
        try:
            await asyncio.wait({gone, answer}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                self.hung_up_at.append(asyncio.get_running_loop().time())
        finally:
            self.running -= 1
            gone.cancel()
            answer.cancel()
            await asyncio.gather(gone, answer, return_exceptions=True)

    async def _answer(self, send: Any) -> None:
        if self.hang_after == 0:
            await asyncio.Event().wait()
        await _answer(send, self.status, self.headers, self.pieces, self.hang_after)


async def _answer(
    send: Any, status: int, headers: dict[str, str], pieces: list[bytes], hang_after: int | None = None
) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    for i, piece in enumerate(pieces):
        if i == hang_after:
            await asyncio.Event().wait()
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "tiny",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "42"}, "finish_reason": "stop", "extra": 1}
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}
"""What the upstream says, with a field nobody knows."""
