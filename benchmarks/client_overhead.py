"""What our client adds to a call, and what it leaves behind: `python -m benchmarks.client_overhead`.

A stub in a process of its own answers at once (at 1,000 in flight after 200 ms, so that so many really are).
In turns the same request is sent by a pooled `httpx.AsyncClient`, which reads the bytes and does nothing
with them, and by `OpenAIModel.extend`, which also builds the request, bounds how many are in flight, parses
the answer into steps and keeps the account. Both run in this process, in one event loop. At 1,000 in flight
ours runs alone: httpx's pool looks at every connection for each request, and takes minutes there.

Milliseconds a call are latencies; at more than one in flight they are mostly waiting for each other, so
there the CPU time of this process is what to read. Afterwards: 1,000 calls in flight again and again, three
in ten of them cancelled in the middle; then nothing may have stayed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import httpx

from benchmarks.client.stub import Faults, bill, misbehave, stub
from itscale.budget import Budget, Ledger
from itscale.models.openai.address import Address
from itscale.models.openai.client import Endpoint
from itscale.models.openai.concurrency import Concurrency
from itscale.models.openai.model import OpenAIModel
from itscale.randomness import Seeded
from itscale.types import Path, Prompt, Sampling, Until

__all__ = ["Left", "Timed", "leaks", "overhead"]

MANY = 1000
ROOT = Path.root(Prompt.user("What is 6 * 7?"))
Call = Callable[[int], Awaitable[Any]]


@dataclass
class Timed:
    """Calls of one client."""

    latencies_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0

    def ms(self, q: float) -> float:
        """A quantile of the latency."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))]

    @property
    def cpu_ms(self) -> float:
        """CPU time a call of this process."""
        return 1000 * self.cpu_s / len(self.latencies_s)

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.latencies_s) / self.wall_s

    async def run(self, call: Call, calls: int, in_flight: int) -> None:
        """So many more calls, so many at a time."""
        left = iter(range(len(self.latencies_s), len(self.latencies_s) + calls))

        async def caller() -> None:
            for i in left:
                began = time.perf_counter()
                await call(i)
                self.latencies_s.append(time.perf_counter() - began)

        began, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller() for _ in range(in_flight)))
        self.wall_s += time.perf_counter() - began
        self.cpu_s += time.process_time() - used


async def connected(url: str, in_flight: int) -> OpenAIModel:
    """Our client, which may have so many requests in flight from the start."""
    address = Address("stub", url, boundary="\n")
    return await OpenAIModel.connect(Endpoint(address, concurrency=Concurrency(in_flight, in_flight)))


async def overhead(
    url: str, in_flight: int, calls: int, rounds: int, *, streams: bool
) -> tuple[Timed, Timed]:
    """Raw and ours, in turns; at MANY ours alone."""
    misbehave(url, Faults(streams=streams))
    model = await connected(url, in_flight)
    misbehave(url, Faults(streams=streams, latency_s=0.2 if in_flight == MANY else 0.0))
    alone = in_flight == MANY
    sent = await model._dialect.request(ROOT, Until("end", 64), Sampling())
    assert sent is not None
    content = json.dumps({**sent.body, "seed": 1}).encode()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=in_flight)
    ledger, raw, ours = Ledger(Budget()), Timed(), Timed()
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:

        async def plain(_: int) -> None:
            response = await client.post(
                sent.url, content=content, headers={"Content-Type": "application/json"}
            )
            assert response.status_code == 200

        async def extend(i: int) -> None:
            [path] = await model.extend(ROOT, 1, Until("end", 64), Sampling(), Seeded(i), ledger)
            assert path.finished

        for call in [extend] if alone else [plain, extend]:
            await Timed().run(call, in_flight, in_flight)  # connections
        for _ in range(rounds):
            if not alone:
                await raw.run(plain, calls, in_flight)
            await ours.run(extend, calls, in_flight)
    await model.close()
    return raw, ours


@dataclass(frozen=True)
class Left:
    """What is there after 1,000 calls were in flight."""

    tasks: int
    files: int
    in_flight: int
    resident_mb: float
    answered: int
    cancelled: int
    peak: int
    """Requests the stub had at once."""


async def leaks(url: str, rounds: int, in_flight: int = MANY, latency_s: float = 4.0) -> list[Left]:
    """What is left after each round: before the first (with one call made), after each, and once closed."""
    misbehave(url, Faults())
    model = await connected(url, in_flight)
    ledger = Ledger(Budget())

    async def call(i: int) -> None:
        await model.extend(ROOT, 1, Until("end", 64), Sampling(), Seeded(i), ledger)

    async def one_round() -> tuple[int, int]:
        tasks = [asyncio.create_task(call(i)) for i in range(in_flight)]
        async with asyncio.timeout(latency_s):
            while (await asyncio.to_thread(bill, url))["running"] < in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # what it waits for is in another process
        for task in tasks[::10] + tasks[3::10] + tasks[7::10]:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        cancelled = sum(isinstance(end, asyncio.CancelledError) for end in ended)
        failed = [end for end in ended if isinstance(end, Exception)]
        assert not failed, failed[0]
        return len(ended) - cancelled, cancelled

    async def left(answered: int, cancelled: int) -> Left:
        await asyncio.sleep(0.1)
        gc.collect()
        files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  a Path has no such thing without a loop's wait
        tasks = len(asyncio.all_tasks())
        slots = model.endpoint.concurrency.in_flight
        return Left(tasks, files, slots, resident_mb(), answered, cancelled, bill(url)["peak"])

    await call(0)
    before = await left(1, 0)
    misbehave(url, Faults(latency_s=latency_s))
    told = [before, *[await left(*await one_round()) for _ in range(rounds)]]
    await model.close()
    return [*told, await left(0, 0)]


def resident_mb() -> float:
    """Memory of this process."""
    return int(FilePath("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000, help="a round, of each client")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with stub() as url:
        print("| answer | in flight | client | median ms | p95 ms | CPU ms a call | calls/s |")
        print("|---|---:|---|---:|---:|---:|---:|")
        for streams in (False, True):
            for in_flight in (1, 32, 128, MANY):
                both = asyncio.run(overhead(url, in_flight, options.calls, options.rounds, streams=streams))
                for name, timed in zip(("raw httpx", "itscale"), both, strict=True):
                    if timed.latencies_s:
                        row = f"| {'streamed' if streams else 'whole'} | {in_flight:,} | {name} |"
                        row += f" {timed.ms(0.5):.2f} | {timed.ms(0.95):.2f} | {timed.cpu_ms:.2f} |"
                        print(f"{row} {timed.rate:,.0f} |", flush=True)
        print("\n| after | tasks | open files | slots taken | memory MB | answered | cancelled | at once |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
        told = asyncio.run(leaks(url, options.rounds))
        names = ["one call", *(f"round {i + 1} of {MANY:,}" for i in range(options.rounds)), "closed"]
        for name, left in zip(names, told, strict=True):
            print(
                f"| {name} | {left.tasks} | {left.files} | {left.in_flight} | {left.resident_mb:.1f} "
                f"| {left.answered} | {left.cancelled} | {left.peak} |"
            )


if __name__ == "__main__":
    main()
