"""Votes over answers that are the same.

Law: no answer is no vote. An error text, a truncated path or an unparsable text never joins a
cluster; when nobody has an answer there is no winner and the caller falls back on scores.

Where a kind compares answers (mathematics), an answer joins the first cluster, in order of first
sight, whose representative text it equals. "Equal" need not be transitive there (50 % is both 50
and 0.5), so this is the definition of the clusters, and it does not depend on weights or scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from itscale.scorers.answers.calls import is_calls
from itscale.scorers.answers.kinds import AUTO, AnswerKind

__all__ = ["Cluster", "tally"]


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
    *,
    kind: AnswerKind = AUTO,
) -> list[Cluster]:
    """Clusters of equal answers, most votes first; ties go to the answer seen earliest.

    `weights` (linear, at least 0, one per candidate) default to 1 each: a plain majority. With all
    answers different, weights reduce this to best-of-n. `kind` says which answers are equal.

    Raises:
        ValueError: a weight is negative or NaN: it would turn a vote against its own answer.
    """
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
        for who in _alike(answers, kind)
    ]
    return sorted(clusters, key=lambda c: (-c.votes, c.members[0]))


def _alike(answers: Sequence[str | None], kind: AnswerKind) -> list[list[int]]:
    """Indices of equal answers, groups in order of first sight."""
    groups: dict[str, list[int]] = {}
    for i, answer in enumerate(answers):
        if answer is not None:
            groups.setdefault(answer if is_calls(answer) else kind.normalise(answer), []).append(i)
    if kind.same is None:
        return list(groups.values())
    merged: dict[str, list[int]] = {}
    for form, members in groups.items():
        others = () if is_calls(form) else [seen for seen in merged if not is_calls(seen)]
        home = next((seen for seen in others if kind.same(answer=form, other=seen)), form)
        merged.setdefault(home, []).extend(members)
    return [sorted(members) for members in merged.values()]
