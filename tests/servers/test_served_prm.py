"""The embedded process reward model behind a real vLLM server, against itself in this process.

`make test-servers` installs and starts it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path as FilePath

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
from tests.servers.running import VLLM_ENVIRONMENT, serving, vllm_scorer

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A vLLM server of the embedded process reward model, as `prm`."""
    if not FilePath(vllm_scorer(0)[0]).exists():
        pytest.skip("vLLM is not installed; run: make test-servers")
    with serving("vllm-scorer", vllm_scorer, VLLM_ENVIRONMENT) as url:
        yield url


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
