"""Look-ahead trees: branch at uncertain tokens, and drop branches that soon say the same again.

Xing et al. 2025, "Lookahead Tree-Based Rollouts for Enhanced Trajectory-Level Exploration in
Reinforcement Learning with Verifiable Rewards" (LATR), arXiv 2510.24302. Rows take the likeliest
token. Where another token has p > tau_abs and p_1 - p < tau_rel, it starts a row of its own. After r
tokens a row that still says nearly what its parent says (edit distance over r below `similar`) is
pruned. When there are N rows, or the tree is `tree_tokens` deep, all go on by ordinary sampling.

Departures. The seam tells the tokens that were drawn and not the likeliest ones, so other tokens come
from `tries` draws at every position where the two conditions can hold at all: one of probability p is
missed with (1 - p)^tries. Rows look ahead once, at r, by edit distance alone. The first token does not
branch (it would share nothing); what the tree leaves of N are ordinary samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from itscale.errors import OptionError
from itscale.methods.base import Outcome
from itscale.methods.rollouts import Forks, RolloutTree, difference, reopened, token_statistics
from itscale.methods.session import Session
from itscale.types import Path

__all__ = ["LookaheadTree"]


@dataclass(slots=True)
class _Row:
    """A greedy row, and from which token on it was not looked at yet."""

    path: Path
    seen: int = 1


@dataclass(frozen=True, kw_only=True)
class LookaheadTree(RolloutTree):
    """N rows branched at uncertain tokens, then sampled to their ends.

    Raises:
        OptionError: an option is out of range.
    """

    name: ClassVar[str] = "lookahead-tree"
    summary: ClassVar[str] = "branch at uncertain tokens, prune what soon says the same; leaves vote (LATR)"

    tau_abs: float = 0.15
    """Least probability of a branching token."""
    tau_rel: float = 0.25
    """Most that it may be less likely than the likeliest."""
    ahead: int = 20
    """r: tokens until a row is compared with its parent."""
    similar: float = 0.4
    """Share of these that must differ."""
    tries: int = 4
    """Draws of other tokens at an uncertain position."""
    tree_tokens: int = 1024
    """Depth at which the tree ends."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("tau_abs", "tau_rel", "similar"):
            if not 0 <= getattr(self, option) <= 1:
                raise OptionError(f"{option} of lookahead-tree is {getattr(self, option)}; give 0 to 1")
        for option in ("ahead", "tries", "tree_tokens"):
            if getattr(self, option) < 1:
                raise OptionError(f"{option} of lookahead-tree is {getattr(self, option)}; give at least 1")

    async def search(self, session: Session) -> Outcome:
        """Grow all rows a window at a time, branch in it, prune, hand over to sampling."""
        n, forks, rows, clock = session.generations, Forks(session), [_Row(session.root)], 0
        while len(rows) < n and clock < self.tree_tokens and not session.exhausted:
            # One window further than is looked at, so that every branch has what to be compared with.
            await self._decode(session, rows, clock + 2 * self.ahead)
            clock += self.ahead
            rows += await self._branches(session, forks, rows, clock, n - len(rows))
            if all(row.path.ended and row.seen >= row.path.n_tokens for row in rows):
                break
        whole = [row.path for row in rows if row.path.ended and row.path.n_tokens <= clock]
        forks.leaves += whole
        going = [forks.cut(row.path, min(clock, row.path.n_tokens)) for row in rows if row.path not in whole]
        if going and not session.exhausted:
            await forks.finish([path for path in going if path.depth])
        if len(forks.leaves) < n and not session.exhausted:
            samples = await session.sample(n - len(forks.leaves))
            forks.leaves += [path for path in samples if path is not session.root]
        forks.leaves = forks.leaves or going
        return await self.voted(session, forks)

    async def _decode(self, session: Session, rows: list[_Row], upto: int) -> None:
        """The likeliest tokens of every row, up to this many."""
        for row in rows:
            short = upto - row.path.n_tokens
            if short > 0 and session.can_grow(row.path):
                row.path = await _greedy(session, row.path, short)

    async def _branches(
        self, session: Session, forks: Forks, rows: list[_Row], upto: int, room: int
    ) -> list[_Row]:
        """New rows from the tokens that were not looked at yet, earliest first, `room` at most."""
        found: list[_Row] = []
        spots = []
        for row in rows:
            logprobs, _ = token_statistics(row.path)
            end = min(upto, row.path.n_tokens)
            spots += [(t, row.path, math.exp(p)) for t, p in enumerate(logprobs[:end]) if t >= row.seen]
            row.seen = max(row.seen, end)
        for t, path, top in sorted(spots, key=lambda spot: spot[0]):
            if len(found) >= room or session.exhausted:
                break
            if top >= min(1 - self.tau_abs, (1 + self.tau_rel) / 2):
                continue  # no other token can be likely enough
            part = forks.cut(path, t)
            [drawn] = await session.extend([part], self.tries, until="end", at_most=1, required=False)
            for token in {child.token_ids[t]: child for child in drawn if child.n_tokens > t}.values():
                p = math.exp(token_statistics(token)[0][t])
                if token.token_ids[t] == path.token_ids[t] or p <= self.tau_abs or top - p >= self.tau_rel:
                    continue
                branch = await self._looked_ahead(session, token)
                pair = (branch.token_ids[t:], path.token_ids[t : t + self.ahead])
                if not branch.ended and difference(*pair) < self.similar:
                    session.pruned([branch])
                elif len(found) < room:
                    found.append(_Row(branch, branch.n_tokens))
        return found

    async def _looked_ahead(self, session: Session, token: Path) -> Path:
        """A branch grown r tokens from its parent."""
        branch = reopened(session, token)
        return await _greedy(session, branch, self.ahead - 1) if self.ahead > 1 else branch


async def _greedy(session: Session, path: Path, tokens: int) -> Path:
    """The likeliest next tokens of a path, which can go on after them."""
    [grown] = await session.extend([path], greedy=True, until="end", at_most=tokens, required=not path.depth)
    return reopened(session, grown[0]) if grown else path
