"""What comes back: envelopes, usage to the token, the `itscale` block, choices, seeds, faults."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from itscale.errors import ContextLimitError
from itscale.gateway.envelope import confidence
from itscale.models.fake import FakeModel
from itscale.scorers.answers import AnswerKind
from itscale.types import Candidate, Path, Prompt
from tests.gateway.worlds import MESSAGES, World, toy, within


def answer(model: str, **fields: Any) -> Any:
    """The JSON of a chat answer, and what the model's own counters say."""

    async def ask(world: World) -> Any:
        response = await world.chat(model, **fields)
        return response.status_code, response.json(), world.model

    return within(ask)


def test_a_plain_local_model_answers_with_a_full_envelope():
    """Id, object, created, model, message, finish reason; each in OpenAI's form."""
    status, said, _ = answer("toy", seed=1)
    assert status == 200
    assert said["id"].startswith("chatcmpl-")
    assert said["object"] == "chat.completion"
    assert said["model"] == "toy"
    assert isinstance(said["created"], int)
    [choice] = said["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] in ("think|\nAnswer: 1", "think|\nAnswer: 2")
    assert choice["finish_reason"] == "stop"
    assert said["itscale"]["scorer"] is None  # nobody asked one


def test_a_method_named_in_the_model_runs_and_its_scorer_decides():
    """best-of-n with a judge that prefers 2 says 2."""
    _, said, _ = answer("best-of-n:n=8/toy", seed=3)
    assert said["choices"][0]["message"]["content"] == "think|\nAnswer: 2"
    assert said["itscale"]["method"] == "best-of-n"
    assert said["itscale"]["candidates"] == 8
    assert said["itscale"]["scorer"] == "judge"


def test_usage_is_what_the_model_was_asked_for_to_the_token():
    """Prompt, completion and unseen tokens equal the model's own counters on the other side of the seam."""
    _, said, model = answer("best-of-n:n=8/toy", n=2)
    usage = said["usage"]
    assert usage["completion_tokens"] == model.tokens_generated == 2 * 8 * 3
    assert usage["prompt_tokens"] == model.tokens_read
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    shown = 2 * 3
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 2 * 8 * 3 - shown
    spend = said["itscale"]["spend"]
    assert spend["generation"]["generated_tokens"] == usage["completion_tokens"]
    assert spend["scoring"]["calls"] == 16


def test_choices_have_seeds_of_their_own_and_the_first_is_that_of_one_choice():
    """n=12 under one seed gives different samples; choice 0 is what n=1 gives."""
    _, many, _ = answer("toy", n=12, seed=5)
    _, one, _ = answer("toy", seed=5)
    texts = [choice["message"]["content"] for choice in many["choices"]]
    assert len(texts) == 12
    assert len(set(texts)) == 2  # all alike for one seed in 450; this is none of them
    assert texts[0] == one["choices"][0]["message"]["content"]
    assert len({about["seed"] for about in many["itscale"]["choices"]}) == 12


def test_a_seed_gives_the_same_answer_and_none_is_reported_and_can_be_used_again():
    """The seed in the itscale block reproduces an answer that was asked for without one."""
    _, first, _ = answer("majority:n=3/toy")
    _, again, _ = answer("majority:n=3/toy", seed=first["itscale"]["seed"])
    assert again["choices"][0]["message"] == first["choices"][0]["message"]


def test_temperature_zero_asks_for_one_reproducible_answer_and_never_for_equal_samples():
    """The samples of a method keep its own temperature, from seed 0; the block says so."""
    _, said, _ = answer("majority:n=16/toy", temperature=0, itscale={"candidates": True})
    _, again, _ = answer("majority:n=16/toy", temperature=0)
    assert {c["answer"] for c in said["itscale"]["candidates"]} == {"1", "2"}
    assert said["itscale"]["temperature"] == 1.0
    assert said["itscale"]["seed"] == 0
    assert again["choices"][0]["message"] == said["choices"][0]["message"]


def test_temperature_zero_on_a_plain_model_is_greedy():
    """The likeliest answer, whatever the seed."""
    for seed in range(3):
        _, said, _ = answer("toy", temperature=0, seed=seed)
        assert said["choices"][0]["message"]["content"] == "think|\nAnswer: 1"


def test_a_cut_answer_says_length():
    """max_tokens binds, and an answer cut by it is never called finished."""
    _, said, _ = answer("toy", max_tokens=1)
    assert said["choices"][0]["finish_reason"] == "length"
    assert said["usage"]["completion_tokens"] == 1


def test_confidence_is_the_share_of_the_vote():
    """Of 16 samples, the share that says what was chosen."""
    _, said, _ = answer("majority:n=16/toy", seed=2, itscale={"candidates": True})
    block = said["itscale"]
    share = sum(c["answer"] == block["answer"] for c in block["candidates"]) / 16
    assert block["confidence"] == pytest.approx(share)


def test_a_slow_comparison_of_answers_does_not_hold_up_the_gateway():
    """Where answers are compared and not only spelled, the vote behind the confidence is held elsewhere."""
    threads: list[threading.Thread] = []

    def same(*, answer: str, other: str) -> bool:
        threads.append(threading.current_thread())
        return True

    root = Path.root(Prompt.user("hi"))
    candidates = [Candidate(root, answer) for answer in ("1/2", "0.5", None)]
    kind = AnswerKind("slow", lambda text: text, same=same)
    result: Any = SimpleNamespace(answer="1/2", candidates=candidates, chosen=0, answer_kind=kind)
    assert asyncio.run(confidence(result)) == pytest.approx(2 / 3, abs=1e-6)
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"foo": 1}, "foo"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": ["x"]}, "stop"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"store": True}, "store"),
        ({"stream_options": {"nope": 1}}, "stream_options.nope"),
        ({"itscale": {"n": 65}}, "itscale.n"),
        ({"itscale": {"seconds": 1e5}}, "itscale.seconds"),
        ({"itscale": {"budget": 4}}, "itscale.budget"),
        ({"itscale": {"scorer": "nobody"}}, "itscale.scorer"),
        ({"itscale": 4}, "itscale"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "content",
        ),
    ],
)
def test_a_field_that_is_not_honoured_is_refused_by_name(fields: dict[str, Any], param: str):
    """400, OpenAI's error object, `param` names the field, and no token was spent."""
    status, said, model = answer("majority/toy", **fields)
    assert status == 400, said
    assert said["error"]["type"] == "invalid_request_error"
    assert said["error"]["param"] == param
    assert said["error"]["message"]
    assert model.calls == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}},
        {"response_format": {"type": "text"}, "tools": [], "tool_choice": "none"},
        {"stop": None, "logprobs": False, "user": "u", "store": False, "n": None},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "pick one"}]}]},
        {"messages": [{"role": "developer", "content": "be brief"}, *MESSAGES]},
        {"messages": [*MESSAGES, {"role": "assistant", "content": "1", "refusal": None}, *MESSAGES]},
    ],
)
def test_values_that_ask_for_nothing_are_no_reason_to_refuse(fields: dict[str, Any]):
    """Clients send their defaults along; a default is honoured by doing nothing."""
    status, said, _ = answer("toy", **fields)
    assert status == 200, said


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("nobody", 404, "model_not_found"),
        ("best-of-m/toy", 404, "model_not_found"),
        ("best-of-n/nobody", 404, "model_not_found"),
        ("best-of-n:n=0/toy", 400, "invalid_option"),
        ("best-of-n:n=x/toy", 400, "invalid_option"),
        ("best-of-n:wings=2/toy", 400, "invalid_option"),
        ("best-of-n:n=65/toy", 400, "limit_exceeded"),
        ("", 400, "missing_required_parameter"),
    ],
)
def test_a_name_that_is_none_is_refused_before_any_token(model: str, status: int, code: str):
    """404 for what is not served, 400 for options that cannot be."""
    got, said, toy_model = answer(model)
    assert (got, said["error"]["code"]) == (status, code)
    assert toy_model.calls == 0


def test_presets_headers_and_body_say_the_same_and_the_body_has_the_last_word():
    """Name, X-Itscale headers, itscale object: each above the one before."""

    async def ask(world: World) -> list[Any]:
        blocks = []
        for headers, body in (
            ({}, {}),
            ({"x-itscale-n": "2"}, {}),
            ({"x-itscale-n": "2", "x-itscale-method": "majority"}, {}),
            ({"x-itscale-n": "2", "x-itscale-method": "majority"}, {"itscale": {"n": 3}}),
        ):
            said = (await world.chat("careful", headers, **body)).json()["itscale"]
            blocks.append((said["method"], said["generations"]))
        return blocks

    assert within(ask) == [("best-of-n", 4), ("best-of-n", 2), ("majority", 2), ("majority", 3)]


@pytest.mark.parametrize("header", [("x-itscale-n", "many"), ("x-itscale-upstream", "http://evil")])
def test_a_header_that_is_none_of_ours_is_refused(header: tuple[str, str]):
    """Also one that would point somewhere else."""

    async def ask(world: World) -> Any:
        response = await world.chat("careful", dict([header]))
        return response.status_code, response.json()["error"]["param"]

    assert within(ask) == (400, header[0])


def test_a_deadline_gives_the_best_so_far_and_504_only_where_there_is_none():
    """Tokens take 0.2 s: half a second has room for the first step, a thousandth for nothing."""

    async def ask(world: World) -> Any:
        short = await world.chat("majority/toy", itscale={"seconds": 0.001})
        stepped = await world.chat("toy", itscale={"seconds": 0.5})
        return short.status_code, short.json()["error"]["code"], stepped

    status, code, stepped = within(ask, toy(latency_s=0.2))
    assert (status, code) == (504, "deadline_exceeded")
    assert stepped.status_code == 200
    assert stepped.json()["itscale"]["stop_reason"] == "seconds"
    assert stepped.json()["choices"][0]["finish_reason"] == "length"


def test_a_failed_candidate_costs_itself_and_all_failed_is_a_server_error():
    """One of four calls fails: an answer. All fail: 502 in OpenAI's form, no error text as an answer."""

    async def ask(world: World) -> Any:
        response = await world.chat("majority:n=4/toy")
        return response.status_code, response.json()

    status, said = within(ask, toy(fail=lambda call: call == 1))
    assert status == 200
    assert said["itscale"]["candidates"] == 3
    assert said["itscale"]["spend"]["failed_calls"] == 1
    status, said = within(ask, toy(fail=lambda call: True))
    assert status == 502
    assert set(said["error"]) == {"message", "type", "param", "code"}


def test_a_prompt_beyond_the_context_is_the_clients_to_shorten(monkeypatch: Any):
    """400 with OpenAI's code for it, also when every candidate of a method met it."""

    async def full(*_: Any) -> Any:
        raise ContextLimitError("the prompt has 9 tokens and the model's context holds 8; shorten it")

    monkeypatch.setattr(FakeModel, "extend", full)
    for model in ("toy", "majority:n=3/toy"):
        status, said, _ = answer(model)
        assert (status, said["error"]["code"]) == (400, "context_length_exceeded")


def test_completions_continue_a_raw_prompt():
    """The older route: text in, text out, the same usage and block."""

    async def ask(world: World) -> Any:
        body = {"model": "majority:n=3/toy", "prompt": "pick one", "seed": 1}
        several = {**body, "prompt": ["a", "b"]}
        return (await world.post("/v1/completions", body)).json(), await world.post(
            "/v1/completions", several
        )

    said, several = within(ask)
    assert said["object"] == "text_completion"
    assert said["choices"][0]["text"].startswith("think|\nAnswer: ")
    assert said["usage"]["completion_tokens"] == 9
    assert several.status_code == 400
    assert several.json()["error"]["param"] == "prompt"


def test_models_lists_what_can_be_asked_for_and_each_can_be_looked_up():
    """Presets, plain models, and every method that the model has a scorer for."""

    async def ask(world: World) -> Any:
        listed = (await world.client.get("/v1/models")).json()["data"]
        one = await world.client.get("/v1/models/best-of-n/toy")
        none = await world.client.get("/v1/models/best-of-n/far")
        return [model["id"] for model in listed], one.json(), none.status_code

    names, one, missing = within(ask)
    assert names[:3] == ["careful", "toy", "far"]
    assert "particle-filter/toy" in names
    assert "best-of-n/far" not in names  # it has no scorer
    assert "majority/far" in names
    assert one["id"] == "best-of-n/toy"
    assert missing == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'"x"', "invalid_json"),
        (b'{"model": "\xff"}', "invalid_json"),
        (b'{"model": ' + b"[" * 100_000, "invalid_json"),
        (b'{"model": 3}', "missing_required_parameter"),
    ],
)
def test_a_body_that_is_no_request_is_a_400(body: bytes, code: str):
    """Empty, cut, nested beyond sense, not UTF-8."""

    async def ask(world: World) -> Any:
        response = await world.post("/v1/chat/completions", body)
        return response.status_code, response.json()["error"]["code"]

    assert within(ask) == (400, code)
