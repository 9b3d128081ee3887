"""The embedded process reward model as a service: everybody is judged by the same one, over the same wire.

    python -m benchmarks.peers.scoring PORT

POST /score {"prompt": TEXT, "answers": [[STEP, ...], ...]} answers {"scores": [[SCORE, ...], ...]}: for every
answer a score in (0, 1) for each of its steps. GET /ready answers once the model is loaded.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from itscale.budget import Budget, Ledger
from itscale.errors import ModelError, ScorerError
from itscale.models.openai.address import Address
from itscale.models.openai.client import Endpoint
from itscale.registry import load_scorer
from itscale.scorers.base import ProcessScorer
from itscale.types import End, Path, Prompt, Step

__all__ = ["Served", "path_of"]


class Served(ProcessScorer):
    """Our side's client of the service. What is asked in one turn of the event loop goes in one request."""

    def __init__(self, url: str) -> None:
        self.name = f"served@{url}"
        self._endpoint = Endpoint(Address("prm", url))
        self._waiting: dict[str, list[tuple[list[str], asyncio.Future[list[float]]]]] = {}
        self._asking: set[asyncio.Task[None]] = set()

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        came: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        own = self._waiting.setdefault(path.prompt.question, [])
        own.append(([step.text for step in path.steps], came))
        scores = await came
        ledger.charge_scorer(tokens=path.n_tokens)
        return scores

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for prompt, asked in waiting.items():
            task = asyncio.get_running_loop().create_task(self._ask(prompt, asked))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(self, prompt: str, asked: list[tuple[list[str], asyncio.Future[list[float]]]]) -> None:
        said = {"prompt": prompt, "answers": [steps for steps, _ in asked]}
        try:
            told = (await self._endpoint.post(f"{self._endpoint.address.root}/score", said))["scores"]
        except ModelError as error:
            told = [ScorerError(str(error))] * len(asked)
        for (_, came), scores in zip(asked, told, strict=True):
            if came.cancelled():
                continue
            if isinstance(scores, ScorerError):
                came.set_exception(scores)
            else:
                came.set_result(scores)

    async def close(self) -> None:
        await self._endpoint.close()


def path_of(prompt: str, steps: Sequence[str]) -> Path:
    """An answer as far as it goes; the last line of a whole one has no newline."""
    path = Path.root(Prompt.user(prompt))
    for text in steps:
        ended = End.BOUNDARY if text.endswith("\n") else End.EOS
        path = path.child(Step((), text, ended, counted=1))
    return path


def app() -> Starlette:
    """The service."""
    scorer = load_scorer("embedded")
    assert isinstance(scorer, ProcessScorer)

    async def score(request: Request) -> JSONResponse:
        said: dict[str, Any] = await request.json()
        paths = [path_of(said["prompt"], steps) for steps in said["answers"]]
        ledger = Ledger(Budget())
        scores = await asyncio.gather(*(scorer.score(path, ledger) for path in paths))
        return JSONResponse({"scores": [list(own) for own in scores]})

    async def ready(_: Request) -> JSONResponse:
        return JSONResponse({})

    return Starlette(routes=[Route("/score", score, methods=["POST"]), Route("/ready", ready)])


if __name__ == "__main__":
    uvicorn.run(app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
