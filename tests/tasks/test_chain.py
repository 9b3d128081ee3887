"""Chain's checkers: the answer decides a solution, and every line is judged by the definitions."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itscale.tasks import Chain, Exercise
from itscale.tasks.base import lines_of
from itscale.types import Problem, Prompt

TASK = Chain()
PROMPT = "Given c = b * 3, a = 5 + 2, d = a - 1, b = a + 4, find c."
LINES = ("a = 5 + 2 = 7", "b = 7 + 4 = 11", "c = 11 * 3 = 33", "Answer: 33")
RIGHT = "\n".join(LINES)


def accepts(text: str, prompt: str = PROMPT, reference: str = "33") -> bool:
    """Whether the answer is right."""
    return TASK.check(Problem("p", Prompt.user(prompt), reference), text)


def verified(text: str, prompt: str = PROMPT) -> bool:
    """Whether the whole solution is: every line legal, the answer last."""
    steps = TASK.check_steps(prompt, text)
    assert len(steps) == len(lines_of(text))
    return bool(steps) and all(steps) and lines_of(text)[-1].startswith("Answer: ")


@st.composite
def exercises(draw: st.DrawFn) -> Exercise:
    """Exercises of every level."""
    level = draw(st.sampled_from(TASK.levels))
    return TASK.draw(random.Random(draw(st.integers(0, 2**32))), level)


@given(exercises())
def test_a_generated_solution_is_right(exercise: Exercise):
    """What the generator works out, both checkers accept."""
    assert accepts(exercise.solution, exercise.prompt, exercise.answer)
    assert accepts(exercise.solution + "\n", exercise.prompt, exercise.answer)
    assert verified(exercise.solution, exercise.prompt)


@given(exercises())
def test_the_answer_follows_from_the_definitions(exercise: Exercise):
    """By plain substitution, without the checker, and every value stays within 0 to 99."""
    stated = exercise.prompt.removeprefix("Given ").partition(", find ")
    asked = stated[2].rstrip(".")
    definitions = dict(part.split(" = ") for part in stated[0].split(", "))

    def value(name: str) -> int:
        if name.isdigit():
            return int(name)
        a, operator, b = definitions[name].split()
        x, y = value(a), value(b)
        result = {"+": x + y, "-": x - y, "*": x * y}[operator]
        assert 0 <= result <= 99
        return result

    assert str(value(asked)) == exercise.answer
    assert len(lines_of(exercise.solution)) - 1 in TASK.levels


@given(exercises(), st.data())
def test_any_other_number_in_a_line_makes_it_wrong(exercise: Exercise, data: st.DataObject):
    """Every number of a solution is needed: changing one of them anywhere is seen."""
    places = [m.span() for m in re.finditer(r"\d+", exercise.solution)]
    start, end = data.draw(st.sampled_from(places))
    other = data.draw(st.integers(0, 200).filter(lambda n: n != int(exercise.solution[start:end])))
    changed = f"{exercise.solution[:start]}{other}{exercise.solution[end:]}"
    assert not verified(changed, exercise.prompt)


@given(exercises(), st.data())
def test_a_missing_line_is_seen(exercise: Exercise, data: st.DataObject):
    """Every line of a generated solution is needed by a later one."""
    lines = lines_of(exercise.solution)
    i = data.draw(st.integers(0, len(lines) - 1))
    assert not verified("\n".join(lines[:i] + lines[i + 1 :]), exercise.prompt)


@given(st.text())
def test_any_text_gets_a_verdict(text: str):
    """Whatever a model writes, the checkers answer without raising, one verdict a line."""
    assert not verified(text)
    assert not accepts(text)
    assert not accepts(f"{RIGHT}\n{text}x")
    assert TASK.check_steps(text, RIGHT) == [False] * len(LINES)


@given(st.text(alphabet="abc0123456789٣²+-*= Answer:\n", max_size=60))
def test_texts_that_look_like_solutions_get_a_verdict(text: str):
    """Near misses of the grammar are refused, not tripped over."""
    assert not verified(text)


@given(st.text(alphabet="abc0123456789٣²+-*=, .", max_size=60))
def test_any_definitions_get_a_verdict(text: str):
    """A prompt in the right frame with anything inside it, digits of other scripts included."""
    assert len(TASK.check_steps(f"Given {text}, find c.", RIGHT)) == len(LINES)


def test_the_example_is_right():
    """The unchanged base of every corruption below is accepted."""
    assert accepts(RIGHT)
    assert TASK.check_steps(PROMPT, RIGHT) == [True] * 4


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        pytest.param(0, "a = 5 + 2 = 8", id="wrong arithmetic"),
        pytest.param(0, "a = 2 + 5 = 7", id="operands swapped"),
        pytest.param(0, "a = 9 - 2 = 7", id="another definition"),
        pytest.param(0, "e = 5 + 2 = 7", id="a name without a definition"),
        pytest.param(0, "b = 7 + 4 = 11", id="a value not worked out yet"),
        pytest.param(1, "b = a + 4 = 11", id="a name not replaced"),
        pytest.param(1, "b = 8 + 4 = 12", id="a wrong value put in"),
        pytest.param(0, "a = 5 + 2", id="result missing"),
        pytest.param(0, "a = 5 + 2 = 7 ", id="a space at the end"),
        pytest.param(0, "a = 5 + 2 + 0 = 7", id="an expression"),
        pytest.param(0, "a = (5) + 2 = 7", id="brackets"),
        pytest.param(0, "a = 05 + 2 = 7", id="a leading zero"),
        pytest.param(0, "a = 5 + 2 = ٧", id="digits of another script"),
        pytest.param(0, "a = 5 + ² = 7", id="a superscript"),
        pytest.param(0, f"a = 5 + 2 = {'7' * 5000}", id="huge digits"),
        pytest.param(0, "", id="an empty line"),
        pytest.param(3, "Answer: 32", id="wrong answer"),
        pytest.param(3, "Answer: 033", id="answer with a leading zero"),
        pytest.param(3, "Answer: ٣٣", id="answer in another script"),
        pytest.param(3, f"Answer: {'3' * 5000}", id="huge answer"),
        pytest.param(3, "Answer: 11 * 3", id="answer not worked out"),
        pytest.param(3, "Answer: 33.", id="a full stop"),
        pytest.param(3, "answer: 33", id="another word"),
    ],
)
def test_a_corrupted_line_is_refused(line: int, instead: str):
    """The line is judged illegal, the ones before it are not; a corrupted answer is a wrong one."""
    text = "\n".join([*LINES[:line], instead, *LINES[line + 1 :]])
    assert not verified(text)
    assert TASK.check_steps(PROMPT, text)[: line + 1] == [True] * line + [False]
    assert accepts(text) is (line < 3)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("\n", id="only a newline"),
        pytest.param("\n".join(LINES[:3]), id="stopped before the answer"),
        pytest.param(f"{RIGHT}\nd = 7 - 1 = 6", id="a line after the answer"),
        pytest.param(f"{RIGHT}\n\n", id="an empty line at the end"),
        pytest.param(f"{RIGHT} ", id="a space at the end"),
        pytest.param(f"{RIGHT}\nthe end", id="trailing words"),
        pytest.param(RIGHT.replace("\n", "\r\n") + "\r", id="carriage returns"),
        pytest.param(RIGHT.replace("\n", "\u2028"), id="lines ended by U+2028"),
    ],
)
def test_a_corrupted_solution_is_refused(text: str):
    """Too little, too much, or lines that are none: neither checker takes it."""
    assert not accepts(text)
    assert not verified(text)


def test_nothing_is_legal_after_the_answer():
    """A solution ends with its answer, even if what follows would have been a legal line."""
    steps = TASK.check_steps(PROMPT, f"{RIGHT}\nd = 7 - 1 = 6\nAnswer: 33")
    assert steps == [True, True, True, True, False, False]


def test_an_irrelevant_but_true_line_is_legal():
    """Working out a value nobody asked for wastes tokens and breaks no rule."""
    assert verified("\n".join((LINES[0], "d = 7 - 1 = 6", *LINES[1:])))


def test_the_answer_alone_is_right_but_not_verified():
    """Accuracy counts answers; whole solutions are a stricter question."""
    assert accepts("Answer: 33")
    assert not verified("Answer: 33")
