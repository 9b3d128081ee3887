"""A bad day: many clients, a faulty upstream, clients that hang up, idle connections, SIGTERM in the middle.

    python benchmarks/gateway/chaos.py [--clients 1000] [--seconds 60] [--idle 10000]

The stub answers 10 % with 500, cuts 5 % in the middle, holds 5 % for a second. Meanwhile there are
connections that say nothing, heads that trickle in, a body of 50 MB and one that is no UTF-8. Every request
must end in an answer or a typed fault; afterwards nothing may be in flight, no socket or memory may have
stayed; and on SIGTERM under load every accepted request is still answered. Exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import aiohttp
import httpx
from compare import HERE, running

STUB, OURS = 18_120, 18_121
CHAT = f"http://127.0.0.1:{OURS}/v1/chat/completions"
NAMES = ("stub", "stub", "majority:n=3/stub", "best-of-n:n=2/stub")
TYPED = {"message", "type", "param", "code"}


def resident_mb(pid: int) -> float:
    """Memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def sockets(pid: int) -> int:
    """Open files of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def one(session: aiohttp.ClientSession, draws: random.Random, ends: Counter[str]) -> None:
    """A request, whole or streamed; one in twenty hangs up."""
    body = {
        "model": draws.choice(NAMES),
        "messages": [{"role": "user", "content": "6*7?"}],
        "stream": draws.random() < 0.3,
    }
    limit = 0.03 if draws.random() < 0.05 else 120.0
    try:
        async with asyncio.timeout(limit), session.post(CHAT, json=body) as response:
            text = await response.text()
            if response.status == 200:
                ends["200, ended in a fault" if '"error"' in text else "200"] += 1
            else:
                typed = set(json.loads(text)["error"]) == TYPED
                ends[f"{response.status}" if typed else f"{response.status} untyped"] += 1
    except TimeoutError:
        ends["hung up" if limit < 1 else "no answer in 120 s"] += 1
    except (aiohttp.ClientError, ValueError) as error:
        ends[type(error).__name__] += 1


async def storm(clients: int, seconds: float, seed: int) -> Counter[str]:
    """All clients for so long."""
    ends: Counter[str] = Counter()
    end = time.monotonic() + seconds
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client(number: int) -> None:
            draws = random.Random(f"{seed}/{number}")
            while time.monotonic() < end:
                await one(session, draws, ends)

        await asyncio.gather(*(client(number) for number in range(clients)))
    return ends


def idle(count: int) -> list[socket.socket]:
    """Connections that say nothing."""
    return [socket.create_connection(("127.0.0.1", OURS)) for _ in range(count)]


async def hostile(loris: int = 200) -> Counter[str]:
    """Heads that trickle in, each to be closed; 50 MB; a body that is no UTF-8."""
    ends: Counter[str] = Counter()

    async def trickle() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", OURS)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
        try:
            async with asyncio.timeout(60):
                while not reader.at_eof():
                    writer.write(b"x")
                    await writer.drain()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(1), 1.0)
        except (ConnectionError, TimeoutError) as error:
            ends["slow head kept" if isinstance(error, TimeoutError) else "slow head closed"] += 1
        else:
            ends["slow head closed"] += 1
        writer.close()

    async def sent(what: str, body: bytes) -> None:
        async with aiohttp.ClientSession() as session:
            try:
                async with session.post(CHAT, data=body) as response:
                    ends[f"{what} {response.status}"] += 1
            except aiohttp.ClientError:  # closed in the middle of 50 MB
                ends[f"{what} closed"] += 1

    await asyncio.gather(
        *(trickle() for _ in range(loris)),
        sent("50 MB", b"x" * 50_000_000),
        sent("no UTF-8", b'{"model": "\xff"}'),
    )
    return ends


async def hostile_storm(clients: int, seconds: float) -> tuple[Counter[str], Counter[str]]:
    """Both at once."""
    ends, told = await asyncio.gather(storm(clients, seconds, seed=1), hostile())
    return ends, told


async def last_requests(pid: int) -> Counter[str]:
    """SIGTERM while 100 requests are being answered: what becomes of them."""
    ends: Counter[str] = Counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        asks = [asyncio.ensure_future(one(session, random.Random(7 + i), ends)) for i in range(100)]
        await asyncio.sleep(0.05)
        os.kill(pid, signal.SIGTERM)
        await asyncio.gather(*asks)
    return ends


def in_flight() -> float:
    """What the gateway says is still being answered or waiting."""
    lines = httpx.get(f"http://127.0.0.1:{OURS}/metrics", timeout=30).text.splitlines()
    return sum(float(x.split()[-1]) for x in lines if x.startswith(("itscale_in_flight{", "itscale_queue{")))


def main() -> None:
    """Break it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--idle", type=int, default=10_000)
    options = parser.parse_args()
    stub = [sys.executable, str(HERE / "stub.py"), str(STUB), "50", "--faults"]
    ours = [sys.executable, str(HERE / "served.py"), str(OURS), str(STUB)]
    with (
        running(stub, f"http://127.0.0.1:{STUB}/stats"),
        running(ours, f"http://127.0.0.1:{OURS}/health") as process,
    ):
        quiet = idle(options.idle)
        asyncio.run(storm(options.clients, options.seconds / 4, seed=0))  # caches, pools, allocator
        for one_of_them in quiet:
            one_of_them.close()
        time.sleep(1)
        before, held = resident_mb(process.pid), sockets(process.pid)
        quiet = idle(options.idle)
        ends, told = asyncio.run(hostile_storm(options.clients, options.seconds))
        for one_of_them in quiet:
            one_of_them.close()
        time.sleep(12)
        after, left = resident_mb(process.pid), sockets(process.pid)
        stats = httpx.get(f"http://127.0.0.1:{STUB}/stats", timeout=30).json()
        flying = in_flight()
        last = asyncio.run(last_requests(process.pid))
        code = process.wait(120)
    print(f"{sum(ends.values()):,} requests of {options.clients} clients: {dict(ends.most_common())}")
    print(f"hostile: {dict(told)}")
    print(
        f"memory {before:.0f} -> {after:.0f} MB, open files {held} -> {left}, in flight afterwards {flying:g}"
    )
    print(f"upstream: {stats}")
    print(f"SIGTERM with 100 requests under way: {dict(last)}, exit code {code}")
    known = {"200", "200, ended in a fault", "429", "502", "504", "hung up"}
    known |= {"slow head closed", "50 MB 413", "50 MB closed", "no UTF-8 400"}
    wrong = [what for what in {**ends, **last, **told} if what not in known]
    leaks = flying or stats["running"] or left > held + 20 or after > before * 1.3 + 20
    if wrong or leaks or code not in (0, -signal.SIGTERM):
        print(f"FAILED: {wrong or 'something stayed'}")
        raise SystemExit(1)
    print("everything ended as it should")


if __name__ == "__main__":
    main()
