"""Messages and requests that say more than a text: kept whole, and refused where nobody reads them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import PromptError
from itscale.methods import Majority
from itscale.models.fake import FakeModel
from itscale.models.recorded import RecordedModel
from itscale.randomness import Seeded
from itscale.recording import Recording
from itscale.types import Candidate, End, Message, Path, Prompt, Sampling, Step, Until, to_json

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"b": 2, "a": 1}'}}
GIVEN: list[dict[str, Any]] = [
    {"role": "system", "content": "be brief"},
    {
        "role": "user",
        "content": [{"type": "text", "text": "what is "}, {"type": "image_url", "image_url": {}}],
    },
    {"role": "user", "content": [{"type": "text", "text": "1 + "}, "2?"]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "assistant", "tool_calls": [CALL]},
    {"tool_call_id": "c1", "role": "tool", "content": "3"},
    {"role": "user", "content": "so?", "name": "ann"},
    {"role": "developer", "content": ""},
]
COIN = {(): {"a|": 0.5, "b|": 0.5}, ("a|",): {"$": 1.0}, ("b|",): {"$": 1.0}}


@pytest.mark.parametrize("given", GIVEN, ids=str)
def test_a_message_is_given_back_as_it_was(given: dict[str, Any]):
    """Every field, null content and the order of keys included; messages are values."""
    message = Message.of(given)
    assert list(message.as_given().items()) == list(given.items())
    assert message == Message.of(given)
    assert hash(message) == hash(Message.of(given))


def test_the_text_of_a_message_is_that_of_its_parts():
    """Texts are joined, an image and a null have none, and what is more than text has a name."""
    messages = [Message.of(given) for given in GIVEN]
    assert [m.content for m in messages] == ["be brief", "what is ", "1 + 2?", "", "", "3", "so?", ""]
    assert [m.more for m in messages] == [
        (),
        ("content",),
        ("content",),
        ("tool_calls", "content"),
        ("tool_calls", "content"),
        ("tool_call_id",),
        ("name",),
        (),
    ]
    prompt = Prompt(tuple(messages), request=to_json({"tools": [], "stop": "x"}))
    assert prompt.question == "so?"
    assert prompt.more == ("tools", "stop", "content", "tool_calls", "tool_call_id", "name")


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"role": "boss", "content": "x"}, "role 'boss'; give one of system"),
        ({"content": "x"}, "role None"),
        ({"role": "user", "content": 3}, "neither text nor parts"),
        ({"role": "user", "content": {"text": "x"}}, "neither text nor parts"),
        ({"role": "user", "content": [3]}, "neither text nor parts"),
    ],
)
def test_what_is_no_message_is_refused(given: dict[str, Any], fault: str):
    """An unknown role and content of no known shape."""
    with pytest.raises(ValueError, match=fault):
        Message.of(given)


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (Prompt(Prompt.user("x").messages, request=to_json({"tools": []})), "tools"),
        (Prompt((Message.of(GIVEN[3]),)), "tool_calls"),
        (Prompt((Message.of(GIVEN[1]),)), "content"),
    ],
)
def test_a_backend_that_reads_texts_refuses_more_by_name(prompt: Prompt, field: str, reasoner: Any):
    """Nothing is dropped in silence: the fake and the engine name what they cannot honour."""
    for model in (FakeModel(COIN), reasoner):
        with pytest.raises(PromptError, match=f"cannot honour .*{field}"):
            asyncio.run(Majority().run(prompt, model, None, Budget(generations=2)))


class Calling(FakeModel):
    """Every answer is a tool call."""

    async def extend(self, path, n, until, sampling, rng, ledger):
        [grown] = await super().extend(Path.root(Prompt.user("x")), n, until, sampling, rng, ledger)
        call = Step((), "hm", End.EOS, counted=3, tool_calls=to_json([CALL]), finish="tool_calls")
        assert grown.finished
        return [path.child(call)]


def test_tool_calls_are_a_part_of_the_answer(tmp_path: Any):
    """They come out of a path, out of a candidate's JSON, and out of a recording, as they went in."""

    async def run(prompt: Prompt) -> list[Path]:
        with Recording(tmp_path / "calls.sqlite") as recording:
            model = RecordedModel(Calling(COIN), recording)
            paths = []
            for _ in range(2):
                ledger = Ledger(Budget())
                root = Path.root(prompt)
                paths += await model.extend(root, 1, Until("end", 9), Sampling(), Seeded(0), ledger)
            assert ledger.replayed_calls == 1
        return paths

    live, replayed = asyncio.run(run(Prompt.user("x")))
    assert live.tool_calls == replayed.tool_calls == [CALL]
    assert live.step == replayed.step
    assert Candidate(replayed, None).to_json()["tool_calls"] == [CALL]
    assert "tool_calls" not in Candidate(Path.root(Prompt.user("x")), None).to_json()


def test_prompts_that_differ_beyond_their_texts_are_recorded_apart(tmp_path: Any):
    """The same text with other tools, or with a tool call before it, is another question."""
    plain = Prompt((Message("user", "x"),))
    others = [
        Prompt(plain.messages, request=to_json({"tools": []})),
        Prompt((Message.of({"role": "user", "content": "x", "name": "ann"}),)),
    ]
    assert len({str(prompt.plain()) for prompt in (plain, *others)}) == 3
    assert plain.plain() == {"messages": [{"role": "user", "content": "x"}], "raw": None}


@pytest.mark.parametrize(
    ("given", "said"),
    [({"messages": (Message("user", "x"),), "raw": "y"}, "both"), ({}, "neither"), ({"raw": "y"}, None)],
)
def test_a_prompt_is_a_chat_or_a_text(given: dict[str, Any], said: str | None):
    """One of the two: what is both would be read as one of them, and the other lost."""
    if said is None:
        assert Prompt(**given).question == "y"
        return
    with pytest.raises(PromptError, match=rf"{said} messages .* raw text; give messages .* or raw to"):
        Prompt(**given)


def test_a_scorer_does_not_read_how_an_answer_was_drawn():
    """Stops, penalties and a form are the sampler's; tools and parts of messages are what was asked."""
    fields = {"stop": ["x"], "frequency_penalty": 1, "response_format": {"type": "json_object"}}
    plain = Prompt.user("x")
    assert Prompt(plain.messages, request=to_json(fields)).judged == plain
    assert Prompt(plain.messages, request=to_json({**fields, "tools": []})).judged.more == ("tools",)
    assert Prompt((Message.of(GIVEN[1]),)).judged.more == ("content",)
    assert plain.judged is plain
