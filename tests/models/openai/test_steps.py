"""Cutting a choice into steps: on tokens where there are ids, on text where there are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itscale.models.openai.steps import end_of, text_steps, token_steps
from itscale.models.openai.wire import Choice, Counts, Malformed, counts_in, read_chat, read_completion
from itscale.types import End, Sampling, Until

END, STEP = Until("end", 50), Until("step", 50)


def choice(
    *pieces: str, text: str | None = None, finish: str = "stop", on: str | int | None = None
) -> Choice:
    ids = tuple(range(len(pieces)))
    shown = "".join(pieces) if text is None else text
    return Choice(shown, finish, on, ids, pieces, tuple(-1.0 for _ in pieces))


@pytest.mark.parametrize(
    ("pieces", "texts"),
    [
        (("a", "\n\n", "b"), ["a\n\n", "b"]),
        (("a", "\n", "\n", "b"), ["a\n\n", "b"]),
        (("a.\n\n", "b"), ["a.\n\n", "b"]),
        (("a", "\n\n\n", "b"), ["a\n\n\n", "b"]),
        (("a", "\n\nb", "c"), ["a\n\nb", "c"]),
        (("a", "\n\n"), ["a\n\n", ""]),
        (("\n\n", "\n\n"), ["\n\n", "\n\n", ""]),
        ((), [""]),
    ],
)
def test_a_step_ends_with_the_token_that_completes_the_boundary(pieces: tuple[str, ...], texts: list[str]):
    """Also when several tokens make the boundary, or one token goes beyond it."""
    steps = token_steps(choice(*pieces), "\n\n", END, Sampling())
    assert [step.text for step in steps] == texts
    assert [i for step in steps for i in step.token_ids] == list(range(len(pieces)))
    assert [step.end for step in steps] == [End.BOUNDARY] * (len(steps) - 1) + [End.EOS]


@given(st.lists(st.sampled_from(["a", "|", "|b", "||", "x|"]), min_size=1, max_size=6))
def test_one_pass_and_step_by_step_agree(pieces: list[str]):
    """A server that stops on the boundary, asked again and again, gives the steps of the whole."""
    whole = token_steps(choice(*pieces), "|", END, Sampling())
    rest, made = list(pieces), []
    while rest:
        said, text = [], ""
        while rest and "|" not in text:
            said.append(rest.pop(0))
            text += said[-1]
        stopped = "|" in text
        shown = text[: text.index("|") + 1] if stopped else text  # the server hides what lies beyond
        [step] = token_steps(choice(*said, text=shown, on="|" if stopped else None), "|", STEP, Sampling())
        assert step.end is (End.BOUNDARY if stopped else End.EOS)
        made.append(step.text)
    made += [] if not stopped else [""]  # then the server is asked once more, and says it is done
    assert made == [step.text for step in whole]


def test_a_character_of_several_tokens_stays_whole():
    """Texts come from the choice, where such characters are whole; the tokens' own are broken."""
    steps = token_steps(choice("a|", "\ufffd", "\ufffd", "|", "b", text="a|é|b"), "|", END, Sampling())
    assert [(step.text, len(step.token_ids)) for step in steps] == [("a|", 1), ("é|", 3), ("b", 1)]


def test_the_end_of_sequence_is_counted_and_has_no_text():
    """Behind a boundary it is a step of its own, as asking for the next step would give."""
    steps = token_steps(choice("a|", "</s>", text="a|"), "|", END, Sampling())
    assert [(s.token_ids, s.text, s.end) for s in steps] == [((0,), "a|", End.BOUNDARY), ((1,), "", End.EOS)]


@pytest.mark.parametrize(
    ("finish", "on", "end"),
    [
        ("stop", None, End.EOS),
        ("stop", 151645, End.EOS),
        ("stop", "|", End.BOUNDARY),
        ("length", None, End.LENGTH),
        ("tool_calls", None, End.EOS),
        ("content_filter", None, End.ABORT),
        ("abort", None, End.ABORT),
        ("None", None, End.ABORT),
    ],
)
def test_why_a_choice_ended(finish: str, on: str | int | None, end: End):
    """An end of sequence by id is the end; a filter or an abort is none."""
    assert end_of(choice("a", finish=finish, on=on), "|") is end


def test_a_length_on_a_boundary():
    """It completes the one step that was asked for, but not the whole answer."""
    cut = choice("a", "|", finish="length")
    assert token_steps(cut, "|", STEP, Sampling())[0].end is End.BOUNDARY
    assert token_steps(cut, "|", END, Sampling())[-1].end is End.LENGTH


def test_more_than_one_step_is_dropped_when_one_was_asked_for():
    """A server that ran past its stop string does not make a step of two."""
    [step] = token_steps(choice("a|", "b|", "c"), "|", STEP, Sampling())
    assert (step.text, step.end) == ("a|", End.BOUNDARY)


def test_answers_that_contradict_themselves_are_malformed():
    """Ids without texts, fewer texts than ids, more tokens than were allowed."""
    with pytest.raises(Malformed, match="equally many"):
        token_steps(Choice("a", "stop", None, (1,), None), "|", END, Sampling())
    with pytest.raises(Malformed, match="equally many"):
        token_steps(Choice("a", "stop", None, (1, 2), ("a",)), "|", END, Sampling())
    with pytest.raises(Malformed, match="3 tokens where at most 2"):
        token_steps(choice("a", "b", "c"), "|", Until("end", 2), Sampling())


@given(st.text(alphabet="ab|", max_size=30), st.integers(0, 40))
def test_counts_of_text_steps_add_up(text: str, count: int):
    """However the text falls into steps, no token is lost or counted twice."""
    steps = text_steps(Choice(text, "stop"), "|", Until("end", 50), Sampling(), count)
    assert "".join(step.text for step in steps) == text
    assert sum(step.n_tokens for step in steps) == count
    assert all(step.n_tokens >= 0 for step in steps)


def test_counts_of_text_steps_are_exact_with_the_texts_of_the_tokens():
    """Each step has its own tokens, the end of sequence belongs to the last."""
    whole = Choice("a|bb|c", "stop", None, None, ("a", "|", "b", "b", "|", "c", "$"), (-1.0,) * 7)
    steps = text_steps(whole, "|", END, Sampling(), 7)
    assert [(step.text, step.n_tokens, step.logprob) for step in steps] == [
        ("a|", 2, -2.0),
        ("bb|", 3, -3.0),
        ("c", 2, -2.0),
    ]


@pytest.mark.parametrize(
    ("read", "body", "fault"),
    [
        (read_completion, {}, "no choices"),
        (read_completion, {"choices": "two"}, "no choices"),
        (read_completion, {"choices": [None]}, "no choices"),
        (read_completion, {"choices": [{"text": None}]}, "without text"),
        (read_chat, {"choices": [{"text": "hi"}]}, "without message"),
        (read_chat, {"choices": [{"message": {"content": ["a", "b"]}}]}, "content is no text"),
    ],
)
def test_answers_against_the_protocol_say_how(read: Callable[..., Any], body: dict[str, Any], fault: str):
    """Nothing is guessed from an answer of the wrong shape."""
    with pytest.raises(Malformed, match=fault):
        read(body)


def test_choices_are_read_in_their_order_and_doubtful_parts_left_out():
    """By index; ids, texts and figures that are not what they must be count as not given."""
    doubtful = {"tokens": ["a", 3], "token_logprobs": [None, -1.0]}
    choices = [
        {"index": 1, "text": "b", "finish_reason": "stop", "matched_stop": "|", "token_ids": [1, -2]},
        {"index": 0, "text": "a", "finish_reason": "length", "logprobs": doubtful, "token_ids": [True]},
    ]
    first, second = read_completion({"choices": choices}).choices
    assert first == Choice("a", "length")
    assert second == Choice("b", "stop", "|")


def test_a_tool_call_has_no_text():
    """Its message is read as an empty answer, with the thoughts before it kept apart."""
    message = {"content": None, "reasoning": "hm", "tool_calls": [{}]}
    [choice] = read_chat({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).choices
    assert (choice.text, choice.reasoning, end_of(choice, "|")) == ("", "hm", End.EOS)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (None, None),
        ({"prompt_tokens": 3}, None),
        ({"prompt_tokens": 3, "completion_tokens": 2.5}, None),
        ({"prompt_tokens": 3, "completion_tokens": 2}, Counts(3, 0, 2)),
        ({"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": None}, Counts(3, 0, 2)),
    ],
)
def test_usage_is_whole_or_none(usage: Any, counts: Counts | None):
    """Half an account is no account."""
    assert counts_in({"usage": usage}) == counts
