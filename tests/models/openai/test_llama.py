"""llama.cpp's servers: their own endpoint, and what llama-cpp-python's does in its own way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import ModelError
from itscale.methods import ParticleFilter
from itscale.models.base import Capability
from itscale.models.openai.llama import read_native
from itscale.models.openai.wire import Malformed
from itscale.randomness import Seeded
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import MODEL_LAWS
from itscale.types import End, Path, Prompt, Sampling, Until
from tests.models.openai.servers import BASE, Server, connected, error, ok

PROMPT = Prompt.user("a b")
ENDS = {"length": "limit", "stop": "eos"}


@dataclass
class LlamaServer(Server):
    """`llama-server`: ids and the stop string at /completion, neither anywhere else."""

    tokens: bool = False
    prefill: str | None = "trailing"
    stop: str = "silent"
    names: tuple[str, ...] = ("tiny",)
    stop_tokens: int = 1
    """How many tokens it takes a stop string for: so many lack a text at the end."""

    async def _answer(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
        if path == "/apply-template":
            return ok({"prompt": " ".join(m["content"] for m in body["messages"])})
        if path == "/tokenize":
            if "content" not in body:
                return error(400, "no content")
            return ok({"tokens": [BASE + i for i in range(len(body["content"].split()))]})
        if path == "/props":
            return ok({"default_generation_settings": {"n_ctx": self.context or 100}})
        if path == "/completion":
            return self._native(body)
        return await super()._answer(path, body, headers)

    def _native(self, body: dict[str, Any]) -> Any:
        assert body["samplers"] == ["temperature", "top_k", "top_p"], "its own samplers must not run"
        prefix = [i for i in body["prompt"] if i < BASE]
        said = self._say(body, prefix, body["n_predict"], body["seed"] if self.seeds else self.generated)
        self.generated += len(said.ids)
        pieces = [self.model.text_of([i]) for i in said.ids]
        text = "".join(pieces)
        if said.stopped_on:
            text, pieces = text[: text.index(said.stopped_on)], pieces[: -self.stop_tokens]
        return ok(
            {
                "content": text,
                "tokens": said.ids,
                "stop_type": "word" if said.stopped_on else ENDS[said.finish],
                "stopping_word": said.stopped_on or "",
                "tokens_evaluated": len(body["prompt"]),
                "tokens_predicted": len(said.ids),
                "timings": {"cache_n": 1},
                "completion_probabilities": [{"token": piece, "logprob": -1.0} for piece in pieces],
            }
        )


async def extended(model: Any, path: Path, n: int, what: str, limit: int = 20) -> tuple[list[Path], Ledger]:
    ledger = Ledger(Budget())
    until = Until(what, limit)  # type: ignore[arg-type]
    return await model.extend(path, n, until, Sampling(), Seeded(0), ledger), ledger


@pytest.mark.parametrize("law", MODEL_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("stop_tokens", [1, 2])
def test_every_law_holds_through_its_own_endpoint(law: Any, stop_tokens: int):
    """Also where it takes the stop string for more tokens than it is."""

    async def run() -> None:
        model = await connected(LlamaServer(stop_tokens=stop_tokens))
        await law(model, [PROMPT])

    asyncio.run(run())


def test_ids_steps_and_counts_come_from_its_own_endpoint():
    """Steps without log-probabilities; what it counts is what is charged, its cached tokens included."""

    async def run() -> None:
        server = LlamaServer()
        model = await connected(server)
        assert model.facts.dialect == "llama"
        assert model.capabilities == {Capability.STEPS, Capability.SEEDS, Capability.FORCING}
        assert model.facts.max_context == 100
        [path], ledger = await extended(model, Path.root(PROMPT), 1, "step")
        assert path.step.end is End.BOUNDARY
        assert path.step.text.endswith("|")
        assert path.step.token_ids == tuple(server.model.vocabulary.index(p) for p in _pieces(path.step.text))
        assert (ledger.prompt_tokens, ledger.cached_tokens) == (2, 1)
        assert ledger.generated_tokens == server.generated == path.n_tokens
        result = await ParticleFilter().run(
            PROMPT, model, FakeProcessScorer(lambda path: 0.5), Budget(generations=4)
        )
        assert len(result.candidates) == 4
        assert {where for where, _, _ in server.requests} == {"/apply-template", "/tokenize", "/completion"}

    asyncio.run(run())


def _pieces(text: str) -> list[str]:
    return text.replace(" ", " \n").replace("|", "|\n").split("\n")[:-1]


def test_a_full_context_is_known_before_the_server_is_asked():
    """Its size is that of one slot, as the server says."""

    async def run() -> None:
        model = await connected(LlamaServer(context=4))
        [path], _ = await extended(model, Path.root(PROMPT), 1, "end")
        assert (path.n_tokens, path.step.end) == (2, End.LENGTH)
        with pytest.raises(ModelError, match="the model's context holds 4; shorten it"):
            await extended(model, Path.root(Prompt.user("a b c d e")), 1, "end")

    asyncio.run(run())


@pytest.mark.parametrize(
    "body",
    [
        {"content": "a"},
        {"content": "a", "tokens": ["a"]},
        {"content": "a", "tokens": [1], "completion_probabilities": "x"},
    ],
)
def test_what_is_no_answer_of_it_is_malformed(body: dict[str, Any]):
    """Whatever is missing or of another type."""
    with pytest.raises(Malformed):
        read_native(body)


@dataclass
class PythonServer(Server):
    """`python -m llama_cpp.server`: 500 for what it finds invalid, and top_k is off at 0."""

    tokens: bool = False
    prefill: str | None = None

    async def _answer(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
        if path.endswith("chat/completions") and body.get("top_k", 0) < 0:
            return error(
                500, "1 validation error: {'loc': ('body', 'top_k'), 'msg': 'greater than or equal to 0'}"
            )
        return await super()._answer(path, body, headers)


def test_an_invalid_field_answered_with_500_is_a_refusal():
    """It is not asked again, and what switches its samplers off is found and sent."""

    async def run() -> None:
        server = PythonServer()
        model = await connected(server)
        assert model.facts.neutral
        assert model.facts.no_top_k == 0
        [path], _ = await extended(model, Path.root(PROMPT), 1, "end")
        assert path.finished
        [body] = server.asked("/v1/chat/completions")
        assert (body["top_k"], body["min_p"], body["repeat_penalty"]) == (0, 0.0, 1.0)

    asyncio.run(run())


def test_a_server_that_lists_nothing_may_serve_the_model_that_is_named():
    """transformers serve lists its download cache."""

    async def run() -> None:
        model = await connected(Server(tokens=False, names=()))
        assert model.facts.model == "tiny"

    asyncio.run(run())
