"""What fake servers answer beside texts: plain objects, errors, and faults."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx


def ok(body: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"content-type": "application/json"}, json.dumps(body).encode()


def error(status: int, message: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    body = {"error": {"message": message, "type": "error", "code": status}}
    return (
        status,
        {name.replace("_", "-"): value for name, value in headers.items()},
        json.dumps(body).encode(),
    )


def fault(status: int, body: bytes | str = b"", **headers: str) -> Any:
    """A fault: this status and body instead of an answer."""

    async def answer() -> tuple[int, dict[str, str], bytes]:
        if isinstance(body, str):
            return error(status, body, **headers)
        return status, {name.replace("_", "-"): value for name, value in headers.items()}, body

    return answer


async def hang() -> tuple[int, dict[str, str], bytes]:
    """A fault: never an answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def cut() -> tuple[int, dict[str, str], bytes]:
    """A fault: the connection ends within the body."""
    raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")
