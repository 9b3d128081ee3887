"""The kinds of answer: what is read from a text, and when two readings are the same.

Law: equality is symmetric and holds for an answer and itself, whatever the kind and the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from itscale.errors import OptionError, did_you_mean
from itscale.scorers.answers.choice import extract_choice, normalise_choice
from itscale.scorers.answers.extract import extract_answer, statements
from itscale.scorers.answers.mathematics import math_check, math_equal, normalise_math
from itscale.scorers.answers.normalise import normalise_answer
from itscale.scorers.answers.number import extract_number, normalise_number
from itscale.scorers.answers.structured import extract_json, normalise_json

__all__ = ["ANSWER_KINDS", "AUTO", "AnswerKind", "AnswerName", "Same", "answer_kind"]

AnswerName = Literal["auto", "number", "choice", "math", "json"]


class Same(Protocol):
    """Whether two normalised answers are equal. Keyword-only: two bare strings invite a swap."""

    def __call__(self, *, answer: str, other: str) -> bool:
        """Must be symmetric."""


@dataclass(frozen=True)
class AnswerKind:
    """How answers are read and compared.

    >>> last_word = AnswerKind("text", extract=lambda text: text.split()[-1] if text.split() else None)
    >>> last_word.equal(answer="Paris", other=" paris ")
    True
    """

    name: str
    extract: Callable[[str], str | None]
    """A finished text to its answer; None where it states none."""
    normalise: Callable[[str], str] = normalise_answer
    """An answer to a form in which (most) equal answers are equal strings."""
    same: Same | None = None
    """For normalised forms that differ as strings; None: they are different answers."""
    check: Callable[[], None] = lambda: None
    """Called before a run; raises OptionError when something this kind needs is missing."""

    def equal(self, *, answer: str, other: str) -> bool:
        """Whether two answers are the same, through both remaining stages."""
        first, second = self.normalise(answer), self.normalise(other)
        return first == second or (self.same is not None and self.same(answer=first, other=second))

    def __str__(self) -> str:
        return self.name


def _extract_math(text: str) -> str | None:
    return next(statements(text), None)


AUTO = AnswerKind("auto", extract_answer)
ANSWER_KINDS: Mapping[str, AnswerKind] = {
    kind.name: kind
    for kind in (
        AUTO,
        AnswerKind("number", extract_number, normalise_number),
        AnswerKind("choice", extract_choice, normalise_choice),
        AnswerKind("math", _extract_math, normalise_math, math_equal, math_check),
        AnswerKind("json", extract_json, normalise_json),
    )
}


def answer_kind(kind: str | AnswerKind) -> AnswerKind:
    """The kind of that name, ready to be used; one of your own as it is.

    Raises:
        OptionError: there is no such kind, or what it needs is not installed.
    """
    if isinstance(kind, str):
        if kind not in ANSWER_KINDS:
            raise OptionError(did_you_mean("answers", kind, ANSWER_KINDS))
        kind = ANSWER_KINDS[kind]
    kind.check()
    return kind
