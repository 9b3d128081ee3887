"""Tasks from files: problems of one's own or of the field's data sets, checked by their answers.

    task = from_jsonl("problems.jsonl")                       # question and answer on every line
    task = from_jsonl("mine.jsonl", answers="number", question="ask", answer="gold")

Law: an answer that cannot be read is wrong, never skipped; a line that cannot be read is an error with
its number, never skipped either.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from itscale.errors import TaskError
from itscale.scorers.answers import AUTO, AnswerKind, answer_kind
from itscale.tasks.base import Task
from itscale.types import Problem, Prompt

__all__ = ["DataTask", "from_jsonl", "records_of"]

_QUESTIONS = ("question", "problem", "prompt", "input")
_ANSWERS = ("answer", "reference", "target", "gold")


class DataTask(Task):
    """Problems that are given, and checked by comparing answers."""

    def __init__(self, name: str, problems: Iterable[Problem], answers: str | AnswerKind = AUTO) -> None:
        """Make the task.

        Args:
            name: what rows call it.
            problems: all of them; ids must differ.
            answers: how answers are read and compared.

        Raises:
            TaskError: there are no problems, or two share an id.
            OptionError: there is no such kind of answer, or what it needs is not installed.
        """
        self._name = name
        self.all_problems = tuple(problems)
        self.answers = answer_kind(answers)
        if not self.all_problems:
            raise TaskError(f"task {name!r} has no problems; give a file with at least one")
        seen: set[str] = set()
        for problem in self.all_problems:
            if problem.id in seen:
                raise TaskError(f"task {name!r} has two problems with the id {problem.id!r}; make ids differ")
            seen.add(problem.id)

    @property
    def name(self) -> str:
        return self._name

    @property
    def default_level(self) -> int | None:
        return None

    @property
    def levels(self) -> tuple[int, ...]:
        """The difficulties the data tells."""
        return tuple(sorted({p.level for p in self.all_problems if p.level is not None}))

    @property
    def checks_are_slow(self) -> bool:
        return self.answers.same is not None

    def problems(self, count: int, *, level: int | None = None, seed: int = 0) -> list[Problem]:
        """`count` of them, drawn without replacement; a larger count begins with the smaller one's."""
        if level is not None and level not in self.levels:
            known = ", ".join(map(str, self.levels)) or "the data tells none"
            raise TaskError(f"task {self.name!r} has no level {level}; levels: {known}")
        own = [p for p in self.all_problems if level is None or p.level == level]
        if not 1 <= count <= len(own):
            raise TaskError(
                f"{count} problems of {self.name!r} were asked for; give --problems from 1 to {len(own)}"
            )
        random.Random(f"{self.name}/{level}/{seed}").shuffle(own)
        return own[:count]

    def check(self, problem: Problem, text: str) -> bool:
        told = self.answers.extract(text)
        return told is not None and self.answers.equal(answer=told, other=problem.reference)


def from_jsonl(
    file: str | Path,
    *,
    name: str | None = None,
    question: str | None = None,
    answer: str | None = None,
    answers: str | AnswerKind = AUTO,
    instruction: str = "",
) -> DataTask:
    """A file of yours as a task: an object a line, with a question and an answer, perhaps an id and a level.

    Args:
        file: JSON lines, or one JSON array.
        name: what rows call it; the file's name by default.
        question: the field that is asked; by default the first of question, problem, prompt, input.
        answer: the field that is right; by default the first of answer, reference, target, gold.
        answers: how answers are read and compared: auto, number, choice, math, json or a kind of yours.
        instruction: stands after every question, on a line of its own.

    Raises:
        TaskError: the file cannot be read; a broken line is named by its number.
        OptionError: there is no such kind of answer.
    """
    path = Path(file)
    called = name or path.stem
    problems = []
    for number, record in records_of(path):
        where = f"{path} line {number}"
        asked = _field(record, (question,) if question else _QUESTIONS, where)
        right = _field(record, (answer,) if answer else _ANSWERS, where)
        problems.append(
            Problem(
                id=f"{called}-{record.get('id', number)}",
                prompt=Prompt.user(f"{asked}\n{instruction}" if instruction else asked),
                reference=right,
                level=level_of(record),
            )
        )
    return DataTask(called, problems, answers)


def records_of(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a file with their line numbers (in an array: their places), from 1.

    Raises:
        TaskError: it does not exist, or a line is not a JSON object.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"cannot read {file} ({error}); give a file of JSON lines") from error
    if text.lstrip().startswith("["):
        try:
            records = list(enumerate(json.loads(text), start=1))
        except ValueError as error:
            raise TaskError(f"{file} is not JSON ({error}); mend it, or write an object a line") from error
    else:
        records = [
            (i, _parsed(file, i, line)) for i, line in enumerate(text.split("\n"), start=1) if line.strip()
        ]
    for number, record in records:
        if not isinstance(record, dict):
            raise TaskError(f"{file} line {number} is not a JSON object; mend or remove it")
        yield number, record


def level_of(record: Mapping[str, Any]) -> int | None:
    """A difficulty as a whole number: 3, "3" or "Level 3"."""
    told = str(record.get("level", "")).removeprefix("Level ").strip()
    return int(told) if told.isascii() and told.isdigit() else None


def _parsed(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise TaskError(f"{file} line {number} is not JSON ({error}); mend or remove it") from error


def _field(record: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    for name in names:
        if name in record and record[name] is not None:
            return str(record[name])
    raise TaskError(
        f"{where} has none of the fields {', '.join(names)}; name yours with question= and answer="
    )
