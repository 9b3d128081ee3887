"""Answers of real solutions: GSM8K labels and MATH-500 gold answers, every disagreement in the message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from itscale.scorers.answers import ANSWER_KINDS

DATA = Path(__file__).parents[3] / "shared" / "data"
SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
NUMBER, MATH = ANSWER_KINDS["number"], ANSWER_KINDS["math"]


def rows(name: str) -> list[dict]:
    """The rows of a data file; skips where the folder is absent."""
    file = DATA / name
    if not file.exists():
        pytest.skip(f"the data folder with {name} is not beside the repository")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def redressed(latex: str) -> str:
    """The same mathematics in other commands."""
    for plain, other in (("\\frac{", "\\dfrac{"), ("\\left", ""), ("\\right", ""), ("\\sqrt{", "\\sqrt {")):
        latex = latex.replace(plain, other)
    return latex


def test_gsm8k_solutions_are_judged_as_labelled():
    """On each of the 5,276 model solutions the verdict is that of the label."""
    judged, disagreements = 0, []
    for row in rows("gsm8k_model_solutions.jsonl"):
        gold = NUMBER.extract(row["ground_truth"])
        assert gold is not None
        for solver in SOLVERS:
            told = NUMBER.extract(row[solver]["solution"])
            correct = told is not None and NUMBER.equal(answer=told, other=gold)
            judged += 1
            if correct is not row[solver]["is_correct"]:
                disagreements.append((solver, gold, told, row[solver]["is_correct"]))
    assert judged == 5276
    assert disagreements == []


def test_gsm8k_gold_answers_are_read():
    """Every `#### X` of the original test set is a number."""
    golds = [NUMBER.extract(row["answer"]) for row in rows("gsm8k_test.jsonl")]
    assert len(golds) == 1319
    assert None not in golds


@pytest.mark.slow
def test_math_solutions_reach_their_own_gold_answer():
    """At least 99.5 % of the boxed answers of the 500 solutions equal their gold answer, by math-verify too.

    Gold answers were cut from the solutions, so equal strings would settle it; the second count
    asks math-verify about the same pair, in another dress. Another problem's is the control.
    """
    problems = rows("math500.jsonl")
    golds = [row["answer"] for row in problems]
    plain, dressed, control = [], [], 0
    for i, row in enumerate(problems):
        told = MATH.extract(row["solution"])
        if told is None or not MATH.equal(answer=told, other=golds[i]):
            plain.append((golds[i], told))
        if told is None or not MATH.equal(answer=redressed(told), other=golds[i]):
            dressed.append((golds[i], told))
        control += MATH.equal(answer=golds[i - 1], other=golds[i])
    assert len(problems) == 500
    assert len(plain) <= 2, plain
    assert len(dressed) <= 2, dressed
    assert control < 25
