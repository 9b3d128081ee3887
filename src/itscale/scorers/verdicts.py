"""What a judge's answer says, or that it says nothing: read from its last line, strictly.

Law: no verdict is ever made up. Prose, a number off the scale, a ranking with a name missing or twice
raise `NoVerdict`, which costs what was judged its score and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from itscale.errors import ScorerError

__all__ = ["NoVerdict", "best_of_two", "merged_ranks", "ranking", "score_on"]

_SCORE = re.compile(r"Score:\s*(-?\d+(?:\.\d+)?)")
_BEST = re.compile(r"Best:\s*(1|2|tie)", re.IGNORECASE)
_RANKING = re.compile(r"Ranking:\s*(\d+(?:\s*[>=]\s*\d+)*)")


class NoVerdict(ScorerError):  # noqa: N818  it reads as what it says
    """A judge answered something else than it was asked for."""

    def __init__(self, said: str, wanted: str) -> None:
        shown = said if len(said) <= 120 else f"{said[:120]}..."
        super().__init__(
            f"the judge gave no verdict: its last line is {shown!r}, where `{wanted}` was asked for; "
            "use a stronger judge, or adapt its prompt with #prompts=FILE"
        )


def _last_line(text: str) -> str:
    """The last line that says something, without the asterisks of bold type."""
    return next((line.strip().strip("*").strip() for line in reversed(text.splitlines()) if line.strip()), "")


def score_on(text: str, low: float, high: float) -> float:
    r"""The score at the end of a judge's answer, moved into (0, 1) (linear).

    A scale from low to high has high - low + 1 whole marks; each is put in the middle of its share, so
    that the ends of the scale are no certainties.

    >>> score_on("Fine.\nScore: 10", 1, 10)
    0.95

    Raises:
        NoVerdict: the last line is no score on this scale.
    """
    line = _last_line(text)
    said = _SCORE.fullmatch(line)
    if said is None or not low <= float(said[1]) <= high:
        raise NoVerdict(line, f"Score: N, from {low:g} to {high:g}")
    return (float(said[1]) - low + 0.5) / (high - low + 1)


def best_of_two(text: str) -> tuple[int, int]:
    """Ranks of two answers: (0, 1), (1, 0), or (0, 0) for a tie.

    Raises:
        NoVerdict: the last line names neither and no tie.
    """
    line = _last_line(text)
    said = _BEST.fullmatch(line)
    if said is None:
        raise NoVerdict(line, "Best: 1, 2 or tie")
    return {"1": (0, 1), "2": (1, 0)}.get(said[1], (0, 0))


def ranking(text: str, count: int) -> tuple[int, ...]:
    """Ranks of `count` answers, 0 best, equals sharing one.

    >>> ranking("Ranking: 3 > 1 = 2", 3)
    (1, 1, 0)

    Raises:
        NoVerdict: the last line does not name every answer once.
    """
    line = _last_line(text)
    said = _RANKING.fullmatch(line)
    places = [[int(name) for name in place.split("=")] for place in said[1].split(">")] if said else []
    if sorted(name for place in places for name in place) != list(range(1, count + 1)):
        raise NoVerdict(line, f"Ranking: ... > ..., all of 1 to {count}")
    rank_of = {name: rank for rank, place in enumerate(places) for name in place}
    return tuple(rank_of[name] for name in range(1, count + 1))


def merged_ranks(verdicts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Ranks by the sum of ranks over several verdicts on the same answers; equal sums are ties.

    >>> merged_ranks([(0, 1, 2), (0, 2, 1)])
    (0, 1, 1)
    """
    sums = [sum(ranks) for ranks in zip(*verdicts, strict=True)]
    places = sorted(set(sums))
    return tuple(places.index(total) for total in sums)
