"""What the search methods share: judged paths, their order, and the answer among them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from itscale.errors import OptionError, did_you_mean
from itscale.methods.base import Method, Outcome, StepMethod, best, candidate
from itscale.methods.session import Judged, Session
from itscale.scorers.answers import tally
from itscale.scorers.base import AGGREGATIONS, Aggregation
from itscale.types import Candidate, Path, StopReason

__all__ = ["Candidates", "ForkingSearch", "check_search_options", "rolled_out"]


class Candidates:
    """The step scores of all paths a search has seen, and one value for each."""

    def __init__(self, aggregate: Aggregation) -> None:
        self._aggregate = AGGREGATIONS[aggregate]
        self._scores: dict[Path, tuple[float, ...]] = {}

    def add(self, groups: Iterable[Sequence[Judged]]) -> list[list[Path]]:
        """Remember the scores of what `Session.extend_scored` gave; the paths without them."""
        groups = [list(group) for group in groups]
        self._scores |= {path: scores for group in groups for path, scores in group if scores}
        return [[path for path, _ in group] for group in groups]

    def scores(self, path: Path) -> tuple[float, ...]:
        """Step scores of a path: its own, or those of the nearest prefix that was judged."""
        return next((self._scores[node] for node in path.nodes() if node in self._scores), ())

    def value(self, path: Path) -> float:
        """The step scores as one number; -inf where there are none."""
        scores = self.scores(path)
        return self._aggregate(scores) if scores else -math.inf

    def best(self, paths: Sequence[Path]) -> Path:
        """The path of largest value, the earliest among equals."""
        return max(paths, key=self.value)

    def candidate(self, path: Path) -> Candidate:
        """A path as a candidate, with the score it was judged by."""
        scores = self.scores(path)
        return candidate(path, score=self._aggregate(scores) if scores else None, step_scores=scores)

    def outcome(self, paths: Iterable[Path], choose: str, stop: StopReason | None = None) -> Outcome:
        """Distinct paths as candidates, and the chosen: `argmax` of the score, or a `vote` by score.

        A vote in which no candidate states an answer falls back to the best score.
        """
        candidates = [self.candidate(path) for path in dict.fromkeys(paths)]
        clusters = []
        if choose == "vote":
            scores = [c.score for c in candidates]
            clusters = tally([c.answer for c in candidates], [score or 0.0 for score in scores], scores)
        chosen = clusters[0].representative if clusters else best(candidates)
        return Outcome(candidates, chosen, stop_reason=stop)


@dataclass(frozen=True, kw_only=True)
class ForkingSearch(StepMethod):
    """The options of a search that follows a few prefixes and samples some next steps from each."""

    width: int = 4
    """Steps sampled from every prefix that is followed. A budget below it narrows it."""
    aggregate: Aggregation = "last"
    choose: Literal["argmax", "vote"] = "argmax"
    """Best-scored candidate, or the answer whose candidates' scores add up to most."""
    max_steps: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_search_options(self, "width", "max_steps")


async def rolled_out(session: Session, judged: Candidates, path: Path) -> Path:
    """A path grown to its end, one child a step: the answer of a search that has finished none."""
    while session.can_grow(path) and not session.exhausted:
        [family] = judged.add(await session.extend_scored([path], required=False))
        if not family:
            break  # its call failed: this far and no further
        path = family[0]
    return path


def check_search_options(method: Method, *at_least_one: str, but: Sequence[str] = ()) -> None:
    """Hold `aggregate`, `choose` (where there is one) and the named counts against their ranges.

    `but` are options of these names that mean something else.

    Raises:
        OptionError: one is unknown or below 1.
    """
    for option, known in (("aggregate", tuple(AGGREGATIONS)), ("choose", ("argmax", "vote"))):
        if option not in but and getattr(method, option, known[0]) not in known:
            raise OptionError(did_you_mean(option, str(getattr(method, option)), known))
    for option in at_least_one:
        if getattr(method, option) < 1:
            raise OptionError(f"{option} of {method.name} is {getattr(method, option)}; give at least 1")
