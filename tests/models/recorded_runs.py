"""Runs on coins with a recording, killed: `python -m tests.models.recorded_runs FILE LOG RESULTS KILLS`.

The runs are started over KILLS times and killed at random moments, each in a process of its own
(forked, because importing takes longer than running); prints how those ended, as JSON. Then they
are left alone and write RESULTS.

LOG says what happened on both sides of the seam, a line each, in order, across all processes:
`asked CALL` as the real model or scorer is asked, `kept CALL` once a run has the answer.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

from itscale.budget import Budget, Ledger
from itscale.methods import Beam, ParticleFilter
from itscale.methods.base import Result
from itscale.models.base import Model
from itscale.models.recorded import RecordedModel
from itscale.randomness import Randomness, Seeded
from itscale.recording import Recording
from itscale.scorers.base import ProcessScorer
from itscale.scorers.recorded import record_scores
from itscale.types import Path, Prompt, Sampling, Until
from tests.bench.worlds import CoinScorer, coin_model

PROBLEMS = 16
METHODS = (ParticleFilter(), Beam(width=2))


class Log:
    """Lines that reach the file before the next thing happens."""

    def __init__(self, file: FilePath) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def add(self, word: str, *call: object) -> None:
        os.write(self._descriptor, f"{word} {call}\n".encode())


class LoggedModel(Model):
    """Logs every child that is asked for, or had."""

    def __init__(self, model: Model, log: Log, asked: str | None, kept: str | None) -> None:
        self.name, self.capabilities = model.name, model.capabilities
        self._model, self._log, self._asked, self._kept = model, log, asked, kept

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        calls = [(path.prompt.question, path.token_ids, until, rng.child(i).seed) for i in range(n)]
        for call in calls if self._asked else ():
            self._log.add("asked", call)
        children = await self._model.extend(path, n, until, sampling, rng, ledger)
        for call in calls if self._kept else ():
            self._log.add("kept", call)
        return children


class LoggedScorer(ProcessScorer):
    """Logs every path that is judged, or was."""

    name = "coin-scorer"

    def __init__(self, scorer: Any, log: Log, word: str) -> None:
        self._scorer, self._log, self._word = scorer, log, word

    async def score(self, path: Path, ledger: Ledger) -> Any:
        if self._word == "asked":
            self._log.add("asked", path.prompt.question, path.token_ids)
        scores = await self._scorer.score(path, ledger)
        if self._word == "kept":
            self._log.add("kept", path.prompt.question, path.token_ids)
        return scores


async def results(model: Model, scorer: ProcessScorer) -> list[dict[str, Any]]:
    """Every method on every problem, the methods at once: results without what tells of speed and replay."""
    found = []
    for number in range(PROBLEMS):
        prompt, budget = Prompt.user(f"Call coin {number}."), Budget(generations=6)
        runs = (method.run(prompt, model, scorer, budget, seed=number) for method in METHODS)
        found += [timeless(result) for result in await asyncio.gather(*runs)]
    return found


def timeless(result: Result) -> dict[str, Any]:
    """A result as JSON reads it back, without seconds and without what came from a recording."""
    values: dict[str, Any] = json.loads(json.dumps(result.to_json()))
    usage = values["usage"]
    values["usage"] = {k: v for k, v in usage.items() if k != "seconds" and not k.startswith("replayed")}
    return values


async def ask(
    model: Any, n: int = 4, until: Until = Until("end", 9), seed: int = 5, **other: Any
) -> tuple[Any, Ledger]:
    """Steps of the children of the root (or of `path`), and the account."""
    ledger, path = (
        Ledger(Budget()),
        other.get("path", Path.root(other.get("prompt", Prompt.user("Call coin 7.")))),
    )
    sampling = other.get("sampling", Sampling())
    children = await model.extend(path, n, until, sampling, Seeded(seed), ledger)
    assert all(next(iter(child.nodes())).prompt == path.prompt for child in children)
    return [child.steps for child in children], ledger


def in_session(file: FilePath, scenario: Callable[[Recording], Any], **options: Any) -> Any:
    """`scenario` with a recording opened for it alone."""
    with Recording(file, **options) as recording:
        return asyncio.run(scenario(recording))


async def run(file: FilePath, log: Log, out: FilePath) -> None:
    """All runs, with a recording between two logs."""
    with Recording(file) as recording:
        model = LoggedModel(coin_model(latency_s=0.003), log, "asked", None)
        scorer = LoggedScorer(CoinScorer(), log, "asked")
        remembering = LoggedModel(RecordedModel(model, recording), log, None, "kept")
        judge = LoggedScorer(record_scores(scorer, recording), log, "kept")
        found = await results(remembering, judge)
    out.write_text(json.dumps(found))  # noqa: ASYNC240  nothing else is running any more


def main(file: FilePath, log: FilePath, out: FilePath, kills: int) -> None:
    """Kill so many times, each after a few more calls and a random part of the next; then finish."""
    moments, fork = random.Random(file.name), multiprocessing.get_context("fork")
    log.touch()
    ends = []
    for _ in range(kills):
        process = fork.Process(target=lambda: asyncio.run(run(file, Log(log), out)))
        enough = log.read_bytes().count(b"asked") + moments.randint(1, 24)
        process.start()
        while log.read_bytes().count(b"asked") < enough and process.is_alive():
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.005))
        process.kill()
        process.join()
        ends.append(process.exitcode)
    sys.stdout.write(json.dumps(ends))
    asyncio.run(run(file, Log(log), out))


if __name__ == "__main__":
    main(*map(FilePath, sys.argv[1:4]), int(sys.argv[4]))
