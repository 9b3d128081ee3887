"""What a step costs a server that is told where it ends, and one whose stream is closed there instead.

    python benchmarks/step_ends.py URL [--steps 200]

URL is a vLLM server (or llama-server started with --metrics) of the embedded reasoner, with nobody
else on it. First steps are asked for with the boundary as a stop string, then, from the same seeds,
as streams without one that are closed as soon as the boundary has come. The server's own counter of
generated tokens says what each way cost; steps are the same tokens either way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from urllib.parse import urlsplit

import httpx

from itscale.tasks import Countdown

COUNTERS = ("vllm:generation_tokens_total", "llamacpp:tokens_predicted_total")
SETTLE_S = 2.0
"""Seconds after which a server has noticed that a stream was closed, and counted."""


def made(url: str) -> int:
    """Tokens the server has generated so far, as it counts."""
    parts = urlsplit(url)
    told = httpx.get(f"{parts.scheme}://{parts.netloc}/metrics").text
    values = re.findall(rf"^(?:{'|'.join(COUNTERS)})(?:{{.*}})? (\S+)$", told, re.MULTILINE)
    return sum(int(float(value)) for value in values)


async def step(client: httpx.AsyncClient, url: str, seed: int, question: str, *, told: bool) -> None:
    """One step."""
    body = {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 128, "temperature": 1.0, "seed": seed, "stream": True,
    }  # fmt: skip
    body |= {"stop": ["\n"]} if told else {}
    text = ""
    async with client.stream("POST", f"{url}/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                text += choice["delta"].get("content") or ""
            if not told and "\n" in text:
                break


async def measure(url: str, steps: int, *, told: bool) -> tuple[int, float]:
    """Tokens that the server made, and seconds."""
    questions = [problem.prompt.question for problem in Countdown().problems(steps)]
    before, began = made(url), time.perf_counter()
    limits = httpx.Limits(max_connections=16, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        await asyncio.gather(*(step(client, url, i, q, told=told) for i, q in enumerate(questions)))
    seconds = time.perf_counter() - began
    await asyncio.sleep(SETTLE_S)
    return made(url) - before, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url", nargs="?")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    if options.url is None:
        parser.exit(0, "start a server and give its URL; see --help\n")
    print("| a step ends by | tokens the server made | of a stop string's | seconds |")
    print("|---|---:|---:|---:|")
    asyncio.run(measure(options.url, 8, told=True))
    least = 0
    for name, told in (("a stop string", True), ("closing the stream", False)):
        cost, seconds = asyncio.run(measure(options.url, options.steps, told=told))
        least = least or cost
        print(f"| {name} | {cost} | {cost / least:.2f} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
