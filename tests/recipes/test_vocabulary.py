"""The tokenizer of the embedded models: whatever the tasks write survives, and steps end on tokens."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itscale.tasks import Chain, Countdown, GeneratedTask
from recipes.vocabulary import SPECIAL, build_tokenizer

TOKENIZER = build_tokenizer()
TASKS: list[GeneratedTask] = [Countdown(), Chain()]


def encode(text: str) -> list[int]:
    """Token ids of a text."""
    return list(TOKENIZER(text).input_ids)


@given(st.sampled_from([(task, level) for task in TASKS for level in task.levels]), st.integers(0, 2**32))
def test_every_prompt_and_solution_survives(task_and_level: tuple[GeneratedTask, int], seed: int):
    """`decode(encode(x)) == x` for what the tasks write, and no word of it is unknown."""
    task, level = task_and_level
    exercise = task.draw(random.Random(seed), level)
    for text in (exercise.prompt, exercise.solution):
        ids = encode(text)
        assert TOKENIZER.decode(ids) == text
        assert TOKENIZER.unk_token_id not in ids


@given(st.sampled_from([(task, level) for task in TASKS for level in task.levels]), st.integers(0, 2**32))
def test_a_solution_is_the_sum_of_its_lines(task_and_level: tuple[GeneratedTask, int], seed: int):
    """Encoding line by line gives the same tokens: a step can be fed back without a seam."""
    task, level = task_and_level
    solution = task.draw(random.Random(seed), level).solution
    lines = solution.splitlines(keepends=True)
    assert [token for line in lines for token in encode(line)] == encode(solution)


def test_a_number_below_a_hundred_is_one_token():
    """0 to 99, each its own token, each readable again."""
    ids = [encode(str(n)) for n in range(100)]
    assert {len(tokens) for tokens in ids} == {1}
    assert len({tokens[0] for tokens in ids}) == 100
    assert [TOKENIZER.decode(tokens) for tokens in ids] == [str(n) for n in range(100)]


def test_a_newline_is_one_token_and_nothing_else_contains_it():
    """The step boundary is found on tokens, so exactly one token may carry it."""
    [newline] = encode("\n")
    carriers = [i for i in range(len(TOKENIZER)) if "\n" in TOKENIZER.decode([i])]
    assert carriers == [newline]


@pytest.mark.parametrize("text", ["100", "007", "hello", "é", "²"])
def test_a_foreign_word_is_one_unknown_token(text: str):
    """The vocabulary is closed: what it lacks is `<unk>`, not a wrong number."""
    assert encode(text) == [TOKENIZER.unk_token_id]


def test_special_tokens_are_single_and_left_out_of_answers():
    """Each special token is one id, and decoding an answer drops them."""
    for token in SPECIAL:
        assert len(encode(token)) == 1
    assert TOKENIZER.decode(encode("Answer: 45<eos>"), skip_special_tokens=True) == "Answer: 45"


def test_the_chat_template_writes_what_training_saw():
    """A user message becomes the exact text the recipes train on."""
    messages = [{"role": "user", "content": "Make 45 from 3, 7, 12, 23."}]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<user>Make 45 from 3, 7, 12, 23.<assistant>"


def test_the_chat_template_can_continue_a_started_answer():
    """A last assistant message is left open on request and closed by `<eos>` otherwise."""
    messages = [
        {"role": "user", "content": "Make 45 from 3, 7, 12, 23."},
        {"role": "assistant", "content": "12 + 23 = 35 leaves 3 7 35\n"},
    ]
    opened = TOKENIZER.apply_chat_template(messages, tokenize=False, continue_final_message=True)
    closed = TOKENIZER.apply_chat_template(messages, tokenize=False)
    assert opened.endswith("<assistant>12 + 23 = 35 leaves 3 7 35\n")
    assert closed.endswith("35\n<eos>")


def test_the_chat_template_refuses_other_roles():
    """A system message would silently change nothing, so it raises."""
    with pytest.raises(Exception, match="user and assistant messages only"):
        TOKENIZER.apply_chat_template([{"role": "system", "content": "Be brief."}], tokenize=False)
