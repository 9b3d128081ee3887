"""its_hub 1.2.0 on given problems. Runs in its own environment: `PYTHON its_hub_worker.py < JOB > ROWS`.

The job is JSON: url, model, scorer (URLs), method, n, problems [[id, question], ...], at_once, temperature.
A row is one JSON object a problem: id, text (null where it failed), error; the last line has the wall time.

Set up as its documentation asks, and where that leaves a choice, to its advantage: continuation by vLLM's
continue_final_message (its client knows vLLM by a URL without "openai"), a step is a line, the line with the
answer ends a path (it does not look at finish_reason, and would ask finished paths again), several problems
at once (its own script runs them one by one), no limit on samples in flight, 127.0.0.1 instead of a name, and
a reward model that asks the same service as ours, on a session that is kept.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import time
from typing import Any

import aiohttp
from its_hub.api import AbstractOutcomeRewardModel, AbstractProcessRewardModel
from its_hub.core.algorithms.beam_search import BeamSearch
from its_hub.core.algorithms.bon import BestOfN
from its_hub.core.algorithms.particle_gibbs import EntropicParticleFiltering, ParticleFiltering
from its_hub.core.algorithms.self_consistency import SelfConsistency
from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel
from its_hub.core.lms.step_generation import StepGeneration
from its_hub.core.orchestrator import LMOrchestrator

MAX_STEPS = 8
BEAM_WIDTH = 4
ANSWERED = re.compile(r"Answer: (\d+)")


class Scoring:
    """The service, by one kept session."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session: aiohttp.ClientSession | None = None

    async def last(self, prompt: str, texts: list[str]) -> list[float]:
        """The score of each text as a whole: that of its last step."""
        if self.session is None:
            self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
        answers = [lines(text) for text in texts]
        if not answers:
            return []
        said = {"prompt": prompt, "answers": answers}
        async with self.session.post(f"{self.url}/score", json=said) as response:
            response.raise_for_status()
            return [scores[-1] for scores in (await response.json())["scores"]]


def lines(text: str) -> list[str]:
    """The steps in a text: its lines, each but an answer with the newline that ended it."""
    kept = [line for line in text.split("\n") if line]
    return [line if line.startswith("Answer:") else line + "\n" for line in kept] or ["\n"]


class Process(AbstractProcessRewardModel):
    """What it asks of a process reward model."""

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring

    async def ascore(self, prompt: str, steps: list[str] | str) -> list[float]:
        return await self.scoring.last(prompt, [steps] if isinstance(steps, str) else steps)

    def score(self, prompt: Any, steps: Any) -> Any:
        raise NotImplementedError


class Outcome(AbstractOutcomeRewardModel):
    """What it asks of an outcome reward model."""

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring

    async def ascore(self, messages: list[list[Any]], orchestrator: Any = None) -> list[float]:
        return await self.scoring.last(messages[0][0].content, [talk[-1].content for talk in messages])

    def score(self, messages: Any, orchestrator: Any = None) -> Any:
        raise NotImplementedError


def algorithm(job: dict[str, Any], scoring: Scoring) -> Any:
    """The method of a job."""
    steps = StepGeneration(
        max_steps=MAX_STEPS,
        step_token="\n",  # noqa: S106
        stop_token="Answer:",  # noqa: S106
        temperature=job["temperature"],
    )
    unlimited = LMOrchestrator(max_concurrency=-1)
    made = {
        "particle-filter": lambda: ParticleFiltering(steps, Process(scoring)),
        "entropic-particle-filter": lambda: EntropicParticleFiltering(steps, Process(scoring)),
        "beam": lambda: BeamSearch(steps, Process(scoring), beam_width=BEAM_WIDTH),
        "best-of-n": lambda: BestOfN(Outcome(scoring), orchestrator=unlimited),
        "majority": lambda: SelfConsistency(answer_of, orchestrator=unlimited),
    }
    return made[job["method"]]()


def answer_of(text: str) -> str:
    """What is voted on."""
    found = ANSWERED.search(text or "")
    return found.group(1) if found else text


async def run(job: dict[str, Any]) -> None:
    """Every problem, some at once."""
    scoring = Scoring(job["scorer"])
    method = algorithm(job, scoring)
    model = OpenAICompatibleLanguageModel(
        endpoint=job["url"], api_key="none", model_name=job["model"], temperature=job["temperature"]
    )
    gate = asyncio.Semaphore(job["at_once"])

    async def one(name: str, question: str) -> None:
        async with gate:
            row: dict[str, Any] = {"id": name, "text": None, "error": None}
            try:
                chosen = await method.ainfer(model, question, job["n"])
                if not isinstance(chosen, dict):  # entropic filtering forgets return_response_only
                    chosen = chosen.the_one
                row["text"] = chosen["content"]
            except Exception as error:  # noqa: BLE001  whatever it raises is that problem's failure
                row["error"] = f"{type(error).__name__}: {error}"[:300]
            print(json.dumps(row), flush=True)

    began = time.perf_counter()
    await asyncio.gather(*(one(*problem) for problem in job["problems"]))
    print(json.dumps({"wall_s": time.perf_counter() - began}))
    if scoring.session is not None:
        await scoring.session.close()
    await model.close()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(run(json.load(sys.stdin)))
