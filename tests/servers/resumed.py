"""A sweep over a served model, killed again and again: `python -m tests.servers.resumed` (see `main`).

The sweep is started KILLS times, each in a process of its own, and killed after some more requests and
a random part of the next; prints how those processes ended, as JSON. Then it is left alone and writes
ROWS. LOG gets `kept BODY` once a request's answer is the sweep's; `asked BODY` is the proxy's to write.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import sys
import time
from pathlib import Path as FilePath
from typing import Any

from itscale.bench import Row, Sweep, run_sweep
from itscale.budget import Ledger
from itscale.methods import BestOfN, ParticleFilter
from itscale.models.base import Came, Model, WrappedModel
from itscale.models.openai import OpenAIModel
from itscale.models.openai.client import Endpoint
from itscale.models.recorded import RecordedModel
from itscale.randomness import Neighbours, Randomness
from itscale.recording import Recording
from itscale.scorers.fake import FakeProcessScorer
from itscale.tasks import Countdown
from itscale.types import Path, Sampling, Until
from tests.servers.proxy import Log, body_of

SWEEP = Sweep(Countdown(), (ParticleFilter(), BestOfN()), (4,), 24, None)


class KeepingModel(WrappedModel):
    """Logs the requests a served model is asked, once their answers have come through a recording."""

    def __init__(self, recorded: Model, served: OpenAIModel, log: Log) -> None:
        super().__init__(recorded)
        self._served, self._log = served, log

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        children = await super().extend(path, n, until, sampling, rng, ledger)
        await self._kept(path, n, until, sampling, rng)
        return children

    @property
    def samples_together(self) -> bool:
        return self._model.samples_together

    async def extend_each(
        self,
        path: Path,
        n: int,
        until: Until,
        sampling: Sampling,
        rng: Randomness,
        ledger: Ledger,
        came: Came,
    ) -> list[Path]:
        children = await self._model.extend_each(path, n, until, sampling, rng, ledger, came)
        await self._kept(path, n, until, sampling, rng)
        return children

    async def _kept(self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness) -> None:
        request = await self._served._dialect.request(path, until, sampling)
        together = n > 1 and self._served.facts.n
        counted = self._served.facts.counts_up and isinstance(rng, Neighbours)
        apart = [rng.seed + i if counted else rng.child(i).seed for i in range(n)]
        for seed in ([rng.seed] if together else apart) if request is not None else ():
            extra: dict[str, Any] = {"n": n} if together else {}
            self._log.add("kept", body_of({**request.body, **extra, "seed": seed % 2**31}))


def judge(texts: tuple[str, ...]) -> float:
    """A score that depends on every step, and on nothing else."""
    return random.Random("".join(texts)).uniform(0.1, 0.9)


async def rows_of(served: OpenAIModel, model: Model) -> list[dict[str, Any]]:
    """The sweep's rows, without what tells of speed and of what was replayed."""
    rows: list[Row] = []
    await run_sweep(SWEEP, model, FakeProcessScorer(judge), on_row=rows.append, share=False, concurrency=4)
    await served.close()
    return sorted((timeless(row) for row in rows), key=lambda row: (row["problem"], row["method"]))


def timeless(row: Row) -> dict[str, Any]:
    assert row.error is None, row.error
    usage = row.usage
    spent = {"generated": usage.generated_tokens, "calls": usage.model_calls, "prompt": usage.prompt_tokens}
    return {
        "problem": row.problem,
        "method": row.method,
        "answer": row.answer,
        "correct": row.correct,
    } | spent


def reached(model: OpenAIModel) -> OpenAIModel:
    """The same model through connections of this process."""
    return OpenAIModel(Endpoint(model.endpoint.address), model.facts)


def run(probed: OpenAIModel, file: FilePath, log: FilePath, out: FilePath) -> None:
    """The whole sweep, with a recording."""

    async def recorded() -> list[dict[str, Any]]:
        served = reached(probed)
        with Recording(file) as recording:
            return await rows_of(served, KeepingModel(RecordedModel(served, recording), served, Log(log)))

    out.write_text(json.dumps(asyncio.run(recorded())))


def main(spec: str, file: FilePath, log: FilePath, out: FilePath, kills: int) -> None:
    """Kill so many times, each after a few more requests and a random part of the next; then finish."""
    probed = OpenAIModel.load(spec)
    moments, fork = random.Random(str(file.name)), multiprocessing.get_context("fork")
    ends = []
    for _ in range(kills):
        enough = asked(log) + moments.randint(1, 16)
        process = fork.Process(target=run, args=(probed, file, log, out))
        process.start()
        while asked(log) < enough and process.is_alive():
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.01))
        process.kill()
        process.join()
        ends.append(process.exitcode)
    sys.stdout.write(json.dumps(ends))
    run(probed, file, log, out)


def asked(log: FilePath) -> int:
    return log.read_bytes().count(b"asked ")


if __name__ == "__main__":
    main(sys.argv[1], *map(FilePath, sys.argv[2:5]), int(sys.argv[5]))
