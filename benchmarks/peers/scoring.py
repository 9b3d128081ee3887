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

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from itscale.budget import Budget, Ledger
from itscale.errors import ScorerError
from itscale.registry import load_scorer
from itscale.scorers.base import ProcessScorer
from itscale.types import End, Path, Prompt, Step

__all__ = ["Served", "path_of"]


class Served(ProcessScorer):
    """Our side's client of the service."""

    def __init__(self, url: str) -> None:
        self.name = f"served@{url}"
        self._url = url
        self._client: httpx.AsyncClient | None = None

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        if self._client is None:
            limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
            self._client = httpx.AsyncClient(limits=limits, timeout=120)
        said = {"prompt": path.prompt.question, "answers": [[step.text for step in path.steps]]}
        response = await self._client.post(f"{self._url}/score", json=said)
        if response.status_code != 200:
            raise ScorerError(f"{self._url} answered {response.status_code}; see its output")
        ledger.charge_scorer(tokens=path.n_tokens)
        scores: list[float] = response.json()["scores"][0]
        return scores

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()


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
