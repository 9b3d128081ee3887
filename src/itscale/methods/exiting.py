"""Stopping inside one chain of thought: where it may stop, and how the answer is then asked for.

A chain grows step by step. At a *cue* (the end of a step, or of one that says a word like "wait") a
rule may stop it: the *exit* text is put there, not drawn, and the model answers greedily from it.
Which rule is the business of the methods (`budget_forcing`, `early_exit`, `entropy_exit`, `anytime`).

Law: an exit is always possible. Thinking is kept that far from `max_tokens` and from the run's
token limit that an answer still fits, so a limit on tokens gives an answer and not a torso.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from itscale.errors import AllFailedError, OptionError
from itscale.methods.session import Session
from itscale.methods.whole import WholeAnswers
from itscale.models.base import Capability
from itscale.types import Candidate, Path

__all__ = ["EXITS", "Exit", "Exiting", "exit_of"]


@dataclass(frozen=True, slots=True)
class Exit:
    """How a model is made to answer."""

    text: str
    """Said in its place; the answer follows at once."""
    over: str | None = None
    """What the model itself says when its thinking is over; None where only its end tells."""


EXITS: Mapping[str, Exit] = {
    "answer": Exit("Answer: "),
    "think": Exit("\n</think>\n\nFinal answer: \\boxed{", "</think>"),
}
"""`answer` for models that end in a line `Answer: X`, the embedded ones too; `think` for reasoning models."""


@dataclass(frozen=True, kw_only=True)
class Exiting(WholeAnswers):
    """What methods that stop a chain share.

    Raises:
        OptionError: an option is out of range.
    """

    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "none"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.STEPS, Capability.FORCING})

    exit: str = "answer"
    r"""How the answer is asked for: `answer`, `think`, or the text itself (\n is a new line)."""
    answer_tokens: int = 32
    """Tokens kept for the answer after an exit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.answer_tokens < 1:
            raise OptionError(f"answer_tokens is {self.answer_tokens}; give at least 1")
        if not self.exit:
            raise OptionError(f"exit is empty; give {', '.join(EXITS)}, or the text that asks for the answer")

    @cached_property
    def way_out(self) -> Exit:
        """The exit that `exit` names or is."""
        return exit_of(self.exit)

    def candidate(self, path: Path, **fields: Any) -> Candidate:
        """As for whole answers; what follows an exit is an answer even where it was cut off."""
        forced = any(step.forced and step.text.strip() == self.way_out.text.strip() for step in path.steps)
        if forced and path.truncated:
            return Candidate(path=path, answer=self.answer_kind.extract(closed(path.text)), **fields)
        candidate = super().candidate(path, **fields)
        if candidate.answer is None and forced and path.finished:
            return Candidate(path=path, answer=self.answer_kind.extract(closed(path.text)), **fields)
        return candidate

    def is_over(self, path: Path) -> bool:
        """Whether the model has ended its thinking itself: it finished, or said so."""
        over = self.way_out.over
        return path.finished or (over is not None and path.step is not None and over in path.step.text)

    def room(self, session: Session, thought: int, limit: int | None = None) -> int:
        """Tokens that thinking may still take when it took `thought`, an answer kept in reserve."""
        left = min(self.max_tokens, limit or self.max_tokens) - thought
        return int(min(left, session.ledger.left - self.answer_tokens))

    async def step(self, session: Session, path: Path, room: int) -> Path:
        """The path with one more step of `room` tokens at most; itself where nothing more may come.

        Raises:
            AllFailedError: the first call failed, so that there is nothing to answer from.
        """
        [child] = await session.continued([path], at_most=room)
        if child is None and path.parent is None:
            raise AllFailedError(f"the chain could not begin: {session.failure}") from session.failure
        return child or path

    async def leave(self, session: Session, paths: Sequence[Path]) -> list[Path]:
        """Each path with the exit put after it and the answer decoded greedily."""
        forced = [self.forced(session, path) for path in paths]
        answered = await session.continued(forced, at_most=self.answer_tokens, whole=True, greedy=True)
        return [path or stub for path, stub in zip(answered, forced, strict=True)]

    def forced(self, session: Session, path: Path) -> Path:
        """The path with the exit put after it, on a line of its own."""
        new_line = path.step is not None and not path.step.text.endswith("\n")
        return session.force(path, "\n" * new_line + self.way_out.text)

    async def conclude(self, session: Session, path: Path) -> Path:
        """The rest of a path whose thinking is over."""
        if path.ended:
            return path
        [whole] = await session.continued([path], at_most=self.answer_tokens, whole=True)
        return whole or path


def exit_of(text: str) -> Exit:
    r"""The exit of that name, else one that says the text (\n is a new line)."""
    return EXITS.get(text) or Exit(text.replace("\\n", "\n"))


def closed(text: str) -> str:
    r"""A text whose last `\boxed{` was opened by an exit and never closed, closed at its line's end."""
    start = text.rfind("\\boxed{")
    if start < 0 or text[start:].count("{") <= text[start:].count("}"):
        return text
    return text[:start] + re.sub(r"[ \t]*(\n|$)", r"}\1", text[start:], count=1)
