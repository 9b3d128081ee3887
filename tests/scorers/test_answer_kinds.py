"""Kinds of answer: what each reads from hostile texts, and what it calls equal."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itscale.errors import OptionError
from itscale.scorers.answers import ANSWER_KINDS, AnswerKind, answer_kind, tally

NUMBER, CHOICE, JSON = (ANSWER_KINDS[name] for name in ("number", "choice", "json"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A: 18", "18"),
        ("#### 1,234", "1234"),
        ("Answer: $18.00", "18"),
        ("Answer: -$5", "-5"),
        ("Answer: \u22125", "-5"),
        ("Answer: $5$", "5"),
        ("Answer: \\$5", "5"),
        ("Answer: \\(5\\)", "5"),
        ("Answer: 18 dollars per day", "18"),
        ("Answer: 60 km/h", "60"),
        ("Answer: x = 7", "7"),
        ("Answer: **42**.", "42"),
        ("So the answer is 18 because 9 * 2 = 18", "18"),
        ("The answer is 18. That is 9 * 2.", "18"),
        ("Answer: 2 million people", "2000000"),
        ("A: -1.8 billion", "-1800000000"),
        ("Answer: 1/2", "0.5"),
        ("Answer: \\frac{1}{3}", "1/3"),
        ("Answer: 3 1/2", "3.5"),
        ("Answer: 1.5e3", "1500"),
        ("Answer: .5", "0.5"),
        ("Answer: 90^\\circ", "90"),
        ("Answer: 50%", "50"),
        ("\\boxed{5}", "5"),
        ("Answer: 1\nno wait\nAnswer: 2", "2"),
        ("Answer: " + "9" * 5000, "9" * 5000),
    ],
)
def test_one_number_is_read(text, value):
    """Currency, units and LaTeX dress are dropped, scale words multiply, fractions are exact."""
    extracted = NUMBER.extract(text)
    assert extracted is not None
    assert NUMBER.normalise(extracted) == value


@pytest.mark.parametrize(
    "stated",
    [
        "10+John's age",
        "5, 6",
        "5 and 6",
        "5 or 6",
        "between 5 and 6",
        "3-5",
        "3 to 5",
        "12:30",
        "1,2",
        "1.000,50",
        "1 234",
        "minus 5",
        "negative 5",
        "not 5",
        "at least 5",
        "more than 5",
        "5 and a half",
        "5k",
        "5 k",
        "(5)",
        "5!",
        "5\u00b2",
        "\u00bd",
        "\u0665",
        "5^2",
        "2x",
        "5/0",
        "1/2/3",
        "1e999999999",
        "five",
        "--5",
        "5 \u00b1 1",
        "5'3",
        "x5",
        "",
    ],
)
def test_what_is_not_one_number_is_none(stated):
    """Two numbers, open calculations and words that turn a number are no answer, so no vote."""
    assert NUMBER.extract(f"Answer: {stated}") is None


def test_a_number_must_be_stated():
    """A number that merely stands in the text is not the answer."""
    assert NUMBER.extract("9 * 2 = 18\nso 18") is None
    assert NUMBER.extract("Error 500: internal server error") is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: A", "A"),
        ("Answer: b", "B"),
        ("Answer: (C)", "C"),
        ("Answer: (c) the cat", "C"),
        ("Answer: D) the dog", "D"),
        ("Answer: D. the dog", "D"),
        ("Answer: A: train", "A"),
        ("Answer: B - a train", "B"),
        ("Answer: option E", "E"),
        ("The answer is (b).", "B"),
        ("\\boxed{\\text{(D)}}", "D"),
        ("\\boxed{B}", "B"),
        ("**Answer:** **B**", "B"),
        ("Some thoughts.\n\n(B)", "B"),
        ("C", "C"),
        ("Answer: A train", None),
        ("Answer: a train", None),
        ("Answer: I think so", None),
        ("Answer: A and B", None),
        ("Answer: (A) and (B)", None),
        ("Answer: (A) or (B)", None),
        ("Answer: A, B", None),
        ("Answer: Z", None),
        ("Answer: AB", None),
        ("Answer: A-level", None),
        ("A train leaves the station", None),
        ("the answer is a bit unclear", None),
        ("", None),
    ],
)
def test_a_choice_is_a_letter_stated_as_one(text, letter):
    """Read as "A", "A train" would vote; two letters are no choice."""
    assert CHOICE.extract(text) == letter


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"b": 1, "a": 2}', '{"a":2,"b":1}'),
        ('thinking {"x": 1} then ```json\n{"y": [1.50, true]}\n```', '{"y":[1.5,true]}'),
        (
            '<tool_call>{"name": "f"}</tool_call> <tool_call>{"name": "g"}</tool_call>',
            '[{"name":"f"},{"name":"g"}]',
        ),
        ('{"n": 1e2, "z": -0.0}', '{"n":100,"z":0}'),
        ('{"n": ' + "9" * 5000 + "}", '{"n":' + "9" * 5000 + "}"),
        ('a [bracket] and {"ok": "}"}', '{"ok":"}"}'),
        ("no braces", None),
        ("3", None),
        ('{"a": 1, "a": 2}', None),
        ('{"a": NaN}', None),
        ('{"a": 1e999999999}', None),
        ("{'a': 1}", None),
        ('<tool_call>{"name": }</tool_call>', None),
        ("[" * 100_000, None),
        ('{"a":' * 100_000, None),
    ],
)
def test_json_is_read_as_a_whole_value(text, value):
    """The last object or array, all tool calls together; what readers disagree on is no answer."""
    assert JSON.extract(text) == value


def test_json_values_of_different_types_differ():
    """1, true and "1" are three answers; 1 and 1.0 are one, whatever the order of keys."""
    answers = ['{"a": 1, "b": 2}', '{"a": true, "b": 2}', '{"a": "1", "b": 2}', '{"b": 2.0, "a": 1.0}']
    assert [c.members for c in tally(answers, kind=JSON)] == [(0, 3), (1,), (2,)]


def test_votes_are_over_equal_numbers():
    """Three ways to write one number outvote two samples of another."""
    clusters = tally(["$18.00", "7", "18 dollars", "7", "36/2", None], kind=NUMBER)
    assert [c.members for c in clusters] == [(0, 2, 4), (1, 3)]


def test_a_cluster_is_what_equals_its_first_answer():
    """Equality that is not transitive: 1 ~ 2 ~ 3 but not 1 ~ 3; each joins the first it equals."""
    near = AnswerKind("near", str, str, lambda *, answer, other: abs(int(answer) - int(other)) <= 1)
    assert [c.members for c in tally(["1", "2", "3", "2"], kind=near)] == [(0, 1, 3), (2,)]
    assert [c.members for c in tally(["2", "1", "3"], kind=near)] == [(0, 1, 2)]


def test_a_kind_of_ones_own():
    """A user's function reads free text, and only what it reads votes."""
    colour = AnswerKind("colour", lambda text: next((c for c in ("red", "blue") if c in text), None))
    answers = [colour.extract(text) for text in ("it is red", "blue", "red!", "green")]
    assert [(c.answer, c.members) for c in tally(answers, kind=answer_kind(colour))] == [
        ("red", (0, 2)),
        ("blue", (1,)),
    ]


def test_an_unknown_kind_is_refused_with_the_closest():
    """A slip names its cure."""
    with pytest.raises(OptionError, match="did you mean 'number'"):
        answer_kind("numbr")


@pytest.mark.parametrize("name", ["auto", "number", "choice", "json"])
@given(text=st.text(alphabet=st.sampled_from(list('A1(,./-{}[]":$\\ \n\u00b2answeris')), max_size=40))
@settings(max_examples=30)
def test_any_text_can_be_read(name, text):
    """No text raises, and an answer that was read equals itself, read again or not."""
    kind = ANSWER_KINDS[name]
    for whole in (text, f"Answer: {text}", f"\\boxed{{{text}}}"):
        answer = kind.extract(whole)
        if answer is not None:
            assert kind.equal(answer=answer, other=answer)
            assert kind.equal(answer=answer, other=f" {answer} ")


@pytest.mark.parametrize("name", ["auto", "number", "choice", "json"])
@pytest.mark.parametrize(
    "unit",
    ["Answer: ", "\\boxed{", "answer is ", "1,234", "(A) ", "A: ", "[[1],", '{"a":1', "*" * 9, "$ ", "9"],
)
def test_long_hostile_texts_do_not_hang(name, unit):
    """200,000 characters of a repeated pattern are read in seconds: no pattern backtracks for ever.

    The bound is far above what is needed (milliseconds) and far below quadratic time (minutes).
    """
    began = time.process_time()
    ANSWER_KINDS[name].extract(unit * (200_000 // len(unit)))
    assert time.process_time() - began < 5


def test_json_answers_are_json():
    """The canonical writing is itself JSON with the same value."""
    text = '{"a": [1.25, {"\u00e9": null}], "b": "\\u0041"}'
    canonical = JSON.extract(text)
    assert canonical is not None
    assert json.loads(canonical) == json.loads(text)
