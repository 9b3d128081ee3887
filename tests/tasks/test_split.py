"""Training never saw a held-out problem: a canonical key, worked out here from the words of the
prompt alone, decides the side, and the real training stream is held against the real problems."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itscale.errors import TaskError
from itscale.tasks import Chain, Countdown, GeneratedTask
from itscale.tasks.base import HELD_OUT_ONE_IN, split_of
from itscale.tasks.chain import NAMES
from itscale.types import Problem, Prompt
from recipes.data import MIXTURES, draw_training

TASKS: list[GeneratedTask] = [Countdown(), Chain()]
LEVELS = [(task, level) for task in TASKS for level in task.levels]
TRAINING_DRAWS = 6000


def key_of(prompt: str) -> str:
    """What makes two problems the same, read off the prompt: order and names do not count."""
    if prompt.startswith("Make "):
        target, *given_numbers = map(int, re.findall(r"\d+", prompt))
        return f"countdown {target} {sorted(given_numbers)}"
    stated, _, asked = prompt.removeprefix("Given ").rstrip(".").partition(", find ")
    definitions = dict(part.split(" = ") for part in stated.split(", "))
    needed: list[str] = []

    def visit(name: str) -> None:
        if name in definitions and name not in needed:
            a, _, b = definitions[name].split()
            visit(a)
            visit(b)
            needed.append(name)

    visit(asked)
    shape = {name: f"v{i}" for i, name in enumerate(needed)}
    return "chain " + "; ".join(
        " ".join(shape.get(part, part) for part in definitions[name].split()) for name in needed
    )


def prompts(task: GeneratedTask, level: int, count: int = 500) -> list[str]:
    """The words of the first held-out problems."""
    return [problem.prompt.question for problem in task.problems(count, level=level)]


@pytest.mark.parametrize(("task", "level"), LEVELS)
@given(seed=st.integers(0, 2**32))
def test_the_key_is_what_the_prompt_says(task: GeneratedTask, level: int, seed: int):
    """The generator's key and the one read off the prompt are the same."""
    exercise = task.draw(random.Random(seed), level)
    assert key_of(exercise.prompt) == exercise.key


@given(st.integers(0, 2**32), st.sampled_from(Countdown.levels))
def test_the_order_of_countdown_numbers_does_not_count(seed: int, level: int):
    """The same target from the same numbers in another order is the same problem, on the same side."""
    rng = random.Random(seed)
    exercise = Countdown().draw(rng, level)
    target, *numbers = re.findall(r"\d+", exercise.prompt)
    rng.shuffle(numbers)
    assert key_of(f"Make {target} from {', '.join(numbers)}.") == exercise.key


@given(st.integers(0, 2**32), st.sampled_from(Chain.levels))
def test_names_order_and_irrelevant_definitions_of_a_chain_do_not_count(seed: int, level: int):
    """Renamed, reordered or with what nobody needs left out, a chain is the same problem."""
    rng = random.Random(seed)
    exercise = Chain().draw(rng, level)
    renamed = dict(zip(NAMES, rng.sample(NAMES, len(NAMES)), strict=True))
    prompt = re.sub(r"\b[a-n]\b", lambda m: renamed[m[0]], exercise.prompt)
    stated, _, asked = prompt.removeprefix("Given ").partition(", find ")
    parts = stated.split(", ")
    rng.shuffle(parts)
    assert key_of(f"Given {', '.join(parts)}, find {asked}") == exercise.key
    needed = {renamed[line[0]] for line in exercise.solution.splitlines() if line[0] in NAMES}
    kept = [part for part in parts if part[0] in needed]
    assert len(kept) == level
    assert key_of(f"Given {', '.join(kept)}, find {asked}") == exercise.key


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_training_draws_and_held_out_problems_are_disjoint(mixture):
    """Thousands of draws of a real training stream, no held-out problem of any level among them."""
    rng = random.Random(0)
    trained = {key_of(draw_training(rng, mixture).prompt) for _ in range(TRAINING_DRAWS)}
    assert len(trained) > TRAINING_DRAWS * 0.8
    assert {split_of(key) for key in trained} == {"train"}
    for task, level in LEVELS:
        held_out = {key_of(prompt) for prompt in prompts(task, level)}
        assert {split_of(key) for key in held_out} == {"test"}
        assert trained.isdisjoint(held_out)


def test_without_the_split_the_sides_would_overlap():
    """The test above can fail: unfiltered draws do hit held-out problems of the smallest level."""
    rng = random.Random(0)
    drawn = {Countdown().draw(rng, 3).key for _ in range(TRAINING_DRAWS)}
    assert drawn & {key_of(prompt) for prompt in prompts(Countdown(), 3)}


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_a_mixture_covers_every_task_and_level(mixture):
    """Nothing is measured that was never trained, and the shares are shares."""
    assert [(task.name, level) for task, level, _ in mixture] == [
        (task.name, level) for task, level in LEVELS
    ]
    assert sum(share for *_, share in mixture) == pytest.approx(1.0)


@pytest.mark.parametrize(("task", "level"), LEVELS)
def test_problems_are_distinct_and_the_same_every_time(task: GeneratedTask, level: int):
    """500 different problems with different ids; a longer list begins with the shorter one."""
    first = task.problems(500, level=level)
    assert first == task.problems(500, level=level)
    assert first[:100] == task.problems(100, level=level)
    assert len({key_of(p.prompt.question) for p in first}) == 500
    assert len({p.id for p in first}) == 500
    assert {p.level for p in first} == {level}
    assert task.problems(100, level=level, seed=1) != first[:100]


def test_the_first_problems_are_pinned():
    """Published figures are about these problems: if this fails, every figure is about others."""
    assert [task.problems(1)[0].prompt.question for task in TASKS] == [
        "Make 80 from 4, 13, 11, 14.",
        "Given i = m + d, b = d * 6, m = b - 30, h = 11 + i, d = 17 - 2, find m.",
    ]


@pytest.mark.parametrize("task", TASKS)
def test_every_problem_is_solvable_as_stated(task: GeneratedTask):
    """The reference is the answer of a solution that the checker accepts, at the default level."""
    solutions = {}
    for exercise in task.exercises(
        "test", task.default_level, random.Random(f"{task.name}/{task.default_level}/0")
    ):
        solutions.setdefault(exercise.key, exercise.solution)
        if len(solutions) == 200:
            break
    problems = task.problems(200)
    assert all(task.check(p, solutions[key_of(p.prompt.question)]) for p in problems)


def test_an_unknown_level_is_refused_with_the_known_ones():
    """The message says what there is."""
    with pytest.raises(TaskError, match=r"no level 9; choose one of 3, 4, 5"):
        Countdown().problems(1, level=9)


def test_about_one_in_sixteen_is_held_out():
    """The hash is fair: 20,000 keys, five standard deviations (false alarm below one in a million)."""
    n, share = 20_000, 1 / HELD_OUT_ONE_IN
    held_out = sum(split_of(f"key {i}") == "test" for i in range(n))
    assert abs(held_out - n * share) < 5 * (n * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("task", TASKS)
def test_spaces_before_a_line_are_not_part_of_it(task: GeneratedTask):
    """A server that spells tokens one by one begins lines with one; inside a line spaces still count."""
    exercise = next(task.exercises("test", task.default_level, random.Random(0)))
    problem = Problem("p", Prompt.user(exercise.prompt), exercise.answer)
    spelled = " " + exercise.solution.replace("\n", "\n ")
    assert task.check(problem, spelled)
    assert all(task.check_steps(exercise.prompt, spelled))
    assert not all(task.check_steps(exercise.prompt, exercise.solution.replace(" = ", " =  ", 1)))
    assert not all(task.check_steps(exercise.prompt, "\t" + exercise.solution))
