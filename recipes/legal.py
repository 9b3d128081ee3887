"""Where a rollout goes wrong, token by token: noise-free labels beside the noisy outcome.

`legal_so_far` says at every token whether what stands up to there can still become legal lines. In
Chain a line is decided by its name alone, so the first wrong token is known the moment it is written:
that is what teaches a judge which definition belongs to which name. In Countdown many lines are legal,
and only whole lines are judged.

After the first illegal line only the ends of lines are labelled: nothing is learnt from inside them.
"""

from __future__ import annotations

import itertools
import re

from itscale.tasks import Chain, Countdown, GeneratedTask

__all__ = ["legal_so_far"]

TASKS: dict[str, GeneratedTask] = {task.name: task for task in (Countdown(), Chain())}
_DEFINITION = re.compile(r"([a-n]) = (\w+) ([-+*]) (\w+)")
_ASKED = re.compile(r"find ([a-n])\.")


def legal_so_far(task: str, prompt: str, tokens: list[str]) -> list[int | None]:
    """For each token of a solution 1 or 0, None where nothing is to be learnt.

    `tokens` are the vocabulary's words; a line ends on a newline token or the last, special one.
    """
    lines: list[list[int]] = [[]]
    for i, word in enumerate(tokens):
        lines[-1].append(i)
        if word == "\n":
            lines.append([])
    text = " ".join(tokens[: len(tokens) - 1]).replace(" \n ", "\n").replace(" :", ":").replace(" ,", ",")
    verdicts = TASKS[task].check_steps(prompt, text)
    labels: list[int | None] = [None] * len(tokens)
    known: dict[str, str] = {}
    legal = True
    for line, verdict in zip(
        filter(None, lines), itertools.chain(verdicts, itertools.repeat(True)), strict=False
    ):
        if legal and task == "chain":
            for i, good in zip(line, _prefixes(prompt, known, [tokens[i] for i in line[:-1]]), strict=False):
                labels[i] = good
        legal = legal and verdict
        labels[line[-1]] = int(legal)
        words = [tokens[i] for i in line[:-1]]
        if legal and len(words) == 7:
            known[words[0]] = words[-1]
    return labels


def _prefixes(prompt: str, known: dict[str, str], words: list[str]) -> list[int]:
    """For each word of a Chain line whether the line up to it begins some legal line."""
    possible = []
    for name, left, operator, right in _DEFINITION.findall(prompt):
        x, y = (known.get(term, term) for term in (left, right))
        if x.isdigit() and y.isdigit():
            value = {"+": int(x) + int(y), "-": int(x) - int(y), "*": int(x) * int(y)}[operator]
            possible.append([name, "=", x, operator, y, "=", str(value)])
    asked = _ASKED.search(prompt)
    if asked is not None and asked[1] in known:
        possible.append(["Answer", ":", known[asked[1]]])
    return [int(any(line[: k + 1] == words[: k + 1] for line in possible)) for k in range(len(words))]
