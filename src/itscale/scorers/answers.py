"""What a text's final answer is, and which answers are the same: extract, normalise, vote.

Law: no answer is no vote. An error text, a truncated path or an unparsable text never joins a
cluster; when nobody has an answer there is no winner and the caller falls back on scores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Cluster", "extract_answer", "normalise_answer", "tally"]

_STATED = re.compile(
    r"^\W{0,20}(?:final )?answer\W{0,4}?(?::|[ \t]is\b)[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE
)
_BOXED = "\\boxed{"
_MARKUP = "*` \t"
"""What models put around a stated answer for emphasis."""
_NUMBER = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[-+]?\d+(?:\.\d+)?")


def extract_answer(text: str) -> str | None:
    r"""The answer a text states last: a line `Answer: X`, else the content of `\boxed{X}`, else None."""
    stated = _STATED.findall(text)
    boxed = _last_boxed(stated[-1] if stated else text)
    if boxed is not None or not stated:
        return boxed
    return stated[-1].strip(_MARKUP).rstrip(".").strip(_MARKUP) or None


def _last_boxed(text: str) -> str | None:
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    depth, begin = 1, start + len(_BOXED)
    for i in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i].strip() or None
    return None


def normalise_answer(answer: str) -> str:
    """A form in which equal answers are equal strings: numbers by value, text by case and spaces."""
    compact = answer.strip().strip("$").strip()
    if _NUMBER.fullmatch(compact):
        # On digits, not floats: long numbers stay apart, and one of 400 digits is no overflow.
        whole, _, fraction = compact.lstrip("+-").replace(",", "").partition(".")
        value = ".".join(part for part in (whole.lstrip("0") or "0", fraction.rstrip("0")) if part)
        return f"-{value}" if compact.startswith("-") and value != "0" else value
    return " ".join(compact.casefold().split())


@dataclass(frozen=True, slots=True)
class Cluster:
    """Candidates with the same answer. `votes` is the sum of their weights (linear)."""

    answer: str
    members: tuple[int, ...]
    votes: float
    representative: int
    """The member with the best score; the earliest where there are no scores or a tie."""


def tally(
    answers: Sequence[str | None],
    weights: Sequence[float] | None = None,
    scores: Sequence[float | None] | None = None,
) -> list[Cluster]:
    """Clusters of equal answers, most votes first; ties go to the answer seen earliest.

    `weights` (linear, at least 0, one per candidate) default to 1 each: a plain majority. With all
    answers different, weights reduce this to best-of-n.

    Raises:
        ValueError: a weight is negative or NaN: it would turn a vote against its own answer.
    """
    members: dict[str, list[int]] = {}
    for i, answer in enumerate(answers):
        if answer is not None:
            members.setdefault(normalise_answer(answer), []).append(i)
    if weights is not None and not all(w >= 0 for w in weights):
        raise ValueError("vote weights must be numbers of at least 0; use exp or a sigmoid on logits")

    def score(i: int) -> float:
        value = scores[i] if scores is not None else None
        return -math.inf if value is None else value

    clusters = [
        Cluster(
            answer=answers[who[0]] or "",
            members=tuple(who),
            votes=math.fsum(weights[i] for i in who) if weights is not None else float(len(who)),
            representative=max(who, key=lambda i: (score(i), -i)),
        )
        for who in members.values()
    ]
    return sorted(clusters, key=lambda c: (-c.votes, c.members[0]))
