"""Sequences that teach looking definitions up."""

from __future__ import annotations

import random

from recipes.data import IGNORED
from recipes.recall import batch, sequence
from recipes.vocabulary import build_tokenizer


def test_every_definition_of_the_prompt_is_recalled_once():
    """What is to be recalled is what the prompt states, no more and no less."""
    rng = random.Random(0)
    for _ in range(200):
        prompt, definitions = sequence(rng)
        stated = prompt.removeprefix("<user>Given ").partition(", find ")[0].split(", ")
        assert sorted(f"{name} = {right_side}" for name, right_side in definitions) == sorted(stated)


def test_loss_is_on_right_sides_alone():
    """Labels are the tokens behind `name =`, aligned with the inputs."""
    tokenizer = build_tokenizer()
    inputs, labels = batch(tokenizer, random.Random(0), 400)
    for row, marks in zip(inputs.tolist(), labels.tolist(), strict=True):
        learnt = [tokenizer.convert_ids_to_tokens(t) for t, m in zip(row, marks, strict=True) if m != IGNORED]
        assert [t for t, m in zip(row, marks, strict=True) if m != IGNORED] == [
            m for m in marks if m != IGNORED
        ]
        assert len(learnt) % 3 == 0
        assert {learnt[i] for i in range(1, len(learnt), 3)} <= set("+-*")
