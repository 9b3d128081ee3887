"""llama.cpp's servers: their own endpoint, and what llama-cpp-python's does in its own way."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from tests.models.openai.canned import error, ok
from tests.models.openai.servers import ANSWERS, BASE, Server, connected

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
    hides: str | None = None
    """A token it shows nothing of, as if it were a part of a character that the next one completes."""
    holds: bool = False
    """Whether its stream keeps back the last token before a limit, as where it begins a stop string."""
    last_words: bytes = b""

    async def _answer(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
        if path == "/apply-template":
            return ok({"prompt": " ".join(m["content"] for m in body["messages"])})
        if path == "/tokenize":
            if "content" not in body:
                return error(400, "no content")
            if not body["add_special"]:
                return ok({"tokens": self.ids_of(body["content"])})
            return ok({"tokens": [BASE + i for i in range(len(body["content"].split()))]})
        if path == "/detokenize":
            return ok({"content": self.model.text_of(body["tokens"])})
        if path == "/props":
            return ok({"default_generation_settings": {"n_ctx": self.context or 100}, "total_slots": 3})
        if path == "/completion":
            return self._native(body)
        return await super()._answer(path, body, headers)

    def _native(self, body: dict[str, Any]) -> Any:
        assert body["samplers"] == ["temperature", "top_k", "top_p"], "its own samplers must not run"
        prefix = [i for i in body["prompt"] if i < BASE]
        said = self._say(body, prefix, body["n_predict"], body["seed"] if self.seeds else self.generated)
        texts = [self.model.text_of([i]) for i in said.ids]
        whole = "".join(texts)
        if said.stopped_on:
            whole = whole[: whole.index(said.stopped_on)]
            texts[-1] = whole[len("".join(texts[:-1])) :]
        shown, held = [], ""
        for i, text in zip(said.ids, texts, strict=True):
            held += text
            if self.model.vocabulary[i] != self.hides:
                at = len(shown)
                law = [{"id": other, "logprob": p} for other, p in said.laws[at].items()]
                if len(law) > body["n_probs"]:
                    del law[0]  # the one drawn, which is not among the likeliest
                shown.append({"id": i, "token": held, "logprob": said.logprobs[at], "top_logprobs": law})
                held = ""
        told = {
            "stop_type": "word" if said.stopped_on else ENDS[said.finish],
            "stopping_word": said.stopped_on or "",
            "tokens_evaluated": len(body["prompt"]),
            "tokens_predicted": len(said.ids),
            "timings": {"cache_n": 1},
        }
        if body["stream"] and self.streams:
            return 200, {}, self._native_events(body, said, shown, told)
        self.generated += len(said.ids)
        kept = shown[: -self.stop_tokens] if said.stopped_on else shown
        return ok({"content": whole, "tokens": said.ids, "completion_probabilities": kept} | told)

    def _native_events(
        self, body: dict[str, Any], said: Any, shown: list[dict[str, Any]], told: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """An event for each token that is shown, and one that tells the counts."""
        read = {"tokens_evaluated": len(body["prompt"]), "stop": False}
        left = list(shown)
        if said.finish == "length" and self.holds:
            left[-1] = {**left[-1], "token": ""}
        for made, i in enumerate(said.ids, start=1):
            if left and left[0]["id"] == i:
                piece = left.pop(0)
                yield {
                    "content": piece["token"],
                    "tokens": [i],
                    "tokens_predicted": made,
                    "completion_probabilities": [piece],
                } | read
        yield {"content": "", "tokens": [], "stop": True, "completion_probabilities": shown} | told

    def _made(self, event: dict[str, Any]) -> int:
        return len(event["tokens"])


async def extended(model: Any, path: Path, n: int, what: str, limit: int = 20) -> tuple[list[Path], Ledger]:
    ledger = Ledger(Budget())
    until = Until(what, limit)  # type: ignore[arg-type]
    return await model.extend(path, n, until, Sampling(), Seeded(0), ledger), ledger


@pytest.mark.parametrize("law", MODEL_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(
    "server",
    [
        LlamaServer(),
        LlamaServer(streams=None),
        LlamaServer(streams=None, stop_tokens=2),
        LlamaServer(hides="or "),
        LlamaServer(streams=None, hides="or "),
    ],
    ids=["streamed", "whole", "a stop of two tokens", "parts of characters", "whole, parts of characters"],
)
def test_every_law_holds_through_its_own_endpoint(law: Any, server: LlamaServer):
    """Streamed or whole, also where it takes the stop string for more tokens than it is, or a character
    takes several tokens."""

    async def run() -> None:
        await law(await connected(server), [PROMPT])

    asyncio.run(run())


@pytest.mark.parametrize("boundary", ["or else", "nothing of it"])
def test_half_a_stop_string_at_the_limit_is_in_the_text(boundary: str):
    """A stream holds it back and never shows it; its tokens say what it is. What is held back and begins no
    stop string is no text of the answer."""

    async def run() -> None:
        model = await connected(LlamaServer(holds=True))
        model.endpoint.address = replace(model.endpoint.address, boundary=boundary)
        grown, _ = await extended(model, Path.root(PROMPT), 8, "step", 2)
        texts = {path.token_ids: path.text for path in grown if path.step.end is End.LENGTH}
        said = ANSWERS.text_of
        assert texts == {ids: said(ids if boundary.startswith(said(ids[-1:])) else ids[:-1]) for ids in texts}
        assert any(boundary.startswith(said(ids[-1:])) for ids in texts) is (boundary == "or else")

    asyncio.run(run())


def test_ids_steps_and_counts_come_from_its_own_endpoint():
    """Steps and their log-probabilities; what it counts is what is charged, its cached tokens included."""

    async def run() -> None:
        server = LlamaServer()
        model = await connected(server)
        assert model.facts.dialect == "llama"
        offered = {Capability.STEPS, Capability.SEEDS, Capability.FORCING, Capability.LOGPROBS}
        told = {Capability.TOKEN_STATISTICS, Capability.SELF_CERTAINTY}
        assert model.capabilities == offered | told
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


def test_log_probabilities_come_with_the_stream_and_not_without():
    """Those the server's model has, of every token of every step, the stop string's included."""

    async def run() -> None:
        for streams in ("counting", None):
            server = LlamaServer(streams=streams)
            model = await connected(server)
            assert (Capability.LOGPROBS in model.capabilities) is (streams is not None)
            [path], _ = await extended(model, Path.root(PROMPT), 1, "step")
            said: list[int] = []
            for i, logprob in zip(
                path.step.token_ids, path.step.token_logprobs or (), strict=streams is not None
            ):
                assert logprob == pytest.approx(math.log(server.model.probabilities(said)[i]))
                said.append(i)

    asyncio.run(run())


def test_forced_text_is_read_by_the_server_and_continued():
    """Its ids come from /tokenize, asked once, and stand behind those that were drawn."""

    async def run() -> None:
        server = LlamaServer()
        model = await connected(server)
        path = model.forced(Path.root(PROMPT), "one and|")
        [child], _ = await extended(model, path, 1, "step")
        again, _ = await extended(model, path, 2, "step")
        words = server.model.vocabulary
        bodies = server.asked("/completion")
        assert {tuple(body["prompt"][2:]) for body in bodies} == {(words.index("one "), words.index("and|"))}
        assert [b["content"] for b in server.asked("/tokenize") if not b["add_special"]] == ["one and|"]
        assert {p.step.text for p in (child, *again)} <= {"yes", "no|"}

    asyncio.run(run())


def test_what_had_come_of_a_cancelled_call_is_charged():
    """To the token, whatever the server was asked for."""

    async def run() -> None:
        server = LlamaServer(turns=20)
        model, ledger = await connected(server), Ledger(Budget())
        call = model.extend(Path.root(PROMPT), 2, Until("end", 20), Sampling(), Seeded(0), ledger)
        task = asyncio.ensure_future(call)
        while server.generated < 2:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ledger.generated_tokens == server.generated >= 2
        assert ledger.prompt_tokens == 4
        assert server.aborted == 2

    asyncio.run(run())


def test_no_more_is_asked_at_once_than_the_server_s_slots_keep_busy():
    """Twice as many as it says it has."""

    async def run() -> None:
        server = LlamaServer(turns=20)
        model = await connected(server)
        assert model.facts.slots == 3
        await extended(model, Path.root(PROMPT), 24, "end")
        assert server.peak == model.endpoint.concurrency.peak == 6

    asyncio.run(run())


@pytest.mark.parametrize("streams", ["counting", None])
def test_a_character_of_several_tokens_is_counted_and_continued(streams: str | None):
    """Whole, its ids are known; in a stream the server hides all but the last, so its text is read again."""

    async def run() -> None:
        for seed in range(8):
            server = LlamaServer(hides="or ", streams=streams)
            model, ledger = await connected(server), Ledger(Budget())
            root = Path.root(PROMPT)
            [path] = await model.extend(root, 1, Until("step", 20), Sampling(), Seeded(seed), ledger)
            said = [server.model.vocabulary.index(piece) for piece in _pieces(path.step.text)]
            hidden = "or " in path.step.text
            assert ledger.generated_tokens == path.n_tokens == len(said)
            assert path.step.token_ids == (() if hidden and streams else tuple(said))
            assert (path.step.logprob is None) is (hidden or streams is None)
            await model.extend(path, 1, Until("step", 20), Sampling(), Seeded(seed), ledger)
            assert server.asked("/completion")[-1]["prompt"][2:] == said
            if hidden:
                return
        raise AssertionError("no answer had such a character")

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
        {"content": "a", "tokens": [1], "completion_probabilities": [{"id": 2, "token": "a"}]},
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
