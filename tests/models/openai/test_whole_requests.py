"""What a chat request says beyond its texts reaches the server, and what an answer does comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import PromptError
from itscale.methods import Majority
from itscale.models.openai.model import OpenAIModel
from itscale.randomness import Seeded
from itscale.types import End, Message, Path, Prompt, Sampling, Until, to_json
from tests.models.openai.canned import fault, ok
from tests.models.openai.servers import Server, connected

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALLS = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"b": 2, "a": 1}'}}]
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "use tools"},
    {"role": "user", "content": [{"type": "text", "text": "sum"}, {"type": "image_url"}]},
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {"role": "tool", "tool_call_id": "c1", "content": "3"},
    {"role": "user", "name": "ann", "content": "and now?"},
]  # fmt: skip
REQUEST = {
    "tools": [TOOL],
    "tool_choice": "auto",
    "response_format": {"type": "text"},
    "metadata": {"z": 1, "a": 2},
}


async def extended(model: OpenAIModel, prompt: Prompt, what: str = "end", seed: int = 0) -> Path:
    until = Until("step" if what == "step" else "end", 20)
    [child] = await model.extend(Path.root(prompt), 1, until, Sampling(), Seeded(seed), Ledger(Budget()))
    return child


def prompt_of(request: Any = None) -> Prompt:
    messages = tuple(map(Message.of, MESSAGES))
    return Prompt(messages, request=None if request is None else to_json(request))


def test_messages_and_fields_arrive_untouched():
    """Parts, tool calls, ids, names and every field of the request, in their order."""

    async def run() -> None:
        server = Server(tokens=False)
        await extended(await connected(server), prompt_of(REQUEST))
        [body] = server.asked("/v1/chat/completions")
        assert body["messages"] == MESSAGES
        assert {name: body[name] for name in REQUEST} == REQUEST
        assert list(body["metadata"]) == ["z", "a"]

    asyncio.run(run())


def test_tool_calls_come_back_whole():
    """The calls and the server's own word for the end are on the path, and it is finished."""

    async def run() -> None:
        model = await connected(Server(tokens=False, tool_calls=CALLS))
        path = await extended(model, prompt_of(REQUEST))
        assert path.tool_calls == CALLS
        assert (path.step.end, path.step.finish, path.finished) == (End.EOS, "tool_calls", True)
        result = await Majority(max_tokens=20).run(prompt_of(REQUEST), model, None, Budget(generations=3))
        assert [c.path.tool_calls for c in result.candidates] == [CALLS] * 3

    asyncio.run(run())


def test_a_filtered_answer_is_no_finished_one():
    """The server's word is kept, and what it cut off is an abort."""

    async def run() -> None:
        server = Server(tokens=False)
        model = await connected(server)
        choice = {"message": {"content": "on"}, "finish_reason": "content_filter"}
        answer = {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
        status, _, body = ok(answer)
        server.faults = [fault(status, body)]
        path = await extended(model, prompt_of())
        assert (path.step.end, path.step.finish, path.truncated) == (End.ABORT, "content_filter", True)

    asyncio.run(run())


def test_stop_strings_of_a_prompt_stand_beside_the_boundary():
    """A step may end on either; on the prompt's own the answer is over, and does not hold it."""

    async def run() -> None:
        prompt = Prompt(Prompt.user("a b").messages, request=to_json({"stop": "r "}))
        for style in ("included", "named"):
            server = Server(tokens=False, stop=style)
            model = await connected(server)
            paths = [await extended(model, prompt, "step", seed=seed) for seed in range(30)]
            assert server.asked("/v1/chat/completions")[0]["stop"] == ["|", "r "]
            assert {(path.text, path.step.end) for path in paths} == {
                ("one and|", End.BOUNDARY),
                ("one o", End.STOP),
                ("two o", End.STOP),
            }
            assert [path.finished for path in paths] == [path.text[-1] == "o" for path in paths]

    asyncio.run(run())


@pytest.mark.parametrize("name", ["n", "temperature", "stream", "messages", "max_tokens", "seed"])
def test_what_a_run_decides_is_not_taken_from_a_prompt(name: str):
    """A field that would undo the method's own is refused by name, before any request."""

    async def run() -> None:
        server = Server(tokens=False)
        model = await connected(server)
        with pytest.raises(PromptError, match=f"must not name {name}"):
            await extended(model, prompt_of({name: 1}))
        assert server.requests == []

    asyncio.run(run())


def test_a_server_of_token_ids_is_asked_for_chat_where_a_prompt_is_more_than_text():
    """Tools and images go to /chat/completions, found out once; plain prompts keep their token ids."""

    async def run() -> None:
        server = Server(tool_calls=CALLS)
        model = await connected(server)
        paths = await asyncio.gather(*(extended(model, prompt_of(REQUEST), seed=i) for i in range(3)))
        assert [path.tool_calls for path in paths] == [CALLS] * 3
        asked = [body for body in server.asked("/v1/chat/completions") if body.get("tools")]
        assert len(asked) == 3
        assert asked[0]["messages"] == MESSAGES
        server.requests.clear()
        await extended(model, prompt_of(REQUEST))
        plain = await extended(model, Prompt.user("a b"))
        assert plain.token_ids
        assert [path for path, _, _ in server.requests] == [
            "/v1/chat/completions",
            "/tokenize",
            "/v1/completions",
        ]

    asyncio.run(run())


def test_fields_that_change_the_law_leave_log_probabilities_untold():
    """With a bias or a format the server's figures are not those of what was drawn; with tools they are."""

    async def run() -> None:
        model = await connected(Server(tokens=False))
        for field, told in (("tools", True), ("logit_bias", False), ("response_format", False)):
            path = await extended(model, Prompt(Prompt.user("a").messages, request=to_json({field: {}})))
            assert (path.step.logprob is not None) is told

    asyncio.run(run())
