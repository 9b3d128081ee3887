"""Countdown: reach a target by combining every given number once, one operation a line.

    Make 45 from 3, 7, 12, 23.
    12 - 7 = 5 leaves 3 23 5
    ...
    Answer: 45

Numbers are 1 to 25, every value in between is 0 to 99, division is exact. A solution is right
when every line is legal, no number is left over, and the last value and the answer are the target.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import ClassVar

from itscale.tasks.base import Exercise, GeneratedTask, lines_of
from itscale.types import Problem

__all__ = ["LARGEST_GIVEN", "LARGEST_VALUE", "Countdown"]

LARGEST_GIVEN = 25
LARGEST_VALUE = 99

# Plain digits only (\d takes other scripts' digits too), and few: int() refuses thousands of them.
_N = r"(?:0|[1-9][0-9]{0,3})"
_PROMPT = re.compile(rf"Make ({_N}) from ((?:{_N}, )*{_N})\.")
_LINE = re.compile(rf"({_N}) ([-+*/]) ({_N}) = ({_N}) leaves ((?:{_N} )*{_N})")
_ANSWER = re.compile(rf"Answer: ({_N})")


def _results(a: int, b: int) -> list[tuple[int, str, int, int]]:
    """Every legal `(left, operator, right, value)` on two numbers, larger one first."""
    a, b = max(a, b), min(a, b)
    options = [(a, "+", b, a + b), (a, "-", b, a - b)]
    if b > 1:  # multiplying or dividing by 1 or 0 only pads a solution
        options.append((a, "*", b, a * b))
        if a % b == 0:
            options.append((a, "/", b, a // b))
    return [option for option in options if option[3] <= LARGEST_VALUE]


class Countdown(GeneratedTask):
    """Search problem: many ways to go wrong early, and a wrong first line is hard to see."""

    name: ClassVar[str] = "countdown"
    summary: ClassVar[str] = "reach a target number from given numbers, one operation a line"
    levels: ClassVar[tuple[int, ...]] = (3, 4, 5)
    default_level: ClassVar[int] = 4
    level_meaning: ClassVar[str] = "how many numbers are given"

    def draw(self, rng: random.Random, level: int) -> Exercise:
        """A random legal play, read backwards as a problem: its last value is the target."""
        while True:
            given = [rng.randint(1, LARGEST_GIVEN) for _ in range(level)]
            left, lines = list(given), []
            while len(left) > 1:
                i, j = sorted(rng.sample(range(len(left)), 2))
                a, operator, b, value = rng.choice(_results(left[i], left[j]))
                left = [x for k, x in enumerate(left) if k not in (i, j)] + [value]
                lines.append(f"{a} {operator} {b} = {value} leaves {' '.join(map(str, left))}\n")
            target = left[0]
            if target >= 10 and target not in given:
                break
        return Exercise(
            prompt=f"Make {target} from {', '.join(map(str, given))}.",
            solution="".join(lines) + f"Answer: {target}",
            answer=str(target),
            key=f"countdown {target} {sorted(given)}",
        )

    def check_steps(self, prompt: str, text: str) -> list[bool]:
        """Legality line by line; after an illegal line, or after the answer, every later one is illegal."""
        lines = lines_of(text)
        stated = _PROMPT.fullmatch(prompt.strip())
        if stated is None:
            return [False for _ in lines]
        target = int(stated[1])
        left = Counter(int(x) for x in stated[2].split(", "))
        verdicts: list[bool] = []
        going = True
        for line in lines:
            answers = going and _is_answer(line, target) and left == Counter([target])
            legal = answers or (going and _play(left, line))
            verdicts.append(legal)
            going = legal and not answers
        return verdicts

    def check(self, problem: Problem, text: str) -> bool:
        """Every line legal, and the last one the right answer."""
        verdicts = self.check_steps(problem.prompt.question, text)
        answered = _ANSWER.fullmatch(lines_of(text)[-1]) if verdicts else None
        return answered is not None and all(verdicts) and answered[1] == problem.reference


def _is_answer(line: str, target: int) -> bool:
    matched = _ANSWER.fullmatch(line)
    return matched is not None and int(matched[1]) == target


def _play(left: Counter[int], line: str) -> bool:
    """Carry out one operation line on `left`, in place; False if it is not legal."""
    matched = _LINE.fullmatch(line)
    if matched is None:
        return False
    a, operator, b, value = int(matched[1]), matched[2], int(matched[3]), int(matched[4])
    used = Counter([a, b])
    if any(left[x] < n for x, n in used.items()):
        return False
    if (a, operator, b, value) not in _results(a, b):
        return False
    after = left - used + Counter([value])
    if after != Counter(int(x) for x in matched[5].split()):
        return False
    left.clear()
    left.update(after)
    return True
