"""One cell of the comparison: somebody's method at one N on all problems, and what the server counted."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path as FilePath
from typing import Any

import httpx

from benchmarks.peers.scoring import Served
from benchmarks.peers.served import Counts, Server
from itscale.bench import Sweep
from itscale.budget import Budget
from itscale.errors import ItscaleError
from itscale.models.openai.address import Address
from itscale.models.openai.client import Endpoint
from itscale.models.openai.model import OpenAIModel
from itscale.randomness import derive
from itscale.registry import parse_method
from itscale.tasks import Countdown
from itscale.types import Problem

__all__ = ["Cell", "Measured", "bare", "its_hub", "optillm", "ours", "sweep_of"]

LEVEL = 4
WORKER = FilePath(__file__).with_name("its_hub_worker.py")


@dataclass(frozen=True)
class Cell:
    """Whose method, with what options, at which N, on how many problems."""

    who: str
    method: str
    n: int
    problems: int
    at_once: int = 8
    """Problems in flight."""


@dataclass(frozen=True)
class Measured:
    """What came of a cell."""

    cell: Cell
    correct: list[bool]
    """A problem each; what failed is wrong."""
    failed: int
    seconds: float
    counts: Counts
    errors: list[str] = field(default_factory=list)
    """The first few."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Measured:
        """What `to_json` wrote."""
        return cls(**{**said, "cell": Cell(**said["cell"]), "counts": Counts(**said["counts"])})


def sweep_of(cell: Cell, method: str = "majority") -> Sweep:
    """The problems of a cell, those of every cell with as many; and a method of ours on them."""
    return Sweep(Countdown(), (parse_method(method),), (cell.n,), cell.problems, LEVEL)


def ours(cell: Cell, server: Server, scorer: str) -> Measured:
    """One of our methods through our client, as a program would call it."""
    [method] = sweep_of(cell, cell.method).methods
    problems = sweep_of(cell).problems
    said: dict[str, Any] = {}

    async def run() -> tuple[float, Counts]:
        model = await OpenAIModel.connect(Endpoint(Address("embedded", server.url, boundary="\n")))
        judge = Served(scorer)
        gate = asyncio.Semaphore(cell.at_once)

        async def one(problem: Problem) -> None:
            async with gate:
                row: dict[str, Any] = {"text": None, "error": None}
                try:
                    budget, seed = Budget(generations=cell.n), derive(0, problem.id)
                    row["text"] = (await method.run(problem.prompt, model, judge, budget, seed)).text
                except ItscaleError as error:
                    row["error"] = f"{type(error).__name__}: {error}"
                said[problem.id] = row

        before, began = server.counts(), time.perf_counter()
        await asyncio.gather(*map(one, problems))
        seconds = time.perf_counter() - began
        await model.close()
        await judge.close()
        return seconds, server.counts() - before

    seconds, counts = asyncio.run(run())
    return judged(cell, problems, said, seconds, counts)


def its_hub(cell: Cell, server: Server, scorer: str, python: str) -> Measured:
    """One of its_hub's, in its own process; the start of that process is not in the time."""
    problems = sweep_of(cell).problems
    job = {
        "url": server.url, "model": "embedded", "scorer": scorer, "method": cell.method, "n": cell.n,
        "at_once": cell.at_once, "temperature": 1.0,
        "problems": [[p.id, p.prompt.question] for p in problems],
    }  # fmt: skip
    before = server.counts()
    done = subprocess.run(  # noqa: S603
        [python, str(WORKER)], input=json.dumps(job), capture_output=True, text=True, check=False, timeout=580
    )
    if done.returncode:
        raise SystemExit(f"its_hub's worker ended with {done.returncode}:\n{done.stderr[-2000:]}")
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    said = {row["id"]: row for row in rows if "id" in row}
    seconds = next(row["wall_s"] for row in rows if "wall_s" in row)
    return judged(cell, problems, said, seconds, server.counts() - before)


def judged(
    cell: Cell, problems: Sequence[Problem], said: dict[str, Any], seconds: float, counts: Counts
) -> Measured:
    """What a peer's texts are worth, by the task's own checker."""
    task = Countdown()
    texts = [said[p.id]["text"] for p in problems]
    correct = [text is not None and task.check(p, text) for p, text in zip(problems, texts, strict=True)]
    errors = [row["error"] for row in said.values() if row["error"]]
    return Measured(cell, correct, len(errors), seconds, counts, errors[:3])


def bare(cell: Cell, server: Server) -> Measured:
    """As many texts as a vote takes, in the fewest requests, one piece each, unread: the server's limit."""

    async def run() -> float:
        gate = asyncio.Semaphore(cell.at_once)
        async with httpx.AsyncClient(timeout=550) as client:

            async def one(problem: Problem) -> None:
                messages = [{"role": "user", "content": problem.prompt.question}]
                body = {"model": "embedded", "messages": messages, "n": cell.n, "temperature": 1.0}
                async with gate:
                    answer = await client.post(f"{server.url}/chat/completions", json=body)
                answer.raise_for_status()

            began = time.perf_counter()
            await asyncio.gather(*map(one, sweep_of(cell).problems))
            return time.perf_counter() - began

    before = server.counts()
    seconds = asyncio.run(run())
    return Measured(cell, [], 0, seconds, server.counts() - before)


def optillm(cell: Cell, server: Server, gateway: str) -> Measured:
    """One of OptiLLM's, asked of its proxy."""
    problems = sweep_of(cell).problems
    said: dict[str, Any] = {}

    async def run() -> float:
        gate = asyncio.Semaphore(cell.at_once)
        async with httpx.AsyncClient(timeout=550) as client:

            async def one(problem: Problem) -> None:
                body = {
                    "model": f"{OPTILLM[cell.method]}-embedded",
                    "messages": [{"role": "user", "content": problem.prompt.question}],
                    "k": cell.n,
                    "temperature": 1.0,
                }
                async with gate:
                    answer = await client.post(f"{gateway}/v1/chat/completions", json=body)
                whole = answer.status_code == 200
                text = answer.json()["choices"][0]["message"]["content"] if whole else None
                error = None if whole else f"{answer.status_code}: {answer.text[:200]}"
                said[problem.id] = {"text": text, "error": error}

            began = time.perf_counter()
            await asyncio.gather(*map(one, problems))
            return time.perf_counter() - began

    before = server.counts()
    seconds = asyncio.run(run())
    return judged(cell, problems, said, seconds, server.counts() - before)


OPTILLM = {"majority": "majority_voting", "self-consistency": "self_consistency", "best-of-n": "bon"}
"""What it calls what."""
