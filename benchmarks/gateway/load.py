"""Closed-loop load: so many clients, each asks again as soon as it is answered."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

__all__ = ["Load", "run_load"]


@dataclass
class Load:
    """What came of it. Times in seconds."""

    took: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    elapsed_s: float = 0.0

    @property
    def p50_ms(self) -> float:
        """Median latency."""
        return 1000 * statistics.median(self.took) if self.took else float("nan")

    def quantile_ms(self, q: float) -> float:
        """A quantile of the latency."""
        ordered = sorted(self.took)
        return 1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.took) / self.elapsed_s


async def run_load(
    url: str,
    body: dict[str, Any],
    clients: int,
    seconds: float,
    *,
    fan_out: int = 1,
    headers: dict[str, str] | None = None,
) -> Load:
    """`clients` clients for `seconds`; each request is `fan_out` calls at once, over when all are."""
    load, content = Load(), json.dumps(body).encode()
    sent = {"content-type": "application/json", **(headers or {})}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=120)

    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def call() -> str:
            try:
                async with session.post(url, data=content, headers=sent) as response:
                    await response.read()
                    return str(response.status)
            except (aiohttp.ClientError, TimeoutError) as error:
                return type(error).__name__

        async def client() -> None:
            while time.perf_counter() < end:
                began = time.perf_counter()
                told = await asyncio.gather(*(call() for _ in range(fan_out)))
                load.took.append(time.perf_counter() - began)
                worst = max(told)
                load.statuses[worst] = load.statuses.get(worst, 0) + 1

        began = time.perf_counter()
        end = began + seconds
        await asyncio.gather(*(client() for _ in range(clients)))
        load.elapsed_s = time.perf_counter() - began
    return load
