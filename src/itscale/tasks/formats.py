"""The field's data sets, as they are published: GSM8K, MATH, AIME, multiple choice, HumanEval, MBPP.

Each is read from a local file (JSON lines or an array), or, when the package `datasets` is installed
and the machine is online, from the hub: `hf://OWNER/NAME?name=CONFIG&split=test`. Nothing is fetched
that was not named.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from itscale.errors import OptionError, TaskError
from itscale.scorers.answers import ANSWER_KINDS
from itscale.tasks.base import Task
from itscale.tasks.code import CodeTask, humaneval_problem, mbpp_problem
from itscale.tasks.data import DataTask, from_jsonl, level_of, records_of
from itscale.types import Problem, Prompt

__all__ = ["FORMATS", "Format"]

_NUMBER = "Think step by step. End with a line of the form: Answer: NUMBER"
_BOXED = "Think step by step. Put the final answer in \\boxed{}."
_LETTER = "Think step by step. End with a line of the form: Answer: LETTER"
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Format:
    """One way problems are published."""

    name: str
    summary: str
    load: Callable[[str], Task]
    """From what stands after the colon."""

    @property
    def form(self) -> str:
        """How it is written."""
        return f"{self.name}:FILE"


def _gsm8k(record: Record, number: int) -> Problem:
    reference = ANSWER_KINDS["number"].extract(str(record["answer"]))
    if reference is None:
        raise ValueError("its answer has no line '#### NUMBER'")
    return _problem(f"gsm8k-{number}", record["question"], _NUMBER, reference)


def _math(record: Record, number: int) -> Problem:
    own = str(record.get("unique_id", number))
    return _problem(f"math-{own}", record["problem"], _BOXED, str(record["answer"]), level_of(record))


def _aime(record: Record, number: int) -> Problem:
    reference = str(int(str(record["answer"])))
    own = record.get("unique_id", record.get("id", number))
    return _problem(f"aime-{own}", record["problem"], _NUMBER, reference)


def _choice(record: Record, number: int) -> Problem:
    options = record["choices"] if "choices" in record else record["options"]
    texts = list(options["text"]) if isinstance(options, dict) and "text" in options else _listed(options)
    if not 2 <= len(texts) <= 10:
        raise ValueError(f"{len(texts)} choices; from 2 to 10 can be told apart")
    given = record.get("answer", record.get("answerKey"))
    letters = "ABCDEFGHIJ"[: len(texts)]
    place = int(given) if str(given).isdigit() else letters.index(str(given).strip().upper())
    lines = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True))
    return _problem(
        f"choice-{record.get('id', number)}",
        f"{record['question']}\n{lines}",
        _LETTER,
        letters[place],
        level_of(record),
    )


def _listed(options: Any) -> list[str]:
    return (
        [str(options[key]) for key in sorted(options)]
        if isinstance(options, dict)
        else list(map(str, options))
    )


def _problem(
    own: str, question: object, instruction: str, reference: str, level: int | None = None
) -> Problem:
    return Problem(
        id=own, prompt=Prompt.user(f"{question}\n\n{instruction}"), reference=reference, level=level
    )


def _from(
    name: str, read: Callable[[Record, int], Problem], make: Callable[[str, list[Problem]], Task]
) -> Callable[[str], Task]:
    def load(source: str) -> Task:
        problems = []
        for number, record in _records(source):
            try:
                problems.append(read(record, number))
            except (KeyError, ValueError, TypeError, IndexError) as error:
                missing = f"it has no field {error}" if isinstance(error, KeyError) else str(error)
                raise TaskError(
                    f"{source} line {number} is not a {name} problem: {missing}; mend or remove it"
                ) from error
        return make(name, problems)

    return load


def _records(source: str) -> Iterator[tuple[int, Record]]:
    if not source.startswith("hf://"):
        return records_of(Path(source).expanduser())
    return _hub_records(source)


def _hub_records(source: str) -> Iterator[tuple[int, Record]]:
    """The rows of a data set of the hub, numbered from 1."""
    identity, _, query = source.removeprefix("hf://").partition("?")
    options = dict(parse_qsl(query))
    if unknown := options.keys() - {"name", "split", "revision"}:
        raise TaskError(f"{source}: unknown {min(unknown)!r}; known: name, revision, split")
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise OptionError(
            f"{source} needs the package datasets; run: pip install datasets, or give a file"
        ) from error
    try:
        rows = datasets.load_dataset(
            identity,
            options.get("name"),
            split=options.get("split", "test"),
            revision=options.get("revision"),
        )
    except Exception as error:
        raise TaskError(f"cannot load {source} ({error}); when offline, give a local file") from error
    yield from ((number, dict(row)) for number, row in enumerate(rows, start=1))


def _answers(kind: str) -> Callable[[str, list[Problem]], Task]:
    return lambda name, problems: DataTask(name, problems, kind)


def _own(source: str) -> Task:
    """`FILE` or `FILE#answers=number&question=FIELD&answer=FIELD`."""
    file, _, query = source.partition("#")
    options = dict(parse_qsl(query))
    if unknown := options.keys() - {"answers", "question", "answer", "name", "instruction"}:
        raise TaskError(
            f"jsonl:{source}: unknown {min(unknown)!r}; known: answer, answers, instruction, name, question"
        )
    return from_jsonl(Path(file).expanduser(), **options)


FORMATS: Mapping[str, Format] = {
    form.name: form
    for form in (
        Format("jsonl", "your own problems: a question and an answer on every line", _own),
        Format(
            "gsm8k",
            "GSM8K: question, and an answer that ends in #### NUMBER",
            _from("gsm8k", _gsm8k, _answers("number")),
        ),
        Format(
            "math",
            "MATH: problem, answer, level; compared by math-verify",
            _from("math", _math, _answers("math")),
        ),
        Format(
            "aime", "AIME: problem, and an answer from 0 to 999", _from("aime", _aime, _answers("number"))
        ),
        Format(
            "choice",
            "multiple choice: question, choices, answer (letter or place)",
            _from("choice", _choice, _answers("choice")),
        ),
        Format(
            "humaneval",
            "HumanEval: prompt, test, entry_point; run in a sandbox",
            _from("humaneval", humaneval_problem, CodeTask),
        ),
        Format("mbpp", "MBPP: text, test_list; run in a sandbox", _from("mbpp", mbpp_problem, CodeTask)),
    )
}
