"""`vllm:PATH` on the embedded checkpoint. `make test-servers` runs it in the venv that has vLLM."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from itscale.budget import Budget, Ledger
from itscale.embedded import REASONER
from itscale.errors import OptionError, PromptError
from itscale.methods import (
    BudgetForcing,
    ConfidenceVote,
    EntropyExit,
    EntropyTree,
    Method,
    ParticleGibbs,
)
from itscale.models.base import Capability
from itscale.models.local import LocalModel
from itscale.models.vllm import VLLMModel
from itscale.randomness import Seeded
from itscale.scorers.fake import FakeProcessScorer
from itscale.tasks import Chain, Countdown
from itscale.testing import MODEL_LAWS
from itscale.types import End, Message, Path, Prompt, Sampling, Until, to_json

pytestmark = pytest.mark.server
pytest.importorskip("vllm", reason='vLLM is not installed: pip install "itscale[vllm]"')

PROMPTS = [p.prompt for task in (Countdown(), Chain()) for p in task.problems(4)]
GREEDY, HOT = Sampling(temperature=0.0), Sampling()


@pytest.fixture(scope="module")
def model() -> Iterator[VLLMModel]:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    loaded = VLLMModel.load(
        REASONER,
        dtype="float32",
        max_model_len=256,
        enforce_eager=True,
        max_num_seqs=64,
        max_num_batched_tokens=256,
    )
    yield loaded
    asyncio.run(loaded.close())


async def extended(model: VLLMModel, path: Path, n: int, what: str, sampling: Sampling) -> list[Path]:
    return await model.extend(path, n, Until(what), sampling, Seeded(0), Ledger(Budget()))  # type: ignore[arg-type]


@pytest.mark.parametrize("law", MODEL_LAWS)
def test_the_laws_of_the_model_seam_hold(model: VLLMModel, law):
    """Each in an event loop of its own: vLLM's is another."""
    asyncio.run(law(model, PROMPTS[:2]))


def test_whole_answers_fall_into_the_steps_that_asking_step_by_step_gives(model: VLLMModel):
    """The same tokens, texts and ends, and none of it differs from the checkpoint's own spelling."""

    async def run() -> None:
        for prompt in PROMPTS[:4]:
            [whole] = await extended(model, Path.root(prompt), 1, "end", GREEDY)
            path = Path.root(prompt)
            for step in whole.steps:
                [path] = await extended(model, path, 1, "step", GREEDY)
                assert (path.step.token_ids, path.step.text, path.step.end) == (
                    step.token_ids,
                    step.text,
                    step.end,
                )
            assert whole.step.end is End.EOS
            assert "Answer:" in whole.text

    asyncio.run(run())


def test_log_probabilities_are_those_of_the_sampling_distribution(model: VLLMModel):
    """At another temperature and with top-k too: drawn from one token alone, it is certain."""

    async def run() -> None:
        root = Path.root(PROMPTS[0])
        [path] = await extended(model, root, 1, "end", Sampling(temperature=0.7, top_k=1))
        assert [step.logprob for step in path.steps] == pytest.approx([0.0] * path.depth, abs=1e-5)
        [plain] = await extended(model, root, 1, "end", HOT)
        assert plain.steps[0].logprob < 0

    asyncio.run(run())


def test_what_it_tells_of_tokens_is_what_the_checkpoints_own_engine_tells(model: VLLMModel):
    """Entropies, self-certainties and log-probabilities of an answer that vLLM drew, and of one given."""
    local = LocalModel.load(REASONER)

    async def run() -> None:
        for prompt in PROMPTS[:4]:
            root, everything = Path.root(prompt), Sampling(top_logprobs=model.top_logprobs)
            [path] = await extended(model, root, 1, "end", everything)
            parent = root
            for node in [node for node in path.nodes() if node.step is not None][::-1]:
                steps = [node.step]
                ids, seen = node.step.token_ids, parent
                for i, token in enumerate(ids):
                    [drawn] = await local.extend(seen, 1, Until("step", 1), HOT, Seeded(0), Ledger(Budget()))
                    assert drawn.step is not None
                    entropy, certainty = drawn.step.token_entropies, drawn.step.token_certainties
                    assert steps[0].token_entropies[i] == pytest.approx(entropy[0], abs=2e-3)
                    assert steps[0].token_certainties[i] == pytest.approx(certainty[0], abs=2e-3)
                    seen = local.forced(seen, (token,))
                told = await local.logprobs_of(parent, ids, HOT, Ledger(Budget()))
                assert steps[0].token_logprobs == pytest.approx(told, abs=2e-3)
                given = await model.logprobs_of(parent, ids, HOT, Ledger(Budget()))
                assert given == pytest.approx(told, abs=2e-3)
                parent = node

    asyncio.run(run())
    asyncio.run(local.close())


@pytest.mark.parametrize(
    "method",
    [
        BudgetForcing(),
        EntropyExit(),
        EntropyTree(),
        ParticleGibbs(ancestors=True),
        ConfidenceVote(confidence="certainty"),
    ],
    ids=lambda method: method.name,
)
def test_methods_that_force_text_or_look_at_laws_run(model: VLLMModel, method: Method):
    """To an answer, their tokens charged."""
    scorer = FakeProcessScorer(lambda texts: 0.5 + 0.01 * (len(texts[-1]) % 10))
    result = asyncio.run(method.run(PROMPTS[0], model, scorer, Budget(generations=4), 1))
    assert result.text
    assert result.usage.generated_tokens > 0


def test_what_it_cannot_tell_of_draws_is_refused_before_any_token(model: VLLMModel):
    """Its statistics are those of temperature 1; log-probabilities of draws it tells at any."""
    for method in (EntropyExit(temperature=0.5), ParticleGibbs(ancestors=True, temperature=0.5)):
        with pytest.raises(OptionError, match="temperature 1"):
            method.check(model, FakeProcessScorer(lambda texts: 0.5))
    assert model.tells(Sampling(temperature=0.5), frozenset({Capability.LOGPROBS}))
    with pytest.raises(OptionError, match="temperature 1"):
        asyncio.run(extended(model, Path.root(PROMPTS[0]), 1, "end", Sampling(0.5, top_logprobs=5)))


def test_more_prompts_than_fit_into_a_batch_wait(model: VLLMModel):
    """None is read in parts: on a CPU vLLM 0.32 ends over that where a request has a seed."""

    async def run() -> None:
        asked = (extended(model, Path.root(p.prompt), 4, "end", HOT) for p in Countdown().problems(16))
        assert all(path.step.end is End.EOS for paths in await asyncio.gather(*asked) for path in paths)

    asyncio.run(run())


def test_a_cancelled_call_is_aborted_and_charged(model: VLLMModel):
    """The wait ends when vLLM has let go, and the next call is answered."""

    async def run() -> None:
        ledger = Ledger(Budget())
        call = asyncio.create_task(
            model.extend(Path.root(PROMPTS[0]), 8, Until("end"), HOT, Seeded(0), ledger)
        )
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert ledger.model_calls == 1
        assert ledger.generated_tokens < 8 * 128
        assert await extended(model, Path.root(PROMPTS[0]), 1, "end", HOT)

    asyncio.run(run())


def test_what_it_was_not_made_for_is_refused(model: VLLMModel):
    """By the facts in the checkpoint folder, before vLLM sees it."""
    assert Capability.STEPS in model.capabilities
    with pytest.raises(PromptError, match="two tasks only"):
        asyncio.run(extended(model, Path.root(Prompt.user("Who are you?")), 1, "end", HOT))
    image = [{"type": "text", "text": PROMPTS[0].question}, {"type": "image_url", "image_url": {"url": "x"}}]
    pictured = Prompt(messages=(Message.of({"role": "user", "content": image}),))
    tooled = Prompt(messages=PROMPTS[0].messages, request=to_json({"tools": []}))
    for prompt, said in ((pictured, "content"), (tooled, "tools")):
        with pytest.raises(PromptError, match=f"cannot honour {said}"):
            asyncio.run(extended(model, Path.root(prompt), 1, "end", HOT))
