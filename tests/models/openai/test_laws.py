"""The laws of the model seam on every kind of server, and the exact law of what is sampled."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from typing import Any

import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import ModelError, OptionError, PromptError
from itscale.methods import Beam, Majority
from itscale.models.base import Capability
from itscale.models.fake import FakeModel
from itscale.models.openai.model import OpenAIModel
from itscale.randomness import Seeded
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import MODEL_LAWS, all_paths
from itscale.types import End, Message, Path, Prompt, Sampling, Until
from tests.models.openai.servers import ANSWERS, Server, connected

PROMPT = Prompt(
    (Message("system", "be brief"), Message("user", "a b"), Message("assistant", "c"), Message("user", "d"))
)
KINDS: dict[str, dict[str, Any]] = {
    "token": {},
    "token, n ignored": {"n": "ignores"},
    "token, n rejected": {"n": "rejects"},
    "token, n copied": {"n": "copies"},
    "token, no seeds": {"seeds": False},
    "token, short context": {"context": 40},
    "token, not streamed": {"streams": None},
    "token, streamed uncounted": {"streams": "uncounted"},
    "chat": {"tokens": False},
    "chat, n ignored": {"tokens": False, "n": "ignores"},
    "chat, n rejected": {"tokens": False, "n": "rejects"},
    "chat, n copied": {"tokens": False, "n": "copies"},
    "chat, no logprobs": {"tokens": False, "logprobs": False},
    "chat, no logprobs, n copied": {"tokens": False, "logprobs": False, "n": "copies"},
    "chat, prefix": {"tokens": False, "prefill": "prefix"},
    "chat, not streamed": {"tokens": False, "streams": None},
    "chat, counted at the end": {"tokens": False, "streams": "closing"},
    "chat, no logprobs, counted at the end": {"tokens": False, "streams": "closing", "logprobs": False},
    "chat, stop named": {"tokens": False, "stop": "named"},
    "chat, no continuation": {"tokens": False, "prefill": None},
    "chat, stop not told": {"tokens": False, "stop": "silent"},
    "chat, strict": {
        "tokens": False,
        "rejects": ("top_k", "logprobs", "seed", "include_stop_str_in_output", "max_tokens"),
    },
}
STEPLESS = {"chat, no continuation", "chat, stop not told"}


async def extended(
    model: OpenAIModel, n: int, what: str = "end", *, path: Path | None = None, seed: int = 0, limit: int = 20
) -> tuple[list[Path], Ledger]:
    """Children at temperature 1, and what they were charged."""
    ledger = Ledger(Budget())
    until = Until("step" if what == "step" else "end", limit)
    paths = await model.extend(path or Path.root(PROMPT), n, until, Sampling(), Seeded(seed), ledger)
    return paths, ledger


@pytest.mark.parametrize("law", MODEL_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_every_law_on_every_kind_of_server(kind: str, law: Any):
    """Each law of the seam holds whatever the server can or cannot do (equal samples: below 1e-4)."""

    async def run() -> None:
        model = await connected(Server(**KINDS[kind]))
        await law(model, [PROMPT, Prompt.user("another one")])
        await model.close()

    asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
def test_capabilities_are_what_the_server_can_do(kind: str):
    """Steps, seeds and log-probabilities are offered where they are honoured, and nowhere else."""
    server = Server(**KINDS[kind])
    model = asyncio.run(connected(server))
    strict = kind == "chat, strict"
    assert (Capability.STEPS in model.capabilities) is (kind not in STEPLESS)
    assert (Capability.SEEDS in model.capabilities) is (server.seeds and not strict)
    assert (Capability.LOGPROBS in model.capabilities) is (server.logprobs and not strict)
    assert model.facts.streams == (None if server.streams == "uncounted" else server.streams)
    # Where tokens are not told, copies would never be noticed later, so the probe looks.
    told = server.logprobs and not strict
    assert model.facts.n is (server.n == "honours" or (server.n == "copies" and told))
    assert model.facts.each is told or not model.facts.n


@pytest.mark.parametrize("kind", ["token", "chat", "chat, no logprobs"])
def test_a_whole_answer_falls_into_the_steps_asking_for_steps_gives(kind: str):
    """Sampled step by step from one server, or whole and cut up here: the same nodes."""
    by_text = {path.text: path for path, _ in all_paths(ANSWERS, PROMPT)}

    async def run() -> None:
        model = await connected(Server(**KINDS[kind]))
        for seed in range(8):
            [whole], _ = await extended(model, 1, seed=seed)
            true = by_text[whole.text]
            assert [step.text for step in whole.steps] == [step.text for step in true.steps]
            assert [step.end for step in whole.steps] == [step.end for step in true.steps]
            assert whole.n_tokens == true.n_tokens
            if kind != "chat, no logprobs":  # there a step's share of the count is by length
                assert [step.n_tokens for step in whole.steps] == [step.n_tokens for step in true.steps]
                for step, exact in zip(whole.steps, true.steps, strict=True):
                    assert math.isclose(step.logprob, exact.logprob, abs_tol=1e-12)

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["token", "chat, no logprobs"])
def test_steps_follow_the_law_of_the_model(kind: str):
    """120 answers made in steps have the exact law: no path is 6 sigma off (false alarm below 1e-6)."""
    law = {path.text: p for path, p in all_paths(ANSWERS, PROMPT)}

    async def one(model: OpenAIModel, seed: int) -> str:
        path = Path.root(PROMPT)
        while not path.ended:
            [path], _ = await extended(model, 1, "step", path=path, seed=1000 * path.depth + seed)
        return path.text

    async def run() -> Counter[str]:
        model = await connected(Server(**KINDS[kind]))
        return Counter(await asyncio.gather(*(one(model, seed) for seed in range(120))))

    counts = asyncio.run(run())
    assert set(counts) <= set(law)
    for text, p in law.items():
        assert abs(counts[text] - 120 * p) < 6 * math.sqrt(120 * p * (1 - p)), text


@pytest.mark.parametrize("kind", ["token", "chat"])
def test_n_children_come_in_one_request(kind: str):
    """A server that honours n is asked once for four children, and read once."""

    async def run() -> None:
        server = Server(**KINDS[kind])
        model = await connected(server)
        paths, ledger = await extended(model, 4)
        asked = [body for where, body, _ in server.requests if where.endswith("completions")]
        assert [body["n"] for body in asked] == [4]
        assert len(paths) == 4
        assert ledger.model_calls == 1
        assert ledger.generated_tokens == server.generated == sum(path.n_tokens for path in paths)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("n", "said"), [("ignores", "gave 1 of 4"), ("rejects", "refuses n"), ("copies", "4 equal")]
)
def test_a_server_that_stops_honouring_n_is_noticed_and_said(
    n: str, said: str, caplog: pytest.LogCaptureFixture
):
    """The children all come, each from its own seed, everything is paid for, and the log says why."""

    async def run() -> None:
        server = Server()
        model = await connected(server)
        server.n = n
        with caplog.at_level(logging.WARNING):
            for seed in range(3):
                paths, ledger = await extended(model, 4, seed=seed)
                assert len(paths) == 4
                assert ledger.generated_tokens >= sum(path.n_tokens for path in paths)
        assert model.facts.n is False or n == "copies"
        server.requests.clear()
        if not model.facts.n:
            await extended(model, 4)
            seeds = [body["seed"] for body in server.asked("/v1/completions")]
            assert seeds == [Seeded(0).child(i).seed % 2**31 for i in range(4)]

    asyncio.run(run())
    if n != "copies":
        assert said in caplog.text


def test_equal_samples_are_a_fault_only_where_they_are_improbable(caplog: pytest.LogCaptureFixture):
    """Eight copies of an answer of probability 0.1 are no accident; two of them may be."""

    async def run() -> None:
        model = await connected(Server(n="copies"))
        pair, _ = await extended(model, 2)
        assert pair[0].text == pair[1].text
        assert model.facts.n
        many, ledger = await extended(model, 16)
        assert len(many) == 16
        assert len({path.text for path in many}) > 1
        assert not model.facts.n
        assert ledger.model_calls == 1 + 15

    asyncio.run(run())
    assert "16 equal samples" in caplog.text


def test_messages_arrive_whole():
    """System and earlier turns are sent as they are; a path is continued behind them."""

    async def run() -> None:
        server = Server(tokens=False)
        model = await connected(server)
        [path], _ = await extended(model, 1, "step")
        await extended(model, 1, "step", path=path)
        first, second = server.asked("/v1/chat/completions")
        whole = [{"role": m.role, "content": m.content} for m in PROMPT.messages]
        assert first["messages"] == whole
        assert second["messages"] == [*whole, {"role": "assistant", "content": path.text}]
        assert (second["continue_final_message"], second["add_generation_prompt"]) == (True, False)

    asyncio.run(run())


def test_a_prompt_is_tokenized_once_and_continued_on_its_ids():
    """Eight concurrent calls read the prompt's ids once; a continuation sends ids, never text again."""

    async def run() -> None:
        server = Server()
        model = await connected(server)
        groups = await asyncio.gather(*(extended(model, 1, "step", seed=i) for i in range(8)))
        assert len(server.asked("/tokenize")) == 1
        [path] = groups[0][0]
        server.requests.clear()
        await extended(model, 1, "step", path=path)
        [body] = server.asked("/v1/completions")
        assert body["prompt"][-len(path.token_ids) :] == list(path.token_ids)

    asyncio.run(run())


def test_reasoning_is_kept_apart_from_the_answer():
    """What the server marks as thought is on the step, and not in the text that is voted on."""

    async def run() -> None:
        model = await connected(Server(tokens=False, reasoning="let me think"))
        [path], _ = await extended(model, 1)
        assert path.steps[0].reasoning == "let me think"
        assert "think" not in path.text

    asyncio.run(run())


def test_step_methods_are_refused_where_nothing_can_be_continued():
    """The refusal names methods that do work, and they work."""

    async def run() -> None:
        server = Server(**KINDS["chat, no continuation"])
        model = await connected(server)
        with pytest.raises(OptionError, match="majority, best-of-n"):
            await Beam().run(PROMPT, model, FakeProcessScorer(lambda path: 0.5), Budget(generations=4))
        assert server.requests == []
        result = await Majority(max_tokens=8).run(PROMPT, model, None, Budget(generations=4))
        assert len(result.candidates) == 4
        with pytest.raises(ModelError, match="majority, best-of-n"):
            await extended(model, 1, "step")

    asyncio.run(run())


@pytest.mark.parametrize("dialect", [{}, {"tokens": False}])
def test_a_length_is_never_the_end(dialect: dict[str, Any]):
    """Cut within a step or right on a boundary, an answer asked for whole is truncated."""

    async def run() -> None:
        model = await connected(Server(**dialect))
        for limit in (1, 2):
            [path], _ = await extended(model, 1, limit=limit)
            assert path.n_tokens == limit
            assert path.step.end is End.LENGTH

    asyncio.run(run())


def test_a_full_context_ends_a_path_and_refuses_a_prompt():
    """What is left of the context is used to the last token; then the path is cut off, not failed."""

    async def run() -> None:
        model = await connected(Server(context=24))
        path = Path.root(Prompt.user(" ".join("w" * 21)))
        [path], _ = await extended(model, 1, path=path, limit=20)
        assert (path.n_tokens, path.step.end) == (3, End.LENGTH)
        [path], _ = await extended(model, 1, "step", path=path, limit=20)
        assert (path.step.token_ids, path.step.end) == ((), End.LENGTH)
        with pytest.raises(
            ModelError, match="prompt has 30 tokens and the model's context holds 24; shorten it"
        ):
            await extended(model, 1, path=Path.root(Prompt.user(" ".join("w" * 30))))

    asyncio.run(run())


def test_raw_text_needs_the_token_dialect():
    """Raw prompts are continued on their tokens; a chat server refuses them in a sentence."""

    async def run() -> None:
        raw = Path.root(Prompt(raw="once upon a time"))
        model = await connected(Server())
        paths, ledger = await extended(model, 1, path=raw)
        assert paths[0].finished
        assert ledger.prompt_tokens == 4
        chat = await connected(Server(tokens=False))
        with pytest.raises(PromptError, match="chat messages only"):
            await extended(chat, 1, path=raw)

    asyncio.run(run())


def test_what_cannot_be_switched_off_is_not_asked_for():
    """A server without top_k refuses a method that wants it, before any request."""

    async def run() -> None:
        server = Server(**KINDS["chat, strict"])
        model = await connected(server)
        with pytest.raises(OptionError, match="takes no top_k"):
            await model.extend(
                Path.root(PROMPT), 1, Until("end", 4), Sampling(top_k=5), Seeded(0), Ledger(Budget())
            )
        assert server.requests == []

    asyncio.run(run())


def test_log_probabilities_are_those_of_the_sampling_distribution_or_none():
    """A server's figures are for temperature 1; at another they would be wrong, so there are none."""

    async def run() -> None:
        model = await connected(Server())
        for sampling, known in (
            (Sampling(), True),
            (Sampling(temperature=0.0), True),
            (Sampling(temperature=0.7), False),
            (Sampling(top_p=0.9), False),
        ):
            [path] = await model.extend(
                Path.root(PROMPT), 1, Until("end", 9), sampling, Seeded(0), Ledger(Budget())
            )
            assert (path.steps[0].logprob is not None) is known
            if sampling.temperature == 0:  # "one ", "and|": told at temperature 1
                assert math.isclose(path.steps[0].logprob, math.log(0.7 * 0.6))

    asyncio.run(run())


def test_answering_anew_is_not_taken_for_going_on():
    """A model that repeats itself seems to go on wherever it is put: then nothing is offered."""
    ha = FakeModel(lambda prefix: {"ha ": 1.0} if len(prefix) < 9 else {"$": 1.0}, vocabulary=["ha ", "$"])
    model = asyncio.run(connected(Server(model=ha, tokens=False, prefill=None)))
    assert Capability.STEPS not in model.capabilities
