"""A model server that only waits: `python stub.py PORT [LATENCY_MS]`.

Answers /v1/models and /v1/chat/completions (whole or streamed, `n` honoured) after a fixed latency, as
cheaply as Python can, so that what is measured is what stands in front of it. With `--faults` a share of
requests is answered with 500, cut in the middle, or held for a second; with `--no-n` every answer has one
text whatever n says. GET /stats counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from contextlib import suppress
from typing import Any

TOKENS = 5
STATS = {"requests": 0, "running": 0, "peak": 0, "aborted": 0, "faults": 0}


class Stub:
    """One server."""

    def __init__(self, latency_s: float, faults: bool, n: bool) -> None:
        self.latency_s = latency_s
        self.draws = random.Random(0) if faults else None
        self.n = n

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                at = head.lower().find(b"content-length:")
                length = int(head[at + 15 : head.index(b"\r\n", at)]) if at >= 0 else 0
                body = await reader.readexactly(length) if length else b""
                if not await self.answer(head.split(b" ", 2)[1], body, writer):
                    break
        writer.close()

    async def answer(self, path: bytes, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection stays."""
        if path == b"/stats":
            return reply(writer, STATS)
        if path == b"/v1/models":
            return reply(writer, {"data": [{"id": "stub", "object": "model"}]})
        if path != b"/v1/chat/completions":
            return reply(writer, {"error": {"message": "Not Found", "code": 404}}, b"404 Not Found")
        STATS["requests"] += 1
        STATS["running"] += 1
        STATS["peak"] = max(STATS["peak"], STATS["running"])
        fault = self.draws.random() if self.draws else 1.0
        try:
            await asyncio.sleep(self.latency_s + (1.0 if 0.15 < fault < 0.2 else 0.0))
        except asyncio.CancelledError:
            STATS["aborted"] += 1
            raise
        finally:
            STATS["running"] -= 1
        if fault < 0.1:
            STATS["faults"] += 1
            return reply(writer, {"error": {"message": "overloaded"}}, b"500 Internal Server Error")
        asked = json.loads(body)
        if not self.n:
            asked["n"] = 1
        if fault < 0.15:
            STATS["faults"] += 1
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{")
            return False
        return streamed(writer, asked) if asked.get("stream") else reply(writer, whole(asked))


def text_of(asked: dict[str, Any], index: int) -> str:
    """Two in three say 42."""
    seed = asked.get("seed") or 0
    return "Answer: 41" if (seed + index) % 3 == 0 else "Answer: 42"


def usage(asked: dict[str, Any]) -> dict[str, int]:
    """The same for every text."""
    made = TOKENS * (asked.get("n") or 1)
    return {"prompt_tokens": 7, "completion_tokens": made, "total_tokens": 7 + made}


def whole(asked: dict[str, Any]) -> dict[str, Any]:
    """The answer as one object."""
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": text_of(asked, i)},
            "finish_reason": "stop",
            "logprobs": None,
        }
        for i in range(asked.get("n") or 1)
    ]
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": "stub",
        "choices": choices,
        "usage": usage(asked),
    }


def streamed(writer: asyncio.StreamWriter, asked: dict[str, Any]) -> bool:
    """The answer as events, all in one write."""
    shell = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": "stub"}
    events: list[dict[str, Any]] = []
    for i in range(asked.get("n") or 1):
        delta = {"role": "assistant", "content": text_of(asked, i)}
        events.append({**shell, "choices": [{"index": i, "delta": delta, "finish_reason": None}]})
        events.append({**shell, "choices": [{"index": i, "delta": {}, "finish_reason": "stop"}]})
    if (asked.get("stream_options") or {}).get("include_usage"):
        events.append({**shell, "choices": [], "usage": usage(asked)})
    said = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    said += b"data: [DONE]\n\n"
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(said) + said
    )
    return True


def reply(writer: asyncio.StreamWriter, said: dict[str, Any], status: bytes = b"200 OK") -> bool:
    """A JSON answer."""
    body = json.dumps(said).encode()
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % (status, len(body)) + body)
    return True


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("latency_ms", type=float, nargs="?", default=50.0)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--no-n", action="store_true")
    options = parser.parse_args()
    stub = Stub(options.latency_ms / 1000, options.faults, not options.no_n)
    server = await asyncio.start_server(stub.serve, "127.0.0.1", options.port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main())
    except ImportError:
        asyncio.run(main())
