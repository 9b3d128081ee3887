"""Countdown's checker accepts every legal play that reaches the target, and nothing else."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itscale.tasks import Countdown, Exercise
from itscale.tasks.base import lines_of
from itscale.types import Problem, Prompt

TASK = Countdown()
PROMPT = "Make 45 from 3, 7, 12, 23."
LINES = ("23 + 12 = 35 leaves 3 7 35", "35 + 7 = 42 leaves 3 42", "42 + 3 = 45 leaves 45", "Answer: 45")
RIGHT = "\n".join(LINES)


def problem(prompt: str = PROMPT, reference: str = "45") -> Problem:
    """A problem as the task would state it."""
    return Problem("p", Prompt.user(prompt), reference)


def accepts(text: str, prompt: str = PROMPT, reference: str = "45") -> bool:
    """The checker's verdict, held against the line-by-line one."""
    verdict = TASK.check(problem(prompt, reference), text)
    steps = TASK.check_steps(prompt, text)
    assert len(steps) == len(lines_of(text))
    assert verdict == (
        bool(steps) and all(steps) and text.removesuffix("\n").endswith(f"Answer: {reference}")
    )
    return verdict


@st.composite
def exercises(draw: st.DrawFn) -> Exercise:
    """Exercises of every level."""
    level = draw(st.sampled_from(TASK.levels))
    return TASK.draw(random.Random(draw(st.integers(0, 2**32))), level)


@given(exercises())
def test_a_generated_solution_is_right(exercise: Exercise):
    """What the generator plays, the checker accepts line by line."""
    assert accepts(exercise.solution, exercise.prompt, exercise.answer)
    assert accepts(exercise.solution + "\n", exercise.prompt, exercise.answer)


@given(exercises())
def test_a_solution_follows_the_stated_rules(exercise: Exercise):
    """By plain arithmetic, without the checker: each number once, values 0 to 99, the target last."""
    left = [int(x) for x in re.findall(r"\d+", exercise.prompt.partition("from")[2])]
    for line in lines_of(exercise.solution)[:-1]:
        play, _, leaves = line.partition(" leaves ")
        a, operator, b, _, value = play.split()
        left.remove(int(a))
        left.remove(int(b))
        worked_out = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}
        assert int(value) == (worked_out[operator] if operator in worked_out else int(a) / int(b))
        assert 0 <= int(value) <= 99
        left.append(int(value))
        assert sorted(left) == sorted(map(int, leaves.split()))
    assert left == [int(exercise.answer)]
    assert exercise.prompt.startswith(f"Make {exercise.answer} from ")


@given(exercises(), st.data())
def test_any_other_number_in_a_line_makes_it_wrong(exercise: Exercise, data: st.DataObject):
    """Every number of a solution is needed: changing one of them anywhere is seen."""
    places = [m.span() for m in re.finditer(r"\d+", exercise.solution)]
    start, end = data.draw(st.sampled_from(places))
    other = data.draw(st.integers(0, 200).filter(lambda n: n != int(exercise.solution[start:end])))
    changed = f"{exercise.solution[:start]}{other}{exercise.solution[end:]}"
    assert not accepts(changed, exercise.prompt, exercise.answer)


@given(exercises(), st.data())
def test_a_missing_or_repeated_line_is_wrong(exercise: Exercise, data: st.DataObject):
    """A play with a line left out, or told twice, is no play."""
    lines = lines_of(exercise.solution)
    i = data.draw(st.integers(0, len(lines) - 1))
    for changed in (lines[:i] + lines[i + 1 :], lines[: i + 1] + lines[i:]):
        assert not accepts("\n".join(changed), exercise.prompt, exercise.answer)


@given(st.text())
def test_any_text_gets_a_verdict(text: str):
    """Whatever a model writes, the checker answers without raising, one verdict a line."""
    assert not accepts(text)
    assert not accepts(f"{RIGHT}\n{text}x")
    assert TASK.check_steps(text, RIGHT) == [False] * len(LINES)


@given(st.text(alphabet="0123456789٣²+-*/= leavsAnwr:\n", max_size=60))
def test_texts_that_look_like_plays_get_a_verdict(text: str):
    """Near misses of the grammar are refused, not tripped over."""
    assert not accepts(text)


def test_the_example_is_right():
    """The unchanged base of every corruption below is accepted."""
    assert accepts(RIGHT)
    assert TASK.check_steps(PROMPT, RIGHT) == [True] * 4


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        pytest.param(0, "23 + 12 = 36 leaves 3 7 36", id="wrong arithmetic"),
        pytest.param(0, "12 + 12 = 24 leaves 3 7 23 24", id="a number used twice"),
        pytest.param(0, "13 + 12 = 25 leaves 3 7 23 25", id="a number that was not given"),
        pytest.param(0, "23 + 12 = 35 leaves 3 7 12 35", id="leaves keeps a used number"),
        pytest.param(0, "23 + 12 = 35 leaves 3 35", id="leaves forgets a number"),
        pytest.param(0, "23 + 12 = 35", id="leaves missing"),
        pytest.param(0, "23 + 12 = 35 leaves ", id="leaves empty"),
        pytest.param(0, "23 + 12 = 35 leaves 3 7 35 ", id="a space at the end"),
        pytest.param(0, "23 + 12 + 0 = 35 leaves 3 7 35", id="an expression"),
        pytest.param(0, "(23) + 12 = 35 leaves 3 7 35", id="brackets"),
        pytest.param(0, "23 ** 1 + 12 = 35 leaves 3 7 35", id="a power"),
        pytest.param(0, "023 + 12 = 35 leaves 3 7 35", id="a leading zero"),
        pytest.param(0, "2_3 + 12 = 35 leaves 3 7 35", id="an underscore in a number"),
        pytest.param(0, "+23 + 12 = 35 leaves 3 7 35", id="a sign"),
        pytest.param(0, "23 + 12 = 35 leaves 3 7 ٣٥", id="digits of another script"),
        pytest.param(0, "23 + 12 = 35 leaves ³ 7 35", id="a superscript"),
        pytest.param(0, f"23 + 12 = {'9' * 5000} leaves 3 7 35", id="huge digits"),
        pytest.param(0, "", id="an empty line"),
        pytest.param(3, "Answer: 44", id="wrong answer"),
        pytest.param(3, "Answer: 045", id="answer with a leading zero"),
        pytest.param(3, "Answer: ٤٥", id="answer in another script"),
        pytest.param(3, f"Answer: {'4' * 5000}", id="huge answer"),
        pytest.param(3, "Answer: 42 + 3", id="answer not worked out"),
        pytest.param(3, "Answer: 45.", id="a full stop"),
        pytest.param(3, "Answer: 45 or 46", id="two answers"),
        pytest.param(3, "answer: 45", id="another word"),
        pytest.param(3, "42", id="no answer"),
    ],
)
def test_a_corrupted_line_is_refused(line: int, instead: str):
    """One wrong line makes the solution wrong, at that line."""
    changed = [*LINES[:line], instead, *LINES[line + 1 :]]
    assert not accepts("\n".join(changed))
    assert TASK.check_steps(PROMPT, "\n".join(changed))[: line + 1] == [True] * line + [False]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("\n", id="only a newline"),
        pytest.param("Answer: 45", id="answer without a play"),
        pytest.param("\n".join(LINES[:2] + LINES[3:]), id="missing step"),
        pytest.param("\n".join((LINES[0], LINES[3])), id="leftover numbers"),
        pytest.param("\n".join(LINES[:3]), id="stopped before the answer"),
        pytest.param(f"{RIGHT}\nAnswer: 45", id="answered twice"),
        pytest.param(f"{RIGHT}\n\n", id="an empty line at the end"),
        pytest.param(f"{RIGHT} ", id="a space at the end"),
        pytest.param(f"{RIGHT}\nthe end", id="trailing words"),
        pytest.param(f"So.\n{RIGHT}", id="leading words"),
        pytest.param(RIGHT.replace("\n", "\r\n"), id="carriage returns"),
        pytest.param(RIGHT.replace("\n", "\u2028"), id="lines ended by U+2028"),
        pytest.param(RIGHT.replace("\n", "\x0c"), id="lines ended by a form feed"),
    ],
)
def test_a_corrupted_solution_is_refused(text: str):
    """Too little, too much, or lines that are none."""
    assert not accepts(text)


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ("Make 10 from 7, 3.", "3 - 7 = 4 leaves 4"),
        ("Make 10 from 1, 10.", "10 * 1 = 10 leaves 10"),
        ("Make 10 from 0, 10.", "10 / 0 = 10 leaves 10"),
        ("Make 3 from 10, 3.", "10 / 3 = 3 leaves 3"),
        ("Make 150 from 10, 15.", "15 * 10 = 150 leaves 150"),
    ],
)
def test_operations_outside_the_rules_are_refused(prompt: str, line: str):
    """No negative value, no padding by 1, no division by 0 or with a remainder, nothing above 99."""
    assert TASK.check_steps(prompt, line) == [False]


def test_the_larger_number_stands_first():
    """The one way of writing an operation: a sum told the other way round is not legal either."""
    assert not accepts("\n".join(("12 + 23 = 35 leaves 3 7 35", *LINES[1:])))


def test_division_is_exact():
    """The legal form of a division, and the same numbers upside down."""
    assert accepts("24 / 6 = 4 leaves 4\nAnswer: 4", "Make 4 from 6, 24.", "4")
    assert not accepts("6 / 24 = 4 leaves 4\nAnswer: 4", "Make 4 from 6, 24.", "4")


def test_the_reference_decides_too():
    """A play that reaches the prompt's target is wrong for a problem that expects another answer."""
    assert not TASK.check(problem(reference="46"), RIGHT)


def test_after_an_illegal_line_nothing_is_legal():
    """A later line may look right, but it stands on sand."""
    text = "\n".join(("23 + 12 = 36 leaves 3 7 36", *LINES[1:]))
    assert TASK.check_steps(PROMPT, text) == [False] * 4
