"""Labels that say where a rollout leaves the legal lines."""

from __future__ import annotations

import random
import re

import pytest

from itscale.tasks import Chain, Countdown
from recipes.legal import legal_so_far

PROMPT = "Given c = b * 3, a = 5 + 2, b = a + 4, find c."


def words(text: str) -> list[str]:
    """The vocabulary's words of a solution, the end included."""
    return [*re.findall(r"\d+|[A-Za-z]+|\n|[^\s\w]", text), "<eos>"]


def labelled(task: str, prompt: str, text: str) -> list[tuple[str, int | None]]:
    """Each word with its label."""
    return list(zip(words(text), legal_so_far(task, prompt, words(text)), strict=True))


@pytest.mark.parametrize("task", [Chain(), Countdown()], ids=lambda task: task.name)
def test_gold_solutions_are_legal_throughout(task):
    """No label of any exercise's own solution is 0, and every end of a line has a label."""
    rng = random.Random(0)
    for level in task.levels:
        for _ in range(20):
            exercise = task.draw(rng, level)
            found = labelled(task.name, exercise.prompt, exercise.solution)
            assert 0 not in {label for _, label in found}
            assert all(label == 1 for word, label in found if word in ("\n", "<eos>"))


def test_the_first_wrong_token_of_a_chain_is_known_at_once():
    """In 'b = 5 + 2' the 5 is wrong: b is a + 4; the words before it are still right."""
    found = labelled("chain", PROMPT, "a = 5 + 2 = 7\nb = 5 + 2 = 7\nAnswer: 7")
    assert found[:8] == [(word, 1) for word in words("a = 5 + 2 = 7\n")[:8]]
    assert found[8:12] == [("b", 1), ("=", 1), ("5", 0), ("+", 0)]
    assert [label for word, label in found if word == "\n"] == [1, 0]


def test_after_the_first_illegal_line_only_ends_are_labelled():
    """What follows a mistake teaches nothing but that it is past."""
    found = labelled("chain", PROMPT, "a = 5 + 2 = 8\nb = 8 + 4 = 12\nAnswer: 12")
    later = found[8:]
    assert [label for word, label in later if word in ("\n", "<eos>")] == [0, 0]
    assert {label for word, label in later if word not in ("\n", "<eos>")} == {None}


def test_a_definition_whose_names_are_not_worked_out_yet_is_no_line():
    """'c = 7 * 3' before b is known: no legal line begins with c, so its very name is wrong."""
    assert labelled("chain", PROMPT, "c = 7 * 3 = 21\nAnswer: 21")[0] == ("c", 0)


def test_countdown_is_judged_by_whole_lines():
    """Many lines are legal there; a wrong sum is known at the end of its line."""
    found = labelled(
        "countdown", "Make 39 from 2, 24, 9.", "24 * 2 = 49 leaves 9 49\n49 - 9 = 40 leaves 40\nAnswer: 40"
    )
    assert [label for word, label in found if word in ("\n", "<eos>")] == [0, 0, 0]
    assert {label for word, label in found if word not in ("\n", "<eos>")} == {None}
