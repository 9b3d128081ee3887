"""REBASE, reward balanced search: share every level's budget over partial answers by their scores.

Wu et al. 2024, "Inference Scaling Laws", arXiv 2408.00724. Level by level, with W the budget N less
the paths that have finished so far, R_j the scores of the open ones, in falling order:

    n_j = ceil( W_left exp(R_j / tau) / sum_left exp(R / tau) );  W_left -= n_j;  sum_left -= exp(R_j / tau)

and node j gets n_j sampled children. Rounding up in turn, as the published code does, makes the
shares add up to W exactly; the lowest nodes get none and are dropped. tau to infinity shares
equally, tau to 0 gives all to the best. The answer is a vote weighted by score, or the best-scored.
A path that a limit cut off gives up its share too, but never votes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from itscale.errors import OptionError
from itscale.methods.base import Outcome, StepMethod
from itscale.methods.searching import Candidates, check_search_options
from itscale.methods.session import Session
from itscale.scorers.base import Aggregation
from itscale.types import Path, StopReason

__all__ = ["Rebase", "shares"]


def shares(scores: Sequence[float], width: int, tau: float) -> list[int]:
    """How many children each node gets: sums to `width`, larger for larger scores.

    >>> shares([0.9, 0.8, 0.5, 0.1], 16, 0.2)
    [10, 5, 1, 0]
    >>> shares([0.1, 0.9], 3, 0.2)
    [0, 3]

    Args:
        scores: R_j, in any order, shape (J,).
        width: W, at least 0.
        tau: the temperature of the softmax, above 0.
    """
    order = sorted(range(len(scores)), key=lambda j: -scores[j])
    top = max(scores, default=0.0)
    odds = [math.exp((scores[j] - top) / tau) for j in order]
    result, left = [0] * len(scores), width
    for rank, j in enumerate(order):
        # Rounding must not push an exact share over the next whole number.
        share = left * odds[rank] / math.fsum(odds[rank:]) if left else 0.0
        result[j] = math.ceil(share - 1e-9)
        left -= result[j]
    return result


@dataclass(frozen=True, kw_only=True)
class Rebase(StepMethod):
    """N open paths a level, given to partial answers in proportion to exp(score / tau).

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "rebase"
    summary: ClassVar[str] = "every level's budget is shared over partial answers by their scores"

    tau: float = 0.2
    aggregate: Aggregation = "last"
    choose: Literal["vote", "argmax"] = "vote"
    """The answer whose candidates' scores add up to most, or the best-scored candidate."""
    max_steps: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_search_options(self, "max_steps")
        if not (self.tau > 0 and math.isfinite(self.tau)):
            raise OptionError(f"tau of rebase is {self.tau}; give a number above 0")

    async def search(self, session: Session) -> Outcome:
        """Expand every level by its shares, until nothing is open or all of N has finished."""
        judged = Candidates(self.aggregate)
        done: list[Path] = []
        open_paths, counts = [session.root], [session.generations]
        for _ in range(self.max_steps):
            families = judged.add(await session.extend_scored(open_paths, counts, required=not done))
            grown = [path for family in families for path in family]
            done += [path for path in grown if not session.can_grow(path)]
            open_paths = [path for path in grown if session.can_grow(path)]
            left = session.generations - len(done)
            if session.exhausted or not open_paths or left < 1:
                break
            wanted = shares([max(judged.value(path), 0.0) for path in open_paths], left, self.tau)
            session.pruned([path for path, n in zip(open_paths, wanted, strict=True) if not n])
            open_paths = [path for path, n in zip(open_paths, wanted, strict=True) if n]
            counts = [n for n in wanted if n]
        stop = StopReason.STEPS if open_paths else None
        return judged.outcome([*done, *open_paths], self.choose, session.exhausted or stop)
