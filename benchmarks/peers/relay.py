"""What lets OptiLLM talk to the embedded reasoner: `python -m benchmarks.peers.relay PORT URL`.

OptiLLM sends every prompt as `User: ...` behind a system message, an empty one if there is none. The embedded
reasoner's chat template refuses system messages and its vocabulary has no such word, so without this relay
every answer would be an error. It takes the system message and that prefix off again, lowers max_tokens
(4,096 by default) to what the context holds, and passes everything else on.
"""

from __future__ import annotations

import sys
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

MOST_TOKENS = 128


def plain(body: dict[str, Any]) -> dict[str, Any]:
    """The request as the reasoner can read it."""
    kept = [dict(message) for message in body["messages"] if message["role"] != "system"]
    for message in kept:
        message["content"] = message["content"].removeprefix("User: ")
    return {**body, "messages": kept, "max_tokens": min(body.get("max_tokens") or MOST_TOKENS, MOST_TOKENS)}


def app(url: str) -> Starlette:
    """The relay in front of `url`."""
    client = httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None))

    async def complete(request: Request) -> Response:
        answer = await client.post(f"{url}/chat/completions", json=plain(await request.json()))
        return Response(answer.content, answer.status_code, media_type="application/json")

    async def models(_: Request) -> Response:
        answer = await client.get(f"{url}/models")
        return Response(answer.content, answer.status_code, media_type="application/json")

    return Starlette(
        routes=[
            Route("/v1/chat/completions", complete, methods=["POST"]),
            Route("/v1/models", models),
        ]
    )


if __name__ == "__main__":
    uvicorn.run(app(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
