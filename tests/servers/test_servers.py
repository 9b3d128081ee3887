"""The laws of the model seam and the doctor on real servers. `make test-servers` installs and starts them.

One table over implementations: what a backend offers is written down in `running.py`, and a server
that offers more or less than that fails here, so that documentation can rely on it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path as FilePath

import httpx
import pytest

from itscale.budget import Budget, Ledger
from itscale.doctor import Verdict, examine
from itscale.embedded import PROCESS_SCORER
from itscale.errors import ModelError, OptionError
from itscale.methods import Beam, BestOfN, Majority, ParticleFilter
from itscale.models.local import LocalModel
from itscale.models.openai import OpenAIModel
from itscale.randomness import Seeded
from itscale.scorers.prm import LocalProcessScorer
from itscale.tasks import Chain, Countdown
from itscale.testing import MODEL_LAWS, check_one_seed
from itscale.types import End, Path, Prompt, Sampling, Until
from tests.servers.proxy import Log, metered
from tests.servers.resumed import rows_of
from tests.servers.running import LOGPROBS, STEPS, Backend

pytestmark = pytest.mark.server

ROOT = FilePath(__file__).parents[2]
PROBLEMS = [*Countdown().problems(4), *Chain().problems(4)]
PROMPTS = [problem.prompt for problem in PROBLEMS]
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def backend(served: tuple[Backend, str]) -> Backend:
    return served[0]


@pytest.fixture
def model(served: tuple[Backend, str]) -> Iterator[OpenAIModel]:
    loaded = OpenAIModel.load(f"{served[1]}#boundary=%0A")
    yield loaded
    asyncio.run(loaded.close())


@pytest.fixture(scope="module")
def scorer() -> Iterator[LocalProcessScorer]:
    loaded = LocalProcessScorer.load(PROCESS_SCORER)
    yield loaded
    asyncio.run(loaded.close())


async def extended(
    model: OpenAIModel | LocalModel, path: Path, n: int, what: str, sampling: Sampling, limit: int = 128
) -> list[Path]:
    until = Until(what, limit)  # type: ignore[arg-type]
    return await model.extend(path, n, until, sampling, Seeded(0), Ledger(Budget()))


@pytest.mark.parametrize("law", MODEL_LAWS)
def test_the_laws_of_the_model_seam_hold(backend: Backend, model: OpenAIModel, law):
    """The very functions that every other implementation is held against."""
    if law is check_one_seed and backend.seeds_race:
        pytest.skip("the server shares one generator between requests")
    asyncio.run(law(model, PROMPTS[:2]))


def test_the_probe_finds_what_the_server_is_known_to_honour(backend: Backend, model: OpenAIModel):
    """No more, which would be luck, and no less, which would be a fault of the client."""
    assert model.facts.dialect == backend.dialect
    assert model.capabilities == backend.offers
    assert model.facts.n == backend.n_in_one
    assert model.facts.counts_up == backend.n_in_one


def test_the_doctor_finds_nothing_broken(backend: Backend, model: OpenAIModel):
    """What a user would be told of this server: all is well, or the one thing that is known not to be."""
    findings = asyncio.run(examine(model, PROMPTS[:2]))
    broken = {finding.check for finding in findings if finding.verdict is Verdict.BROKEN}
    assert broken <= ({"seeds"} if backend.seeds_race else set())


def test_greedy_answers_are_those_of_the_engine(backend: Backend, model: OpenAIModel, reasoner: LocalModel):
    """One model, however it is served: the same words, and where ids are told, the same ids."""
    if "q8_0" in backend.name:
        pytest.skip("quantised weights are another model")

    async def run() -> None:
        for prompt in PROMPTS:
            [theirs] = await extended(model, Path.root(prompt), 1, "end", GREEDY)
            [ours] = await extended(reasoner, Path.root(prompt), 1, "end", GREEDY)
            assert theirs.text.split() == ours.text.split()
            assert theirs.finished
            if theirs.token_ids:
                assert theirs.token_ids == ours.token_ids

    asyncio.run(run())


def test_steps_are_those_of_the_whole_answer_or_refused(backend: Backend, model: OpenAIModel):
    """Where an answer can be continued it falls into the same steps; elsewhere a sentence says so."""

    async def run() -> None:
        [whole] = await extended(model, Path.root(PROMPTS[0]), 1, "end", GREEDY)
        path = Path.root(PROMPTS[0])
        if STEPS not in backend.offers:
            with pytest.raises(ModelError, match="majority, best-of-n"):
                await extended(model, path, 1, "step", GREEDY)
            return
        for step in whole.steps:
            [path] = await extended(model, path, 1, "step", GREEDY)
            assert (path.step.token_ids, path.step.end) == (step.token_ids, step.end)
        assert path.step.end is End.EOS

    asyncio.run(run())


def test_methods_run_or_are_refused_before_any_token(
    backend: Backend, model: OpenAIModel, scorer: LocalProcessScorer
):
    """Methods that sample whole answers everywhere; those that work in steps where that is honoured."""

    async def run() -> None:
        budget = Budget(generations=4)
        votes = await Majority().run(PROMPTS[0], model, None, budget)
        assert len(votes.candidates) == 4
        assert all(candidate.path.finished for candidate in votes.candidates)
        for method in (ParticleFilter(), Beam(width=2)):
            if STEPS in backend.offers:
                result = await method.run(PROMPTS[0], model, scorer, budget)
                assert result.answer is not None
                assert result.usage.generated_tokens > 0
            else:
                with pytest.raises(OptionError, match="majority, best-of-n"):
                    await method.run(PROMPTS[0], model, scorer, budget)
        if STEPS in backend.offers:
            best = await BestOfN().run(PROMPTS[0], model, scorer, budget)
            assert best.answer is not None

    asyncio.run(run())


def test_n_samples_under_one_seed_are_different_answers_in_parallel(model: OpenAIModel):
    """Many calls at once do not get one another's answers."""

    async def run() -> None:
        rows = await asyncio.gather(
            *(extended(model, Path.root(p), 4, "end", Sampling()) for p in PROMPTS for _ in range(2))
        )
        for row, prompt in zip(rows, [p for p in PROMPTS for _ in range(2)], strict=True):
            assert len(row) == 4
            assert all(path.prompt == prompt for path in row)
        assert len({path.text for row in rows for path in row}) > len(PROMPTS)

    asyncio.run(run())


def test_whole_answers_come_in_one_request_where_n_is_honoured(backend: Backend, model: OpenAIModel):
    """One request or eight; charged is what vLLM itself counts; the first of eight are those of five."""

    def counted() -> tuple[float, ...]:
        if backend.name != "vllm":
            return ()
        text = httpx.get(f"{model.endpoint.address.root}/metrics", timeout=5).text
        names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
        return tuple(
            sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(n)) for n in names
        )

    async def run() -> None:
        few = await Majority().run(PROMPTS[0], model, None, Budget(generations=5), 3)
        before = counted()
        result = await Majority().run(PROMPTS[0], model, None, Budget(generations=8), 3)
        usage, texts = result.usage, [c.path.text for c in result.candidates]
        assert usage.model_calls == (1 if backend.n_in_one else 8)
        assert len(texts) == 8
        assert usage.generated_tokens == sum(c.path.n_tokens for c in result.candidates)
        if before:
            # The server reads the prompt once for each text it makes, from its cache.
            spent = [after - earlier for after, earlier in zip(counted(), before, strict=True)]
            assert spent == [8 * usage.prompt_tokens, usage.generated_tokens]
        if not backend.seeds_race:
            assert [c.path.text for c in few.candidates] == texts[:5]

    asyncio.run(run())


def test_log_probabilities_are_the_model_s(backend: Backend, model: OpenAIModel, reasoner: LocalModel):
    """Where the server tells them, they are what the engine says of the same tokens, or nearly for weights
    that were rounded."""
    if LOGPROBS not in backend.offers:
        pytest.skip("the server does not tell them")

    async def run() -> None:
        root = Path.root(PROMPTS[0])
        for path in await extended(model, root, 4, "step", Sampling()):
            told = await reasoner.logprobs_of(root, path.step.token_ids, Sampling(), Ledger(Budget()))
            near = 0.3 if "q8_0" in backend.name else 1e-3
            assert path.step.logprob == pytest.approx(sum(told), abs=near)

    asyncio.run(run())


def test_a_full_context_is_a_truncated_path_or_a_sentence(backend: Backend, model: OpenAIModel):
    """Never a crash, never an endless retry."""
    if backend.name == "transformers":
        pytest.skip("transformers serve goes on beyond the context the model was trained with")
    raw = Prompt(raw="Make 45 from 3, 7, 12, 23. " * 40)
    if STEPS not in backend.offers:
        raw = Prompt.user(raw.raw or "")

    async def run() -> None:
        with pytest.raises(ModelError, match=r"context|overflow|shorten"):
            await extended(model, Path.root(raw), 1, "end", GREEDY)

    asyncio.run(run())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the sweep is forked")
def test_a_sweep_killed_at_ten_random_moments_pays_for_no_call_twice(
    backend: Backend, served: tuple[Backend, str], tmp_path: FilePath
):
    """The rows are those of a sweep left alone; the server is asked nothing again whose answer was kept."""
    if STEPS not in backend.offers:
        pytest.skip("the methods of the sweep work in steps")
    log, out = tmp_path / "log", tmp_path / "rows"
    with metered(served[1].partition("@")[2], log) as url:
        spec = f"{backend.model}@{url}#boundary=%0A"
        command = [sys.executable, "-m", "tests.servers.resumed", spec, tmp_path / "calls.db", log, out, 10]
        done = subprocess.run(
            [*map(str, command)], cwd=ROOT, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, text=True, timeout=500,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == [-signal.SIGKILL] * 10
    kept: set[str] = set()
    asked: list[str] = []
    for word, body in Log.read(log):
        if word == "kept":
            kept.add(body)
        else:
            assert body not in kept
            asked.append(body)
    assert kept <= set(asked)
    again = len([body for body in asked if body in kept]) - len(kept)
    assert again > 0, "no kill met a request in flight, so nothing was tried"
    plain = OpenAIModel.load(f"{served[1]}#boundary=%0A")
    assert json.loads(out.read_text()) == asyncio.run(rows_of(plain, plain))
