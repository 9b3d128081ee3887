"""Entropies from the likeliest tokens: the bound, what is asked for and when, and what is not believed."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itscale.budget import Budget, Ledger
from itscale.errors import NotRecordedError, OptionError, PromptError
from itscale.methods import (
    Anytime,
    BudgetForcing,
    EntropyExit,
    EntropyTree,
    LookaheadTree,
    Majority,
    SemanticTree,
)
from itscale.methods.cutting import cut_path, split_at
from itscale.models.base import Capability, WrappedModel
from itscale.models.fake import FakeModel
from itscale.models.likeliest import least_entropy, token_ends
from itscale.models.openai.address import ALL
from itscale.models.openai.model import OpenAIModel
from itscale.models.recorded import RecordedModel
from itscale.randomness import Seeded
from itscale.recording import Recording
from itscale.testing import LawBroken, check_token_statistics
from itscale.types import Path, Prompt, Sampling, Until, to_json
from tests.models.openai.servers import Server, connected
from tests.models.openai.test_llama import LlamaServer

PROMPT = Prompt.user("a b")
ROOT = Path.root(PROMPT)
WORDS = [f"{word} " for word in ("one", "two", "three", "four", "five", "six", "seven")]
LAW = dict(zip([*WORDS, "and|", "$"], (0.3, 0.2, 0.14, 0.12, 0.08, 0.05, 0.01, 0.06, 0.04), strict=True))
WIDE = FakeModel(lambda prefix: LAW if len(prefix) < 12 else {"$": 1.0}, vocabulary=list(LAW))
"""Up to a dozen tokens of one wide law."""
TRUE = -math.fsum(p * math.log(p) for p in LAW.values())
SERVERS = {"token": Server, "llama": LlamaServer}
TREES = [EntropyTree, LookaheadTree, SemanticTree]
VLLM = "/v1/completions"


async def answers(model: OpenAIModel, n: int = 4, temperature: float = 1.0, **options: Any) -> list[Path]:
    sampling = Sampling(temperature, **{"top_logprobs": model.top_logprobs, **options})
    return await model.extend(ROOT, n, Until("end", 20), sampling, Seeded(1), Ledger(Budget()))


def entropies(paths: list[Path]) -> list[float]:
    return [entropy for path in paths for step in path.steps for entropy in step.token_entropies]


laws = st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=30).map(lambda w: np.array(w) / sum(w))


@given(laws, st.integers(1, 30), st.randoms(use_true_random=False))
def test_the_entropy_told_is_a_lower_bound_and_no_further_off_than_documented(law: Any, k: int, rng: Any):
    """Whatever the law, k and the token drawn: below the truth, above it less r log((V - k) c / r)."""
    k = min(k, len(law))
    best = [int(i) for i in np.argsort(-law, kind="stable")[:k]]
    drawn = rng.randrange(len(law))
    told = [math.log(law[i]) for i in dict.fromkeys([*best, drawn])]
    least, left = least_entropy(told, k)
    true = -math.fsum(p * math.log(p) for p in law)
    assert left == pytest.approx(1 - math.fsum(map(math.exp, told)), abs=1e-12)
    room = len(law) - len(told)
    most = math.fsum(-math.exp(p) * p for p in told) + (
        left * math.log(room / left) if room and left else 0.0
    )
    assert least - 1e-9 <= true <= most + 1e-9
    if not room:
        assert least == pytest.approx(true, abs=1e-9)


def test_the_least_entropy_is_reached():
    """Nothing larger would be a bound: 0.5 and a tail on 0.2, 0.2 and 0.1 have just that entropy."""
    law = (0.5, 0.2, 0.2, 0.1)
    told = [math.log(0.5), math.log(0.2)]
    assert least_entropy(told, 2) == pytest.approx((-math.fsum(p * math.log(p) for p in law), 0.3))


def test_tokens_that_share_a_text_do_not_make_the_bound_wrong():
    """A server that names tokens by text told one of three: the one it hid may be the likeliest left."""
    law = (0.4, 0.4, 0.2)
    assert least_entropy([math.log(0.4), math.log(0.2)], 3)[0] <= -math.fsum(p * math.log(p) for p in law)


@given(st.lists(st.sampled_from(["7", " 7", "+", "\n", "ab", "", " "]), max_size=8), st.booleans())
def test_texts_of_tokens_are_found_in_a_text(pieces: list[str], spaced: bool):
    """With or without white space of the server's own between them: the same characters, in order."""
    text = ("" if not spaced else " ").join(pieces) if spaced else "".join(pieces)
    ends = token_ends([*pieces, "<eos>"], text)
    assert ends is not None
    assert list(ends) == sorted(ends)
    assert ends[-1] == len(text)
    for piece, start, end in zip(pieces, (0, *ends), ends, strict=False):
        assert text[start:end].strip() == piece.strip()


def test_texts_that_are_another_are_not_guessed():
    """A token whose text is not there, or a text that no token says."""
    assert token_ends(["a", "x", "b"], "a b") is None
    assert token_ends(["a"], "a and more") is None
    assert token_ends([], "") == ()


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("k", [2, 5, None, ALL])
def test_entropies_are_the_law_s_or_the_least_that_k_tokens_allow(kind: str, k: int | None):
    """Exact where all tokens are told, below the truth by no more than documented where they are not."""

    async def run() -> None:
        model = await connected(SERVERS[kind](model=WIDE, likeliest=50), top_logprobs=k)
        every, best = k in (None, ALL), sorted(LAW.values(), reverse=True)[:k]
        assert (model.facts.vocabulary is not None) is (k == ALL or (every and kind == "llama"))
        paths = await answers(model)
        told = entropies(paths)
        assert len(told) == sum(path.n_tokens for path in paths)
        for path in paths:
            for at, (token, entropy) in enumerate(zip(path.token_ids, entropies([path]), strict=True)):
                if every or at == 12:
                    assert entropy == pytest.approx(TRUE if at < 12 else 0.0, abs=1e-9)
                    continue
                drawn = LAW[WIDE.vocabulary[token]]
                told = best if drawn in best else [*best, drawn]
                assert entropy == pytest.approx(least_entropy(list(map(math.log, told)), k)[0])
                assert entropy < TRUE
        certain = [c for path in paths for step in path.steps for c in step.token_certainties or ()]
        assert (Capability.SELF_CERTAINTY in model.capabilities) is (model.facts.vocabulary is not None)
        if certain:
            laws = np.array(list(LAW.values()))
            divergence = float(-np.log(laws).mean() - math.log(len(laws)))
            assert certain[0] == pytest.approx(divergence)
        assert model.left_out == pytest.approx(
            0.0 if every else 1 - sum(best), abs=0.01 if not every else 1e-9
        )

    asyncio.run(run())


@pytest.mark.parametrize("streams", ["counting", None])
@pytest.mark.parametrize("kind", SERVERS)
def test_nothing_more_is_asked_for_unless_a_method_looks_at_it(kind: str, streams: str | None):
    """A vote asks for one token at each place as ever, a rollout tree for twenty; both in the same model."""

    async def run() -> None:
        server = SERVERS[kind](streams=streams)
        model = await connected(server)
        path, field = (VLLM, "logprobs") if kind == "token" else ("/completion", "n_probs")
        await Majority(max_tokens=9).run(PROMPT, model, None, Budget(generations=3))
        assert {body[field] for body in server.asked(path)} == {1}
        server.requests.clear()
        if kind == "llama" and streams is None:  # there it tells no log-probability of a stop string
            assert Capability.TOKEN_STATISTICS not in model.capabilities
            return
        await EntropyTree(max_tokens=9).run(PROMPT, model, None, Budget(generations=7))
        assert {body[field] for body in server.asked(path)} == {model.top_logprobs}
        assert model.top_logprobs > 1

    asyncio.run(run())


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize(
    "method",
    [
        EntropyTree(max_tokens=20, spacing=1),
        LookaheadTree(max_tokens=20, ahead=2, tau_abs=0.01, tau_rel=1.0, similar=0.0),
        SemanticTree(max_tokens=20, fresh=0.0),
    ],
    ids=lambda method: method.name,
)
def test_rollout_trees_fork_on_a_server_inside_its_steps(method: Any, kind: str):
    """Their leaves are answers of the model, to the character, that share what they were forked from."""

    async def run() -> None:
        server = SERVERS[kind](model=WIDE)
        model = await connected(server)
        result = await method.run(PROMPT, model, None, Budget(generations=7), 3)
        leaves = [candidate.path for candidate in result.candidates]
        for leaf in leaves:
            assert leaf.text == WIDE.text_of(leaf.token_ids)
            assert leaf.finished
        assert len(leaves) >= 5
        assert len({leaf.token_ids for leaf in leaves}) > 1
        assert any(step.forced for leaf in leaves for step in leaf.steps), "no answer was cut inside a step"
        assert result.usage.generated_tokens == server.generated
        assert result.usage.failed_calls == 0

    asyncio.run(run())


@pytest.mark.parametrize("kind", SERVERS)
def test_a_path_is_cut_after_every_token(kind: str):
    """The text and ids of both halves add up to the whole, and what the server told of them stays known."""

    async def run() -> None:
        model = await connected(SERVERS[kind](model=WIDE))
        for path in await answers(model):
            for n in range(1, path.n_tokens):
                part = cut_path(model, path, n)
                assert part.token_ids == path.token_ids[:n]
                assert part.text == WIDE.text_of(part.token_ids)
                assert entropies([part]) == entropies([path])[:n]
                again = cut_path(model, part, max(1, n - 1))
                assert again.text == WIDE.text_of(path.token_ids[: max(1, n - 1)])
                split = split_at(path, {part.token_ids: part.text})
                assert cut_path(model, split, path.n_tokens - 1).text == WIDE.text_of(path.token_ids[:-1])
                for step in split.steps:
                    assert step.token_ends[-1:] == (len(step.text),) * bool(step.token_ids)

    asyncio.run(run())


def test_where_a_server_hides_parts_of_characters_a_path_is_cut_at_its_steps():
    """Such a step tells neither entropies nor ids: no method forks in it, and a cut gives what is before."""

    async def run() -> None:
        model = await connected(LlamaServer(hides="or "))
        for seed in range(20):
            sampling, ledger = Sampling(top_logprobs=20), Ledger(Budget())
            [path] = await model.extend(ROOT, 1, Until("end", 20), sampling, Seeded(seed), ledger)
            if "or " in path.steps[0].text:
                assert path.steps[0].token_entropies is None
                assert cut_path(model, path, 1).depth == 0
                return
        raise AssertionError("no answer had such a character")

    asyncio.run(run())


@pytest.mark.parametrize(
    "server",
    [
        {"likeliest": None},
        {"likeliest": 5},
        {"laws": "sampled"},
        {"logprobs": False},
        {"tokens": False},
    ],
    ids=["tells one", "tells five", "tells laws after temperature", "tells no probabilities", "chat"],
)
def test_what_is_not_told_or_not_believed_is_refused_before_the_first_token(server: dict[str, Any]):
    """None told, fewer than asked for, other laws than the model's own, or no token ids: one sentence; and an
    address that wants them told names no model that can be used."""

    async def run() -> None:
        fake = Server(**server)
        model = await connected(fake)
        assert Capability.TOKEN_STATISTICS not in model.capabilities
        for method in (*TREES, EntropyExit):
            with pytest.raises(OptionError, match=r"needs token_statistics .*, which model"):
                await method().run(PROMPT, model, None, Budget(generations=4))
        assert fake.requests == []
        for top, what in ((20, "the 20 likeliest"), (ALL, "all")):
            with pytest.raises(OptionError, match=f"does not tell {what} tokens"):
                await connected(Server(**server), top_logprobs=top)

    asyncio.run(run())


def test_a_server_that_tells_five_is_asked_for_five():
    """As the address says."""
    model = asyncio.run(connected(Server(likeliest=5), top_logprobs=5))
    assert model.facts.top_logprobs == model.top_logprobs == 5
    assert model.facts.entropies == "estimated from the 5 likeliest tokens, never above the true ones"


@pytest.mark.parametrize("options", [{"temperature": 0.7}, {"top_p": 0.9}])
def test_another_temperature_is_refused_before_the_first_token(options: dict[str, float]):
    """A server's laws are those of temperature 1; also where a tree begins greedily, which is plain."""

    async def run() -> None:
        server = Server()
        model = await connected(server)
        for method in TREES:
            with pytest.raises(OptionError, match="tells at temperature 1 without top-p"):
                await method(**options).run(PROMPT, model, None, Budget(generations=4))
        with pytest.raises(OptionError, match="at temperature 1 without top-p and top-k"):
            await answers(model, **options)
        assert server.requests == []

    asyncio.run(run())


def test_a_chat_server_is_refused_with_why_and_with_what_runs_there():
    """Wrapped or not; and what the sentence names is not refused."""

    async def run() -> None:
        model = await connected(Server(tokens=False))
        for asked in (model, WrappedModel(model)):
            with pytest.raises(OptionError, match="tells no token ids") as refused:
                EntropyExit().check(asked, None)
            for name in ("anytime", "budget-forcing", "early-exit", "vLLM", "hf:PATH"):
                assert name in str(refused.value)
        Anytime().check(model, None)
        BudgetForcing().check(model, None)
        with pytest.raises(OptionError, match="likeliest tokens with their ids") as refused:
            EntropyTree().check(await connected(Server(likeliest=None)), None)
        assert "chat" not in str(refused.value)
        assert "anytime" not in str(refused.value)

    asyncio.run(run())


def test_a_prompt_that_only_the_chat_endpoint_reads_is_refused():
    """Tools go to /chat/completions, which tells no token ids."""

    async def run() -> None:
        server = Server()
        model = await connected(server)
        prompt = replace(PROMPT, request=to_json({"tools": []}))
        with pytest.raises(PromptError, match="where a prompt is plain messages; leave out tools"):
            await EntropyTree().run(prompt, model, None, Budget(generations=4))
        assert not any(
            where == "/v1/chat/completions" and "tools" in body for where, body, _ in server.requests
        )

    asyncio.run(run())


def test_the_law_finds_entropies_of_other_tokens(monkeypatch: pytest.MonkeyPatch):
    """A server's laws that come one place late break it, on a model whose tokens differ in certainty."""
    mixed = FakeModel(
        {(): {"one ": 0.5, "two ": 0.5}} | {(w,): {"$": 1.0} for w in ("one ", "two ")}, boundary="|"
    )

    class Late(Server):
        def _say(self, *arguments: Any) -> Any:
            said = super()._say(*arguments)
            said.laws = [*said.laws[1:], said.laws[-1]]
            return said

    async def run(kind: type[Server]) -> None:
        server = kind(model=mixed)
        model = await connected(server)
        model._dialect.facts = replace(model.facts, top_logprobs=20)  # whatever the probe thinks of it
        model.capabilities |= {Capability.TOKEN_STATISTICS}
        await check_token_statistics(model, [PROMPT])

    asyncio.run(run(Server))
    with pytest.raises(LawBroken, match="too small for log-probabilities"):
        asyncio.run(run(Late))


def test_a_recording_with_statistics_and_one_without_are_not_taken_for_each_other(tmp_path: FilePath):
    """The samples of a vote do not answer a tree, which would find no entropies in them; each is replayed."""

    async def run() -> None:
        server = Server(model=WIDE)
        model = await connected(server)
        vote, tree = Majority(max_tokens=20), EntropyTree(max_tokens=20)
        budget = Budget(generations=7)
        with Recording(tmp_path / "calls.db") as recording:
            recorded = RecordedModel(model, recording)
            await vote.run(PROMPT, recorded, None, budget, 3)
            live = await tree.run(PROMPT, recorded, None, budget, 3)
            assert live.tree is not None
        asked = len(server.requests)
        with Recording(tmp_path / "calls.db", offline=True) as recording:
            recorded = RecordedModel(model, recording)
            again = await tree.run(PROMPT, recorded, None, budget, 3)
            assert [c.path.text for c in again.candidates] == [c.path.text for c in live.candidates]
            assert [s for c in again.candidates for s in c.path.steps] == [
                s for c in live.candidates for s in c.path.steps
            ]
            await vote.run(PROMPT, recorded, None, budget, 3)
            five = await connected(Server(model=WIDE), top_logprobs=5)
            with pytest.raises(NotRecordedError):
                await tree.run(PROMPT, RecordedModel(five, recording), None, budget, 3)
        assert len(server.requests) == asked

    asyncio.run(run())


def test_a_recording_of_before_is_still_found(tmp_path: FilePath):
    """What asks for no statistics has the address it always had."""
    with Recording(tmp_path / "calls.db") as recording:
        model = RecordedModel(FakeModel({(): {"$": 1.0}}), recording)
        plain = model._address(ROOT, Until("end", 20), Sampling())
        assert plain.key.hex() == "fb38279fa35a3d191f410a64acf8da8b888d089b"
        assert plain != model._address(ROOT, Until("end", 20), Sampling(top_logprobs=20))
