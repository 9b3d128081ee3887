"""Arithmetic chain: definitions in shuffled order, some irrelevant; work out the asked value.

    Given c = b * 3, a = 5 + 2, d = a - 1, b = a + 4, find c.
    a = 5 + 2 = 7
    b = 7 + 4 = 11
    c = 11 * 3 = 33
    Answer: 33

Plain integers from 0 to 99. Each line substitutes values already worked out. A solution is right
when its final answer is; `check_steps` verifies every line.
"""

from __future__ import annotations

import random
import re
from typing import ClassVar

from itscale.tasks.base import Exercise, GeneratedTask, lines_of
from itscale.types import Problem

__all__ = ["LARGEST_VALUE", "NAMES", "Chain"]

NAMES = "abcdefghijklmn"
LARGEST_VALUE = 99

# Plain digits only (\d takes other scripts' digits too), and few: int() refuses thousands of them.
_N = r"(?:0|[1-9][0-9]{0,3})"
_PROMPT = re.compile(r"Given (.+), find ([a-n])\.")
_DEFINITION = re.compile(rf"([a-n]) = ({_N}|[a-n]) ([-+*]) ({_N}|[a-n])")
_LINE = re.compile(rf"([a-n]) = ({_N}) ([-+*]) ({_N}) = ({_N})")
_ANSWER = re.compile(rf"Answer: ({_N})")

Definition = tuple[str, str, str]  # left operand, operator, right operand


def _apply(a: int, operator: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


class Chain(GeneratedTask):
    """Planning problem: the first line needs the whole chain traced back to its start."""

    name: ClassVar[str] = "chain"
    summary: ClassVar[str] = "follow shuffled definitions to the asked value, a line at a time"
    levels: ClassVar[tuple[int, ...]] = (3, 4, 5, 6, 8)
    default_level: ClassVar[int] = 3
    level_meaning: ClassVar[str] = "how many operations the asked value needs"

    def draw(self, rng: random.Random, level: int) -> Exercise:
        """A random chain of `level` needed definitions and about half as many irrelevant ones."""
        names = rng.sample(NAMES, level + rng.randint(level // 3, (level + 1) // 2))
        needed, rest = names[:level], names[level:]
        values: dict[str, int] = {}
        definitions: dict[str, Definition] = {}
        for i, name in enumerate(needed):
            self._define(rng, name, values, definitions, must_use=needed[i - 1] if i else None)
        asked = needed[-1]
        for name in rest:
            self._define(rng, name, values, definitions, must_use=None)
        order = list(definitions)
        rng.shuffle(order)
        lines = []
        for name in needed:  # needed[i] uses needed[i-1], so this order is the only possible one
            a, operator, b = definitions[name]
            x, y = (values[v] if v in values else int(v) for v in (a, b))
            lines.append(f"{name} = {x} {operator} {y} = {values[name]}\n")
        stated = ", ".join(f"{name} = {' '.join(definitions[name])}" for name in order)
        shape = {name: f"v{i}" for i, name in enumerate(needed)}
        key = "; ".join(" ".join(shape.get(part, part) for part in definitions[name]) for name in needed)
        return Exercise(
            prompt=f"Given {stated}, find {asked}.",
            solution="".join(lines) + f"Answer: {values[asked]}",
            answer=str(values[asked]),
            key=f"chain {key}",
        )

    @staticmethod
    def _define(
        rng: random.Random,
        name: str,
        values: dict[str, int],
        definitions: dict[str, Definition],
        must_use: str | None,
    ) -> None:
        """Add one definition whose value stays within 0 to 99."""
        known = list(values)
        while True:
            first = must_use or (
                rng.choice(known) if known and rng.random() < 0.7 else str(rng.randint(2, 20))
            )
            operator = rng.choice("+-*" if rng.random() < 0.6 else "+-")
            if known and rng.random() < 0.35:
                second = rng.choice(known)
            else:
                second = str(rng.randint(2, 9) if operator == "*" else rng.randint(1, 30))
            pair = (first, second) if operator == "-" or rng.random() < 0.6 else (second, first)
            x, y = (values[v] if v in values else int(v) for v in pair)
            value = _apply(x, operator, y)
            if 0 <= value <= LARGEST_VALUE and second != first:
                values[name] = value
                definitions[name] = (pair[0], operator, pair[1])
                return

    def check_steps(self, prompt: str, text: str) -> list[bool]:
        """A line is legal when it is a stated definition with worked-out values, rightly computed.

        Nothing after the answer is legal.
        """
        lines = lines_of(text)
        stated = _PROMPT.fullmatch(prompt.strip())
        if stated is None:
            return [False for _ in lines]
        definitions = {m[1]: (m[2], m[3], m[4]) for m in _DEFINITION.finditer(stated[1])}
        values: dict[str, int] = {}
        verdicts: list[bool] = []
        answered = False
        for line in lines:
            answer = _ANSWER.fullmatch(line)
            if answered:
                verdicts.append(False)
            elif answer:
                answered = True
                verdicts.append(values.get(stated[2]) == int(answer[1]))
            else:
                verdicts.append(_work_out(definitions, values, line))
        return verdicts

    def check(self, problem: Problem, text: str) -> bool:
        """The last line states the right value."""
        lines = lines_of(text)
        answered = _ANSWER.fullmatch(lines[-1]) if lines else None
        return answered is not None and answered[1] == problem.reference


def _work_out(definitions: dict[str, Definition], values: dict[str, int], line: str) -> bool:
    """Add the value a line works out to `values`; False if the line is not legal."""
    matched = _LINE.fullmatch(line)
    if matched is None or matched[1] not in definitions:
        return False
    name, x, operator, y, value = matched.groups()
    left, stated_operator, right = definitions[name]
    meant = [values.get(v) if v in NAMES else int(v) for v in (left, right)]
    if operator != stated_operator or meant != [int(x), int(y)]:
        return False
    if _apply(int(x), operator, int(y)) != int(value):
        return False
    values[name] = int(value)
    return True
