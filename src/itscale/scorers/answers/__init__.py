r"""What a text's final answer is, and which answers are the same: extract, normalise, compare, vote.

An `AnswerKind` is the first three stages; `tally` is the vote over the clusters they give.

    kind     extract                           equal when
    auto     `Answer: X`, else `\boxed{X}`       numbers by value, text by case and spaces
    number   the one number of the statement   the exact value: 1/2 = 0.5, 2 million = 2000000
    choice   the letter of the statement       the letter; "A train" is no choice
    math     as auto, also `#### X`, `A: X`    math-verify finds them equal (extra `itscale[math]`)
    json     the last object or array, or all  the value: key order, spaces and 1 or 1.0 are
             `<tool_call>` blocks              the same, and nothing else is

Tool calls that a server gives as such are an answer whatever the kind, voted on as a whole.
Free text is read by a kind of your own: `AnswerKind("text", extract=your_function)`.
"""

from __future__ import annotations

from itscale.scorers.answers.calls import answer_of_calls
from itscale.scorers.answers.extract import extract_answer
from itscale.scorers.answers.kinds import ANSWER_KINDS, AUTO, AnswerKind, AnswerName, answer_kind
from itscale.scorers.answers.normalise import normalise_answer
from itscale.scorers.answers.votes import Cluster, tally

__all__ = [
    "ANSWER_KINDS",
    "AUTO",
    "AnswerKind",
    "AnswerName",
    "Cluster",
    "answer_kind",
    "answer_of_calls",
    "extract_answer",
    "normalise_answer",
    "tally",
]
