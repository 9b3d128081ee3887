"""Answers in pieces: the same as in one, known to the token at any moment, and cut off only visibly."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import ModelError
from itscale.methods import Majority
from itscale.models.openai.model import OpenAIModel
from itscale.models.openai.stream import Assembly, Delta, Events
from itscale.models.openai.wire import Malformed, read_chat
from itscale.models.recorded import RecordedModel
from itscale.randomness import Seeded
from itscale.recording import Recording
from itscale.types import Path, Prompt, Sampling, Until, to_json
from tests.models.openai.servers import Server, connected

ROOT = Path.root(Prompt.user("a b c"))
DIALECTS: dict[str, dict[str, Any]] = {
    "token": {},
    "chat": {"tokens": False},
    "chat, no logprobs": {"tokens": False, "logprobs": False},
    "chat, counted at the end": {"tokens": False, "logprobs": False, "streams": "closing"},
}


async def asked(model: OpenAIModel, n: int = 1, ledger: Ledger | None = None, **options: Any) -> list[Path]:
    until = Until("end", 20)
    return await model.extend(ROOT, n, until, Sampling(), Seeded(3), ledger or Ledger(Budget()), **options)


async def cancelled_after(server: Server, call: Any, tokens: int) -> None:
    """Run a call until the server has sent so many tokens, and cancel it."""
    task = asyncio.ensure_future(call)
    while server.generated < tokens:
        await asyncio.sleep(0)
    for _ in range(10):  # what is on its way arrives
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("kind", DIALECTS)
def test_a_streamed_answer_is_the_one_that_comes_in_one_piece(kind: str):
    """Steps, ids, log-probabilities, reasoning, ends and the account are all the same."""

    async def run(streams: str | None) -> tuple[Any, ...]:
        server = Server(**{**DIALECTS[kind], "reasoning": "hm"} | ({} if streams else {"streams": None}))
        model, ledger = await connected(server), Ledger(Budget())
        paths = await asked(model, 3, ledger)
        assert bool(model.facts.streams) is bool(streams)
        return [path.steps for path in paths], ledger.charges()

    assert asyncio.run(run("yes")) == asyncio.run(run(None))


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("kind", DIALECTS)
def test_a_cancelled_call_is_charged_to_the_token(kind: str, n: int):
    """What the server had sent of every child by then is paid for, and the prompt where it is known."""

    async def run() -> None:
        for tokens in range(1, 3 * n):
            server = Server(**DIALECTS[kind], turns=20)
            model, ledger = await connected(server), Ledger(Budget())
            await asked(model)  # the prompt's token ids are known from now on
            server.generated = 0
            await cancelled_after(server, asked(model, n, ledger), tokens)
            assert ledger.generated_tokens == server.generated >= tokens
            assert server.aborted >= 1
            if model.facts.streams == "counting":
                assert ledger.prompt_tokens == 3 * ledger.model_calls

    asyncio.run(run())


def test_a_run_out_of_time_pays_for_what_had_come():
    """The deadline of a run falls into its answers: usage is what the server sent."""

    async def run() -> None:
        server = Server()
        model = await connected(server)
        server.turns = 10**5
        result = await Majority(max_tokens=20).run(
            ROOT.prompt, model, None, Budget(generations=3, seconds=0.3)
        )
        assert result.usage.generated_tokens == server.generated

    asyncio.run(run())


@pytest.mark.parametrize("kind", DIALECTS)
def test_a_stream_that_breaks_off_is_seen_and_made_again(kind: str):
    """After one event, and before the very last: the answer is whole, and the lost tokens are paid for."""

    async def run() -> None:
        [whole] = await asked(await connected(Server(**DIALECTS[kind])))
        server = Server(**DIALECTS[kind])
        model, ledger = await connected(server), Ledger(Budget())
        events = whole.n_tokens + 1 if kind != "chat, no logprobs" else whole.n_tokens
        server.cuts = [1, events]
        [path] = await asked(model, 1, ledger)
        assert path.text == whole.text
        assert ledger.retries == 2
        assert ledger.generated_tokens == server.generated
        assert ledger.generated_tokens > path.n_tokens

    asyncio.run(run())


@pytest.mark.parametrize("recorded", [False, True])
def test_a_broken_stream_never_oversteps_the_limit(recorded: bool, tmp_path: Any):
    """Where the limit has no room for the lost tokens beside a second attempt, the candidate is lost."""

    async def run(room: int) -> None:
        server = Server()
        served: Any = await connected(server)
        with Recording(tmp_path / f"{room}.sqlite") as recording:
            model = RecordedModel(served, recording) if recorded else served
            server.cuts = [2]
            budget = Budget(generations=2, tokens=40 + room)
            result = await Majority(max_tokens=20).run(ROOT.prompt, model, None, budget, seed=1)
        assert result.usage.generated_tokens == server.generated <= 40 + room
        assert len(result.candidates) == (2 if room else 1)
        assert result.usage.failed_calls == (0 if room else 1)

    asyncio.run(run(0))
    asyncio.run(run(2))


def test_what_is_said_is_heard_as_it_comes():
    """Every child's pieces add up to its text, whether they come in one request or in one each."""

    async def run() -> None:
        for n in ("honours", "ignores"):
            model = await connected(Server(n=n))
            said: list[Delta] = []
            paths = await asked(model, 3, heard=said.append)
            for i, path in enumerate(paths):
                assert "".join(delta.text for delta in said if delta.index == i) == path.text

    asyncio.run(run())


def test_what_was_heard_is_not_said_again():
    """A stream that breaks off after somebody heard a part of it fails; before, it is made again."""

    async def run() -> None:
        server = Server()
        model = await connected(server)
        server.cuts = [2]
        said: list[Delta] = []
        with pytest.raises(ModelError, match="broke the connection off"):
            await asked(model, heard=said.append)
        assert len(said) == 2
        assert len(server.asked("/v1/completions")) == 1

    asyncio.run(run())


def sent(*events: bytes, done: bool = True) -> Any:
    """A fault: this stream instead of an answer."""

    async def answer() -> tuple[int, dict[str, str], bytes]:
        lines = [*events, *([b"[DONE]"] if done else [])]
        body = b"".join(b"data: " + line + b"\n\n" for line in lines)
        return 200, {"content-type": "text/event-stream"}, body

    return answer


PIECE = b'{"choices": [{"index": 0, "text": "one ", "token_ids": [4], "logprobs": {"tokens": ["one "]}}]}'


@pytest.mark.parametrize(
    ("stream", "sentence", "attempts", "tokens"),
    [
        (sent(PIECE, done=False), "ended its answer before it was whole", 5, 1),
        (sent(PIECE, b"{ no json"), "streamed something that is no piece of an answer", 5, 1),
        (sent(PIECE, b"[1]"), "no piece of an answer", 5, 1),
        (sent(b'{"choices": [{"index": 0}]}'), "a piece of a stream without text", 5, 0),
        (sent(b'{"choices": [{"index": -1, "text": ""}]}'), "without the number of its text", 5, 0),
        (sent(PIECE, b'{"error": {"message": "boom", "code": 500}}'), r"answered 500 \(boom\)", 5, 1),
        (sent(PIECE, b'{"error": "boom"}'), r"answered 500 \(boom\)", 5, 1),
        (sent(b'{"error": {"message": "context length", "code": 400}}'), "shorten the prompt", 1, 0),
    ],
)
def test_a_stream_against_the_protocol_is_one_sentence(
    stream: Any, sentence: str, attempts: int, tokens: int
):
    """Broken streams are tried again and charged each time; a refusal within one is final."""

    async def run() -> None:
        server = Server()
        model, ledger = await connected(server), Ledger(Budget())
        server.faults = [stream] * attempts
        with pytest.raises(ModelError, match=sentence) as caught:
            await asked(model, 1, ledger)
        assert "\n" not in str(caught.value)
        assert server.faults == []
        assert ledger.generated_tokens == tokens * attempts

    asyncio.run(run())


def test_events_are_found_however_the_bytes_are_cut():
    """Lines split anywhere, comments, other fields, a last line without its end."""
    raw = b": hello\r\n\r\ndata: {}\r\n\r\nevent: x\ndata:[1]\n\ndata: [DONE]"

    for size in range(1, len(raw) + 1):
        events = Events()
        found = [event for i in range(0, len(raw), size) for event in events.feed(raw[i : i + size])]
        assert found + events.end() == [b"{}", b"[1]", b"[DONE]"]


def test_tool_calls_are_put_together():
    """Names and ids come whole, arguments in pieces; calls are told apart by their index, or come whole."""
    pieces: list[Any] = [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"x"'}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}},
        {"index": 0, "id": None, "function": {"arguments": ": 1}"}},
        {"id": "c", "function": {"name": "h", "arguments": "{}"}},
    ]
    answer = Assembly()
    for piece in pieces:
        answer.add({"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]})
    answer.add({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    [choice] = read_chat(answer.body()).choices
    assert json.loads(to_json(choice.tool_calls)) == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "b", "function": {"name": "g", "arguments": "{}"}},
        {"id": "c", "function": {"name": "h", "arguments": "{}"}},
    ]
    assert answer.generated == 5
    with pytest.raises(Malformed, match="tool call that is no object"):
        answer.add({"choices": [{"index": 0, "delta": {"tool_calls": [3]}}]})
