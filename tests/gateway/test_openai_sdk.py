"""Conformance, judged by a client nobody here wrote: the official `openai` SDK, in this process."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import openai
import pytest
from pydantic import BaseModel

from tests.gateway.test_keys import KEY, keyed
from tests.gateway.wire import CHAT, Upstream
from tests.gateway.worlds import MESSAGES, World, toy, within

CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'},
}
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            },
        },
    }
]


def asked(work: Callable[[openai.AsyncOpenAI], Awaitable[Any]], *args: Any, **options: Any) -> Any:
    """What `work` gives with a client of a world."""

    async def ask(world: World) -> Any:
        client = openai.AsyncOpenAI(
            base_url="http://gateway/v1",
            api_key=KEY,
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(world.gateway)),
        )
        try:
            return await work(client)
        finally:
            await client.close()

    return within(ask, *args, **options)


def test_a_chat_answer_is_a_chat_completion():
    """Every field the SDK's types name, and ours beside them."""

    async def ask(client: openai.AsyncOpenAI) -> Any:
        return await client.chat.completions.create(
            model="best-of-n/toy", messages=MESSAGES, n=2, seed=1, extra_body={"itscale": {"n": 4}}
        )

    said = asked(ask)
    assert len(said.choices) == 2
    assert said.choices[0].finish_reason == "stop"
    assert said.usage.completion_tokens == 24
    assert said.usage.completion_tokens_details.reasoning_tokens == 18
    assert said.itscale["method"] == "best-of-n"


def test_a_streamed_answer_is_a_stream_of_chunks_with_usage():
    """The SDK's own accumulation gives the whole answer."""

    async def ask(client: openai.AsyncOpenAI) -> Any:
        manager = client.chat.completions.stream(
            model="majority:n=3/toy", messages=MESSAGES, stream_options={"include_usage": True}
        )
        async with manager as stream:
            kinds = [event.type async for event in stream]
            return kinds, await stream.get_final_completion()

    kinds, said = asked(ask)
    assert "content.done" in kinds
    assert said.choices[0].message.content.startswith("think|")
    assert said.usage.total_tokens > 0


def test_completions_and_models():
    """The older route, and the list."""

    async def ask(client: openai.AsyncOpenAI) -> Any:
        text = await client.completions.create(model="toy", prompt="x", max_tokens=5, seed=1)
        stream = await client.completions.create(model="toy", prompt="x", seed=1, stream=True)
        pieces = [chunk.choices[0].text async for chunk in stream]
        models = [model.id async for model in client.models.list()]
        return text.choices[0].text, "".join(pieces), models, await client.models.retrieve("majority/toy")

    text, streamed, models, one = asked(ask)
    assert text == streamed
    assert "careful" in models
    assert one.id == "majority/toy"


def test_a_response_whole_and_streamed():
    """/v1/responses: output_text, usage, and typed events that accumulate to the same."""

    async def ask(client: openai.AsyncOpenAI) -> Any:
        whole = await client.responses.create(
            model="majority:n=3/toy", input="pick one", instructions="be brief", store=False, temperature=0
        )
        async with client.responses.stream(
            model="majority:n=3/toy", input=[{"role": "user", "content": "pick one"}], temperature=0
        ) as stream:
            kinds = [event.type async for event in stream]
            return whole, kinds, await stream.get_final_response()

    whole, kinds, streamed = asked(ask)
    assert whole.status == "completed"
    assert whole.output_text == streamed.output_text
    assert whole.usage.output_tokens == 9
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model"),
        ({"temperature": 9.0}, openai.BadRequestError, "temperature"),
        ({"extra_body": {"wings": 2}}, openai.BadRequestError, "wings"),
    ],
)
def test_refusals_are_the_sdks_own_errors(fields: dict[str, Any], error: type[Exception], param: str):
    """Status, type and param, as the SDK reads them."""

    async def ask(client: openai.AsyncOpenAI) -> Any:
        with pytest.raises(error) as caught:
            await client.chat.completions.create(**{"model": "toy", "messages": MESSAGES, **fields})
        return caught.value

    assert asked(ask).param == param


def test_keys_and_rates_are_the_sdks_own_errors_too():
    """401 and 429."""

    async def unknown(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").chat.completions.create(model="toy", messages=MESSAGES)
        await client.chat.completions.create(model="toy", messages=MESSAGES)
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="toy", messages=MESSAGES)

    asked(unknown, **keyed(requests_per_minute=1))


class Chatting(Upstream):
    """A chat server that speaks as a probe wants to hear, and then says what it is told, in turn."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        super().__init__()
        self.messages = list(messages)

    async def _answer(self, send: Any) -> None:
        path, _, raw = self.asked[-1]
        body = json.loads(raw)
        if not path.endswith("chat/completions"):
            self.status, self.pieces = 404, [b'{"error": {"message": "no such thing"}}']
        elif body["messages"][-1]["content"] != "2+1?":
            self.status, self.pieces = 200, [json.dumps(CHAT).encode()]
        else:
            message = self.messages.pop(0)
            reason = "tool_calls" if message.get("tool_calls") else "stop"
            choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
            self.status, self.pieces = 200, [json.dumps({**CHAT, "choices": [choice]}).encode()]
        await super()._answer(send)


QUESTION: Any = [{"role": "user", "content": "2+1?"}]


def test_tool_calls_are_voted_as_whole_calls():
    """Of three samples two make the same call, in other words for the same arguments: it wins whole."""
    other = {**CALL, "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}
    same = {**CALL, "function": {"name": "add", "arguments": '{"b":2,"a":1}'}}
    server = Chatting(*({"content": None, "tool_calls": [call]} for call in (other, CALL, same)))

    async def ask(client: openai.AsyncOpenAI) -> Any:
        return await client.chat.completions.create(
            model="majority:n=3/far", messages=QUESTION, tools=TOOLS, tool_choice="auto"
        )

    said = asked(ask, upstream=server)
    [call] = said.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"a": 1, "b": 2}
    assert call.function.name == "add"
    assert said.choices[0].finish_reason == "tool_calls"
    assert said.choices[0].message.content is None
    forwarded = [json.loads(body) for _, _, body in server.asked if b"2+1?" in body]
    assert all(body["tools"] == TOOLS for body in forwarded)


def test_streamed_tool_calls_accumulate():
    """The SDK puts the call together from the deltas."""
    server = Chatting({"content": None, "tool_calls": [CALL]})

    async def ask(client: openai.AsyncOpenAI) -> Any:
        manager = client.chat.completions.stream(model="majority:n=1/far", messages=QUESTION, tools=TOOLS)
        async with manager as stream:
            async for _ in stream:
                pass
            return await stream.get_final_completion()

    said = asked(ask, upstream=server)
    assert said.choices[0].message.tool_calls[0].function.arguments == CALL["function"]["arguments"]


class Sum(BaseModel):
    """A structured answer."""

    total: int


def test_structured_outputs_are_forwarded_voted_and_parsed():
    """response_format goes to the server; the SDK parses the winner."""
    server = Chatting(*({"content": f'{{"total": {n}}}'} for n in (4, 3, 3)))

    async def ask(client: openai.AsyncOpenAI) -> Any:
        return await client.chat.completions.parse(
            model="majority:n=3,answers=json/far", messages=QUESTION, response_format=Sum
        )

    said = asked(ask, upstream=server)
    assert said.choices[0].message.parsed == Sum(total=3)
    assert said.itscale["confidence"] == pytest.approx(2 / 3, abs=1e-6)


def test_a_slow_client_side_timeout_is_a_cancellation_here():
    """The SDK gives up; the gateway's model is left alone at once."""

    async def ask(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(
                model="toy", messages=MESSAGES, extra_body={"itscale": {"seconds": 0}}
            )

    asked(ask, toy())
