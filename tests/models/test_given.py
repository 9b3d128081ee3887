"""Log-probabilities of a given continuation, text of a method's own, and what steps tell of their tokens."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
import torch

from itscale.budget import Budget, Ledger
from itscale.embedded import REASONER
from itscale.errors import ModelError, OptionError
from itscale.methods.session import Session
from itscale.models.fake import FakeModel
from itscale.models.local import LocalModel
from itscale.models.recorded import RecordedModel
from itscale.randomness import Seeded
from itscale.recording import Recording
from itscale.testing import all_paths
from itscale.types import Path, Prompt, Sampling, Step, Until
from tests.methods.trees import PROMPT, TREE

COUNTDOWN = Prompt.user("Make 45 from 3, 7, 12, 23.")
TO_THE_END = Until("end", 64)


@pytest.fixture(scope="module")
def reasoner():
    """The embedded reasoner, once for all tests of this file."""
    model = LocalModel.load(REASONER)
    yield model
    asyncio.run(model.close())


async def sampled(model, prompt, n, sampling, ledger=None):
    """Whole answers under seed 0."""
    return await model.extend(
        Path.root(prompt), n, TO_THE_END, sampling, Seeded(0), ledger or Ledger(Budget())
    )


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=0.6), Sampling(temperature=1.3, top_k=3), Sampling(top_p=0.9)],
)
def test_given_logprobs_are_those_of_sampling(reasoner, sampling):
    """What sampling said of its own tokens is what the engine says of them when they are given."""

    async def check() -> None:
        for path in await sampled(reasoner, COUNTDOWN, 6, sampling):
            first, rest = path.steps[0], [t for s in path.steps[1:] for t in s.token_ids]
            node = next(n for n in path.nodes() if n.depth == 1)
            ledger = Ledger(Budget())
            given = await reasoner.logprobs_of(node, rest, sampling, ledger)
            told = [p for s in path.steps[1:] for p in s.token_logprobs]
            assert given == pytest.approx(told, abs=2e-5)
            assert (ledger.model_calls, ledger.generated_tokens) == (1, 0)
            whole = await reasoner.logprobs_of(Path.root(COUNTDOWN), path.token_ids, sampling, ledger)
            assert whole[: len(first.token_ids)] == pytest.approx(first.token_logprobs, abs=2e-5)

    asyncio.run(check())


def test_given_logprobs_equal_plain_transformers(reasoner):
    """The engine's answer is a log-softmax of the model's own logits, computed without the engine."""
    from transformers import AutoModelForCausalLM

    [path] = asyncio.run(sampled(reasoner, COUNTDOWN, 1, Sampling()))
    ids = list(path.token_ids)
    given = asyncio.run(reasoner.logprobs_of(Path.root(COUNTDOWN), ids, Sampling(), Ledger(Budget())))
    prompt = list(reasoner.prompts.ids(COUNTDOWN))
    plain = AutoModelForCausalLM.from_pretrained(REASONER, dtype=torch.float32)
    with torch.inference_mode():
        logits = plain(torch.tensor([prompt + ids])).logits[0].double()
    law = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
    assert given == pytest.approx([float(row[t]) for row, t in zip(law, ids, strict=True)], abs=2e-5)
    entropies = [e for step in path.steps for e in step.token_entropies]
    assert entropies == pytest.approx((-(law.exp() * law).sum(-1)).tolist(), abs=2e-5)
    certainties = [c for step in path.steps for c in step.token_certainties]
    uniform = torch.full_like(law, -math.log(law.shape[-1]))
    divergences = torch.nn.functional.kl_div(law, uniform, reduction="none", log_target=True).sum(-1)
    assert certainties == pytest.approx(divergences.tolist(), abs=2e-5)


def test_many_questions_at_once_get_their_own_answers(reasoner):
    """Questions of different lengths about different paths, beside sampling, are not mixed up."""

    async def check() -> None:
        prompts = [Prompt.user(f"Make {n} from 3, 7, 12, 23.") for n in (45, 31, 20)]
        paths = [p for prompt in prompts for p in await sampled(reasoner, prompt, 4, Sampling())]
        questions = [
            reasoner.logprobs_of(Path.root(p.prompt), p.token_ids[:k], Sampling(), Ledger(Budget()))
            for p in paths
            for k in (1, 5, p.n_tokens)
        ]
        beside = sampled(reasoner, prompts[0], 8, Sampling())
        *answers, _ = await asyncio.gather(*questions, beside)
        expected = [
            [x for s in p.steps for x in s.token_logprobs][:k] for p in paths for k in (1, 5, p.n_tokens)
        ]
        for answer, told in zip(answers, expected, strict=True):
            assert answer == pytest.approx(told, abs=2e-5)

    asyncio.run(check())
    assert reasoner.engine.cache.reserved == 0, "what questions had reserved was given back"


def test_steps_tell_their_tokens(reasoner):
    """A step's log-probability is the sum of its tokens', and there is one of each for every token."""
    for model, prompt in ((reasoner, COUNTDOWN), (FakeModel(TREE), PROMPT)):
        for path in asyncio.run(sampled(model, prompt, 8, Sampling())):
            for step in path.steps:
                assert len(step.token_logprobs) == len(step.token_certainties) == step.n_tokens
                assert len(step.token_entropies) == step.n_tokens
                assert math.fsum(step.token_logprobs) == pytest.approx(step.logprob, abs=1e-12)
                assert all(entropy >= 0 for entropy in step.token_entropies)


def test_fake_model_tells_the_law_of_its_table():
    """Given log-probabilities of every path of a table add up to the path's probability."""
    model = FakeModel(TREE)
    for path, probability in all_paths(model, PROMPT):
        given = asyncio.run(
            model.logprobs_of(Path.root(PROMPT), path.token_ids, Sampling(), Ledger(Budget()))
        )
        assert math.exp(math.fsum(given)) == pytest.approx(probability, rel=1e-12)


def test_a_forced_step_is_read_like_any_other(reasoner):
    """After a forced line the model goes on as after the same line of its own, and it cost nothing."""

    async def check() -> None:
        [path] = await sampled(reasoner, COUNTDOWN, 1, Sampling(temperature=0.0))
        own = next(n for n in path.nodes() if n.depth == 1)
        forced = reasoner.forced(Path.root(COUNTDOWN), own.step.text)
        assert forced.step.token_ids == own.step.token_ids
        assert forced.step.forced
        assert forced.step.logprob is None
        ledger = Ledger(Budget())
        [again] = await reasoner.extend(forced, 1, TO_THE_END, Sampling(temperature=0.0), Seeded(1), ledger)
        assert again.text == path.text
        assert ledger.generated_tokens == path.n_tokens - own.n_tokens

    asyncio.run(check())


def test_forced_tokens_are_not_counted_as_kept():
    """Discarded is generated less kept, so a forced step must not count as generated and kept."""
    from itscale.methods.base import _distinct_tokens

    model = FakeModel(TREE)
    forced = model.forced(Path.root(PROMPT), model.vocabulary[1])
    assert forced.n_tokens == 1
    assert _distinct_tokens([forced]) == 0


def test_a_recording_answers_given_logprobs(tmp_path):
    """The same question is asked of the model once; its answer and charges come back."""

    async def ask(model, recording) -> tuple:
        ledger = Ledger(Budget())
        recorded = RecordedModel(model, recording)
        path, _ = all_paths(model, PROMPT)[0]
        answer = await recorded.logprobs_of(Path.root(PROMPT), path.token_ids, Sampling(), ledger)
        return answer, ledger.prompt_tokens

    model = FakeModel(TREE)
    with Recording(tmp_path / "calls.sqlite") as recording:
        first = asyncio.run(ask(model, recording))
        assert asyncio.run(ask(model, recording)) == first
    assert model.calls == 1


def test_recorded_steps_keep_what_they_tell(tmp_path):
    """A replayed step equals the one that was recorded, token statistics included."""

    async def sample(model) -> list[Step]:
        paths = await sampled(model, PROMPT, 3, Sampling())
        return [step for path in paths for step in path.steps]

    with Recording(tmp_path / "calls.sqlite") as recording:
        live = asyncio.run(sample(RecordedModel(FakeModel(TREE), recording)))
        assert asyncio.run(sample(RecordedModel(FakeModel(TREE), recording))) == live
        assert live[0].token_logprobs


def test_session_turns_a_failed_question_into_none():
    """A question that fails costs itself alone, and counts as a failed call."""
    from itscale.events import Trace

    model, ledger = FakeModel(TREE, fail=lambda call: call == 0), Ledger(Budget())
    session = Session(PROMPT, model, None, ledger, Seeded(0), Trace(), Sampling(), 64)

    async def ask() -> list:
        return [await session.logprobs(session.root, [0]) for _ in range(2)]

    failed, answered = asyncio.run(ask())
    assert failed is None
    assert answered is not None
    assert ledger.failed_calls == 1


def test_too_long_a_continuation_is_refused_with_the_fix(reasoner):
    """Past the context window there is no answer, and the error says what to lower."""
    with pytest.raises(ModelError, match="lower max_tokens"):
        asyncio.run(
            reasoner.logprobs_of(
                Path.root(COUNTDOWN), np.ones(400, int).tolist(), Sampling(), Ledger(Budget())
            )
        )


def test_a_model_without_it_says_what_would_do():
    """A backend that tells no given log-probabilities refuses with a typed error."""

    class Plain(FakeModel):
        logprobs_of = FakeModel.__mro__[1].logprobs_of
        forced = FakeModel.__mro__[1].forced

    model = Plain(TREE)
    with pytest.raises(OptionError, match="hf:PATH"):
        asyncio.run(model.logprobs_of(Path.root(PROMPT), [0], Sampling(), Ledger(Budget())))
    with pytest.raises(OptionError, match="hf:PATH"):
        model.forced(Path.root(PROMPT), "a")
