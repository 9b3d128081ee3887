"""What a task is: problems, an exact checker, and a promise that training never saw the held-out ones.

Held-out and training problems are disjoint by construction: every problem has a canonical
`key` (what makes two problems the same up to naming and order), and a hash of that key alone
decides which side it is on.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from itscale.errors import TaskError
from itscale.types import Problem, Prompt

__all__ = ["HELD_OUT_ONE_IN", "Exercise", "GeneratedTask", "Split", "Task", "lines_of", "split_of"]

Split = Literal["train", "test"]
HELD_OUT_ONE_IN = 16
GIVE_UP_AFTER = 5000
"""Repeated problems in a row after which a level counts as exhausted."""


def split_of(key: str) -> Split:
    """The side a problem is on; a pure function of its canonical key."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0 else "train"


@dataclass(frozen=True, slots=True)
class Exercise:
    """One generated problem with one correct worked solution (text, steps are lines)."""

    prompt: str
    solution: str
    answer: str
    key: str


def lines_of(text: str) -> list[str]:
    """The lines of a solution; spaces before a line and one newline at the very end do not count.

    Servers that spell tokens one by one may begin each line with a space. Only a newline ends a
    line: `str.splitlines` would let a form feed or U+2028 forge one.
    """
    lines = [line.lstrip(" ") for line in text.removesuffix("\n").split("\n")]
    return lines if lines != [""] or text.endswith("\n") else []


class Task(ABC):
    """Problems, and an exact checker of their solutions."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What rows and tables call it."""

    @property
    @abstractmethod
    def default_level(self) -> int | None:
        """The difficulty asked for when none is said; None for all of them together."""

    @property
    def checks_are_slow(self) -> bool:
        """Whether a check may take more than a moment, so that callers make it off their event loop."""
        return False

    @abstractmethod
    def problems(self, count: int, *, level: int | None = None, seed: int = 0) -> list[Problem]:
        """`count` problems of a level; the same for every call with the same arguments.

        Raises:
            TaskError: if the level does not exist, or has fewer problems than asked for.
        """

    @abstractmethod
    def check(self, problem: Problem, text: str) -> bool:
        """Whether `text` is a correct solution of `problem` (the field's accuracy)."""


class GeneratedTask(Task):
    """A task whose problems are drawn at random at a difficulty level and checked exactly."""

    name: ClassVar[str]
    summary: ClassVar[str]
    levels: ClassVar[tuple[int, ...]]
    default_level: ClassVar[int]
    level_meaning: ClassVar[str]

    @abstractmethod
    def draw(self, rng: random.Random, level: int) -> Exercise:
        """One exercise, from either side of the split."""

    @abstractmethod
    def check_steps(self, prompt: str, text: str) -> list[bool]:
        """For each line of `text`, whether that line is legal given the lines before it."""

    def exercises(self, split: Split, level: int, rng: random.Random) -> Iterator[Exercise]:
        """An endless stream of exercises of one side of the split."""
        while True:
            exercise = self.draw(rng, level)
            if split_of(exercise.key) == split:
                yield exercise

    def problems(self, count: int, *, level: int | None = None, seed: int = 0) -> list[Problem]:
        """The first `count` distinct held-out problems of a level; the same for every run.

        Raises:
            TaskError: if the level does not exist, or has fewer problems than asked for.
        """
        level = self.default_level if level is None else level
        if level not in self.levels:
            raise TaskError(
                f"task {self.name!r} has no level {level}; choose one of "
                f"{', '.join(map(str, self.levels))} ({self.level_meaning})"
            )
        if count < 1:
            raise TaskError(f"{count} problems were asked for; give at least 1")
        found: dict[str, Problem] = {}
        stream = self.exercises("test", level, random.Random(f"{self.name}/{level}/{seed}"))
        repeats = 0
        while len(found) < count:
            exercise = next(stream)
            if exercise.key in found:
                repeats += 1
                if repeats > GIVE_UP_AFTER:
                    raise TaskError(
                        f"task {self.name!r} has about {len(found)} problems at level {level}; ask for fewer"
                    )
                continue
            repeats = 0
            found[exercise.key] = Problem(
                id=f"{self.name}-{level}-{seed}-{len(found)}",
                prompt=Prompt.user(exercise.prompt),
                reference=exercise.answer,
                level=level,
            )
        return list(found.values())
