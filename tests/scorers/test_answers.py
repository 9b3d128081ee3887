"""Answers: what a text states, which are equal, and who may vote."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itscale.scorers.answers import answer_kind, answer_of_calls, extract_answer, normalise_answer, tally


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Step 1\nAnswer: 42", "42"),
        ("final answer is 42.", "42"),
        ("Answer: 1\nno wait\nAnswer: 2\n", "2"),
        ("so \\boxed{1} or rather \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{1}\nAnswer: 2", "2"),
        ("**Answer:** 42", "42"),
        ("**Answer: 42**.", "42"),
        ("The sum is 6.\n\nAnswer: $\\boxed{6}$", "6"),
        ("The answer could be anything", None),
        ("I have no idea", None),
        ("Answer:", None),
        ("\\boxed{1", None),
        ("\\boxed{}", None),
        ("", None),
    ],
)
def test_the_answer_stated_last_is_extracted(text, answer):
    """A line `Answer: X` before a box, markup removed; None where nothing is stated."""
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "same",
    [
        ["42", "42.0", " $42$ ", "+42", "042", "42.000"],
        ["1,234,567", "1234567"],
        ["-0.5", "-0.50", "-00.5"],
        ["0", "-0", "0.0", "-0.00"],
        ["The  Cat", "the cat"],
    ],
)
def test_equal_answers_are_equal_strings(same):
    """Numbers by value, text by case and spaces."""
    assert len({normalise_answer(answer) for answer in same}) == 1


@pytest.mark.parametrize(
    "different",
    [
        ["12345678901234567890", "12345678901234567891"],
        ["0.1", "0.10000000000000000001"],
        ["5", "-5", "50", "0.5"],
        ["1,2", "12"],
        ["9" * 400, "9" * 401, "9" * 5000],
    ],
)
def test_different_answers_stay_different(different):
    """Beyond what a float can hold, too; a run of digits never raises."""
    assert len({normalise_answer(answer) for answer in different}) == len(different)


@given(st.text(max_size=40))
@settings(max_examples=40, deadline=None)
def test_any_text_can_be_read(text):
    """No text of a model raises, and normalising twice changes nothing more."""
    extract_answer(text)
    extract_answer("Answer: " + text)
    extract_answer("\\boxed{" + text)
    once = normalise_answer(text)
    assert normalise_answer(once) == once or "$" in text


@given(st.integers(-(10**30), 10**30), st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_integers_are_written_in_many_ways(value, zeros):
    """Thousands separators, trailing decimals and a plain form agree."""
    assert normalise_answer(f"{value:,}") == normalise_answer(f"{value}.{'0' * (zeros + 1)}") == str(value)


def test_the_most_votes_win_and_no_answer_is_no_vote():
    """Two of five agree; the two without an answer do not outvote them."""
    clusters = tally(["7", None, "8", "7.0", None])
    assert [(c.answer, c.members, c.votes) for c in clusters] == [("7", (0, 3), 2.0), ("8", (2,), 1.0)]


def test_nobody_voted():
    """There is no winner, and no made-up one."""
    assert tally([None, None]) == []
    assert tally([]) == []


def test_ties_go_to_the_answer_seen_earliest():
    """Whatever its text."""
    assert [c.answer for c in tally(["b", "a", "a", "b"])] == ["b", "a"]


def test_the_representative_has_the_best_score():
    """Of its own cluster; without scores, or on a tie, the earliest; a missing score is the worst."""
    answers = ["1", "1", "2", "1"]
    assert tally(answers, scores=[0.1, 0.9, 5.0, 0.9])[0].representative == 1
    assert tally(answers)[0].representative == 0
    assert tally(answers, scores=[None, None, None, -3.0])[0].representative == 3


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.floats(0, 10)), min_size=1, max_size=9))
@settings(max_examples=40, deadline=None)
def test_weights_add_up(votes):
    """Every weight with an answer is in exactly one cluster, and clusters come most votes first."""
    answers, weights = zip(*votes, strict=True)
    clusters = tally(answers, weights)
    assert sorted(itertools.chain.from_iterable(c.members for c in clusters)) == [
        i for i, answer in enumerate(answers) if answer is not None
    ]
    for cluster in clusters:
        assert cluster.votes == pytest.approx(math.fsum(weights[i] for i in cluster.members))
        assert {answers[i] for i in cluster.members} == {cluster.answer}
    assert [c.votes for c in clusters] == sorted((c.votes for c in clusters), reverse=True)


def test_equal_weights_are_a_majority_and_all_different_is_best_of_n():
    """The two limits a weighted vote must have."""
    answers = ["a", "b", "b", "c"]
    assert tally(answers, [0.5] * 4)[0].members == tally(answers)[0].members == (1, 2)
    assert tally(["a", "b", "c"], [0.2, 0.9, 0.3])[0].answer == "b"


@pytest.mark.parametrize("bad", [-0.1, math.nan])
def test_a_weight_that_is_no_vote_is_refused(bad):
    """Negative or NaN would turn a vote against its own answer."""
    with pytest.raises(ValueError, match="at least 0"):
        tally(["a", "b"], [1.0, bad])


def test_tool_calls_are_voted_on_as_a_whole():
    """Equal calls in other words count together; sharing an argument or its upper case counts nothing."""

    def call(arguments: str) -> str | None:
        return answer_of_calls([{"id": arguments, "function": {"name": "f", "arguments": arguments}}])

    same, again = call('{"a": 1, "b": "X"}'), call('{"b":"X","a":1}')
    others = [call('{"a": 1, "b": "x"}'), call('{"a": 1, "b": "y"}'), call("{broken")]
    for kind in ("auto", "number", "json"):
        clusters = tally([*others, same, again, "1"], kind=answer_kind(kind))
        assert clusters[0].members == (3, 4), kind
        assert sorted(c.members for c in clusters[1:]) == [(0,), (1,), (5,)]  # the broken one has no vote
