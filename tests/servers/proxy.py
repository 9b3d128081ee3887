"""A proxy that writes down what a server is asked to generate, before the server sees it.

Beside a real server it is what an independent meter is: nothing of itscale's client runs in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

__all__ = ["Log", "body_of", "metered"]


class Log:
    """Lines of a file that several processes append to, each there before the next thing happens."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def add(self, word: str, what: str) -> None:
        os.write(self._descriptor, f"{word} {what}\n".encode())

    def close(self) -> None:
        os.close(self._descriptor)

    @staticmethod
    def read(file: Path) -> list[tuple[str, str]]:
        """What was added, in order."""
        lines = (line.partition(" ") for line in file.read_text().splitlines())
        return [(word, what) for word, _, what in lines]


def body_of(fields: dict[str, object]) -> str:
    """A request's fields in one spelling."""
    return json.dumps(fields, sort_keys=True)


@contextmanager
def metered(url: str, log: Path) -> Iterator[str]:
    """The URL of a proxy before the server at `url`: `asked BODY` is logged as a generation is asked for."""
    parts, lines = urlsplit(url), Log(log)
    client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None))

    async def forward(request: Request) -> Response:
        body = await request.body()
        if request.url.path.endswith(("/completion", "/completions")):
            lines.add("asked", body_of(json.loads(body)))
        passed = client.build_request(
            request.method,
            f"{parts.scheme}://{parts.netloc}{request.url.path}",
            content=body,
            headers={"content-type": "application/json"},
        )
        answer = await client.send(passed, stream=True)

        async def blocks() -> AsyncIterator[bytes]:
            try:
                async for block in answer.aiter_raw():
                    yield block
            finally:
                await answer.aclose()  # also when the client is gone, so that the server stops too

        kind = {"content-type": answer.headers.get("content-type", "application/json")}
        return StreamingResponse(blocks(), answer.status_code, kind)

    app = Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST"])])
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))

        async def serve() -> None:
            async with client:
                await server.serve([listening])

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}{parts.path}"
        finally:
            server.should_exit = True
            thread.join(30)
            lines.close()
