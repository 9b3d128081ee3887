"""The less walked corners of the API: what JSON can say, what a limit holds for, what a name may be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from itscale.gateway.admission import hash_of
from itscale.gateway.encoding import encoded
from tests.gateway.wire import CHAT, Upstream
from tests.gateway.worlds import MESSAGES, World, events_of, toy, within

CHATS, TEXTS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def post(path: str, body: Any, **sections: Any) -> Any:
    """The response to one request, and the world it was asked in."""

    async def ask(world: World) -> Any:
        response = await world.post(path, body)
        return response, world

    return within(ask, **sections)


def said_of(response: Any) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


@pytest.mark.parametrize("model", ["majority:n=2/toy", "far"])
@pytest.mark.parametrize(
    ("field", "words"),
    [
        (b'"temperature": NaN', "no JSON"),
        (b'"seed": -Infinity', "no JSON"),
        (b'"top_p": 1e999', "too large a number"),
        (b'"model": "nobody"', "'model' twice"),
        (b'"metadata": {"a": "1", "a": "2"}', "'a' twice"),
    ],
)
def test_what_json_does_not_say_once_is_not_passed_on(model: str, field: bytes, words: str):
    """Else the model's server could read another number, or another model, than was checked here."""
    body = b'{"model": "%s", "messages": [{"role": "user", "content": "x"}], %s}' % (model.encode(), field)
    response, world = post(CHATS, body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")
    assert words in response.json()["error"]["message"]
    assert world.upstream.asked == []


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHATS, '"model": "far", "messages": [{"role": "user", "content": "\\ud800"}], "itscale": {}'),
        (CHATS, '"model": "far", "messages": [{"role": "user", "content": "\\ud800"}]'),
        (RESPONSES, '"model": "majority:n=1/toy", "input": "x", "metadata": {"a": "\\ud800"}'),
        (
            RESPONSES,
            '"model": "majority:n=1/toy", "input": "x", "metadata": {"a": "\\ud800"}, "stream": true',
        ),
        (CHATS, '"model": "majority:n=1/toy", "messages": [{"role": "user", "content": "x"}], "\\ud800": 1'),
    ],
)
def test_half_a_surrogate_pair_is_no_fault_of_the_gateways(path: str, fields: str):
    """JSON can say it and UTF-8 cannot: it passes as an escape, both ways."""
    response, world = post(path, b"{%s}" % fields.encode())
    assert response.status_code < 500
    assert b"internal_error" not in response.content
    if world.upstream.asked:
        assert json.loads(world.upstream.asked[-1][2])["messages"][0]["content"] == "\ud800"


def test_what_is_sent_is_plain_utf8_wherever_it_can_be():
    """Escapes only where there is no other way."""
    assert encoded({"a": "é🙂"}) == '{"a":"é🙂"}'.encode()
    assert json.loads(encoded({"a": "é\ud800"})) == {"a": "é\ud800"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": 3}, "stop"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"itscale": {"method": "best-of-m"}}, "itscale.method"),
        ({"itscale": {"method": "majority:n=x"}}, "itscale.method"),
    ],
)
def test_a_fault_names_the_field_and_no_type_that_was_tried(fields: dict[str, Any], param: str):
    """As the client wrote it."""
    response, _ = post(CHATS, {"model": "careful", "messages": MESSAGES, **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_choice_of_no_tool_reaches_the_server():
    """`tool_choice: none` beside tools forbids calls; without tools it asks for nothing."""

    async def ask(world: World) -> Any:
        said = []
        for fields in ({"tools": TOOLS, "tool_choice": "none"}, {"tool_choice": "none"}):
            await world.chat("majority:n=1/far", **fields)
            said.append(json.loads(world.upstream.asked[-1][2]))
        return said

    with_tools, without = within(ask)
    assert with_tools["tool_choice"] == "none"
    assert "tool_choice" not in without


def test_no_refusal_says_where_a_server_is():
    """A method that the server cannot serve is refused without the server's address."""

    async def ask(world: World) -> Any:
        return await world.chat("mcts:n=2/far", itscale={"scorer": "judge"})

    response = within(ask)
    assert said_of(response) == (400, "invalid_option", "model")
    assert "upstream" not in response.text
    assert "http" not in response.text


@pytest.mark.parametrize("header", ["inf", "1" + "0" * 400, "nan", "soon"])
def test_a_retry_after_that_is_no_time_is_left_out(header: str):
    """And is no fault of the gateway's."""

    async def ask(world: World) -> Any:
        world.upstream.status, world.upstream.headers = 429, {"retry-after": header}
        world.upstream.pieces = [b'{"error": {"message": "no"}}']
        return await world.chat("far")

    response = within(ask)
    assert response.status_code == 429
    assert response.headers.get("retry-after", "0") == "0"


def test_a_retry_after_of_no_time_stays_one():
    """Zero is a time."""

    async def ask(world: World) -> Any:
        world.upstream.status, world.upstream.headers = 429, {"retry-after": "0"}
        world.upstream.pieces = [b'{"error": {"message": "no"}}']
        return await world.chat("far")

    assert within(ask).headers["retry-after"] == "0"


def test_an_overload_that_stays_keeps_the_servers_type_and_code():
    """Under a method too, after all attempts: a quota that is used up is no overload."""

    async def ask(world: World) -> Any:
        error = {"message": "no money", "type": "insufficient_quota", "code": "insufficient_quota"}
        world.upstream.status = 429
        world.upstream.pieces = [json.dumps({"error": error}).encode()]
        world.upstream.headers = {"retry-after": "3600"}  # too long to wait for
        return await world.chat("majority:n=1/far")

    response = within(ask)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3600"
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")


@pytest.mark.parametrize(
    ("model", "fields", "status"),
    [
        ("majority:n=1,max_tokens=9/toy", {}, 400),
        ("majority:n=1,max-tokens=9/toy", {}, 400),
        ("majority:n=1,max_tokens=8/toy", {}, 200),
        ("majority:n=1/toy", {}, 200),
        ("majority:n=1/toy", {"itscale": {"method": "majority:max_tokens=9"}}, 400),
        ("majority:n=1/toy", {"max_tokens": 9}, 400),
        ("short", {}, 200),
        ("short", {"max_tokens": 1}, 200),
        ("short", {"max_tokens": 3}, 400),
        ("short", {"itscale": {"n": 2}}, 200),
        ("short", {"itscale": {"n": 3}}, 400),
        ("short", {"x-itscale-n": "3"}, 400),
        ("short", {"itscale": {"scorer_calls": 8}}, 400),
        ("long", {"max_tokens": 100, "itscale": {"n": 100}}, 200),
        ("written", {"itscale": {"n": 80}}, 200),
        ("written", {"itscale": {"n": 81}}, 400),
    ],
)
def test_the_operators_limits_hold_however_they_are_asked_for(model: str, fields: Any, status: int):
    """A preset's number is its limit, below or above the general one; a method's option is no way round."""
    presets = {
        "short": {"model": "toy", "method": "majority", "generations": 2, "max_tokens": 2, "scorer_calls": 7},
        "long": {"model": "toy", "method": "majority", "generations": 100, "max_tokens": 100},
        "written": {"model": "toy", "method": "majority:max_tokens=100", "generations": 80},
    }
    headers = {name: value for name, value in fields.items() if name.startswith("x-")}
    body = {name: value for name, value in fields.items() if name not in headers}

    async def ask(world: World) -> Any:
        return await world.chat(model, headers, **body)

    response = within(ask, limits={"max_tokens": 8}, presets=presets)
    assert response.status_code == status, response.text
    if status == 400:
        assert response.json()["error"]["code"] == "limit_exceeded"


def test_without_a_word_a_candidate_is_as_long_as_the_operator_allows():
    """The method's own limit of 512 gives way to a lower one."""
    body = {"model": "majority:n=2/toy", "messages": MESSAGES}
    response, _ = post(CHATS, body, limits={"max_tokens": 2})
    assert response.json()["usage"]["completion_tokens"] == 4


def test_a_key_gets_no_method_by_naming_it_elsewhere():
    """What it may not ask for by name it may not ask for by header or body either."""
    bearer = {"authorization": "Bearer k"}
    keys = {"k": {"hash": hash_of("k"), "models": ["careful", "majority*"]}}

    async def ask(world: World) -> Any:
        return [
            (await world.chat("careful", bearer, itscale={"method": "mcts"})).status_code,
            (await world.chat("careful", {**bearer, "x-itscale-method": "mcts"})).status_code,
            (await world.chat("careful", bearer, itscale={"method": "majority"})).status_code,
            (await world.chat("careful", bearer)).status_code,
        ]

    assert within(ask, keys=keys) == [403, 403, 200, 200]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"background": True}, "background"),
        ({"tools": TOOLS}, "tools"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"text": {"verbosity": "low"}}, "verbosity"),
        ({"itscale": {"progress": "reasoning"}}, "itscale.progress"),
        ({"input": [{"role": "user", "content": "x", "wings": 2}]}, "input.0.wings"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_response_that_cannot_be_as_asked_is_refused_by_name(
    fields: dict[str, Any], param: str, stream: bool
):
    """Nothing is kept, so nothing is continued; a verbosity is the server's to honour, and here is none."""
    body = {"model": "majority:n=1/toy", "input": "x", "stream": stream, **fields}
    response, world = post(RESPONSES, body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert world.model.calls == 0


def test_a_responses_defaults_ask_for_nothing():
    """What clients send along without wanting anything of it."""
    nothing = {
        "previous_response_id": None,
        "conversation": None,
        "background": False,
        "include": [],
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "service_tier": "auto",
        "store": False,
        "text": {"format": {"type": "text"}},
        "truncation": "disabled",
    }
    response, _ = post(RESPONSES, {"model": "majority:n=1/toy", "input": "x", **nothing})
    assert response.status_code == 200, response.text


def test_a_response_says_which_form_it_was_asked_for_and_the_server_hears_of_it():
    """Its `text` is the request's; format and verbosity reach a chat server under their names there."""
    form = {"type": "json_schema", "name": "x", "schema": {"type": "object"}}

    async def ask(world: World) -> Any:
        body = {"model": "majority:n=1/far", "input": "x", "text": {"format": form, "verbosity": "low"}}
        response = await world.post(RESPONSES, body)
        return response.json(), json.loads(world.upstream.asked[-1][2])

    said, asked = within(ask)
    assert said["text"] == {"format": form, "verbosity": "low"}
    assert asked["verbosity"] == "low"
    assert asked["response_format"]["json_schema"] == {"name": "x", "schema": {"type": "object"}}


@pytest.mark.parametrize("path", [TEXTS, RESPONSES])
@pytest.mark.parametrize(("progress", "least"), [("none", 0), ("comments", 1), ("events", 6)])
def test_progress_is_told_on_every_route_in_the_way_it_was_asked_for(path: str, progress: str, least: int):
    """Silence is silence; events are all of them."""
    asked = {"prompt" if path == TEXTS else "input": "x", "itscale": {"progress": progress}}
    response, _ = post(path, {"model": "majority:n=3/toy", "stream": True, **asked})
    comments = [line for line in response.text.splitlines() if line.startswith(":")]
    told = [line for line in comments if line not in (": itscale begun", ": itscale keep-alive")]
    assert bool(told) is bool(least)
    assert len(told) >= least
    assert sum("{" in line for line in told) == (len(told) if progress == "events" else 0)


def test_a_server_that_says_half_a_pair_does_not_break_an_answer():
    """Some cut their text between two halves of a character."""
    upstream = Upstream()
    chat = json.loads(json.dumps(CHAT))
    chat["choices"][0]["message"]["content"] = "Answer: 4\ud83d"
    upstream.pieces = [json.dumps(chat).encode()]

    async def ask(world: World) -> Any:
        return await world.chat("majority:n=1/far"), await world.chat("majority:n=1/far", stream=True)

    whole, streamed = within(ask, toy(), upstream=upstream)
    assert whole.json()["choices"][0]["message"]["content"] == "Answer: 4\ud83d"
    assert events_of(streamed.text)[-1] == "[DONE]"


@pytest.mark.parametrize("field", ["stop", "response_format", "frequency_penalty", "reasoning_effort"])
def test_what_a_scorer_need_not_read_reaches_the_server_under_a_scored_method_too(field: str):
    """How an answer is drawn is the server's affair, and the scorer judges what came."""
    value: Any = {
        "stop": ["a", "b"],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
        "frequency_penalty": 0.5,
        "reasoning_effort": "low",
    }[field]

    async def ask(world: World) -> Any:
        world.gateway.runtime._scorers["judge"].plain_only = True
        response = await world.chat("best-of-n:n=2/far", itscale={"scorer": "judge"}, **{field: value})
        return response, json.loads(world.upstream.asked[-1][2])

    response, asked = within(ask)
    assert response.status_code == 200, response.text
    assert asked[field] == value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": TOOLS}, "tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "content",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_scorer_cannot_read_is_refused_before_any_token(
    fields: dict[str, Any], param: str, stream: bool
):
    """By the field's name, and with a status, where the answers would be judged in vain."""

    async def ask(world: World) -> Any:
        world.gateway.runtime._scorers["judge"].plain_only = True
        voted = await world.chat("majority:n=2/far", **fields)  # which also finds out what the server can
        before = len(world.upstream.asked)
        response = await world.chat("best-of-n:n=2/far", itscale={"scorer": "judge"}, stream=stream, **fields)
        return response, len(world.upstream.asked) - before, voted

    response, asked, voted = within(ask)
    assert said_of(response) == (400, "unsupported_parameter", param)
    assert asked == 0
    assert voted.status_code == 200
