"""Semantic-entropy branching: fork where the next tokens are uncertain *and* lead to different things.

Zhao et al. 2026, "Reinforced Efficient Reasoning via Semantically Diverse Exploration" (ROSE), arXiv
2601.05053. Answer by answer, N in all:

    the first, and every other with probability `fresh`: sampled from the prompt
    else: fork the token of all answers so far with the largest S_t = H_t D_t, and sample the rest

H_t is the entropy of the token. D_t says how different its likely continuations are. The paper takes
the cosines of the candidates' output embeddings, which no seam offers; here D_t is measured on text:
the mean edit distance (0 to 1) between `probes` short continuations, drawn at the `shortlist` most
uncertain tokens. Probes are paid for and dropped. `metric=entropy` has D_t = 1 and no probes.

Chosen where the source leaves it open: a fork point is used once (the published code can take the same
one again and again); tokens the model was sure of (H_t = 0), and the first one, do not fork.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import ClassVar, Literal

from itscale.errors import OptionError, did_you_mean
from itscale.methods.arrivals import together
from itscale.methods.base import Outcome
from itscale.methods.rollouts import Forks, RolloutTree, difference, token_statistics
from itscale.methods.session import Session
from itscale.types import Path

__all__ = ["SemanticTree"]

Beginning = tuple[int, ...]


@dataclass(slots=True)
class _Known:
    """What was measured and used so far, by the token ids of the beginning."""

    distance: dict[Beginning, float] = field(default_factory=dict)
    used: set[Beginning] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True)
class SemanticTree(RolloutTree):
    """N answers, some from the prompt, the others from the most telling fork so far.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "semantic-tree"
    summary: ClassVar[str] = "fork where uncertain tokens lead to different things; leaves vote (ROSE)"

    fresh: float = 0.5
    """epsilon: how often an answer starts from the prompt."""
    metric: Literal["semantic-entropy", "entropy"] = "semantic-entropy"
    shortlist: int = 4
    """The most uncertain tokens, which are probed."""
    probes: int = 3
    """Short continuations drawn at each."""
    probe_tokens: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric not in ("semantic-entropy", "entropy"):
            raise OptionError(did_you_mean("metric", self.metric, ["semantic-entropy", "entropy"]))
        if not 0 <= self.fresh <= 1:
            raise OptionError(f"fresh of semantic-tree is {self.fresh}; give a probability, 0 to 1")
        if self.shortlist < 1 or self.probes < 2 or self.probe_tokens < 1:
            raise OptionError(
                "semantic-tree takes shortlist and probe_tokens of at least 1, probes of at least 2"
            )

    async def search(self, session: Session) -> Outcome:
        """Sample or fork, one answer after the other."""
        forks, known = Forks(session), _Known()
        coins = [i == 0 or self._coin(session, i) for i in range(session.generations)]
        # Answers from the prompt depend on nothing: made together, and seen each in its turn.
        numbers = [i for i, coin in enumerate(coins) if coin]
        made = await together(session.sample_number(i) for i in numbers)
        samples = dict(zip(numbers, made, strict=True))
        for i, coin in enumerate(coins):
            spot = None if coin or session.exhausted else await self._fork(session, forks, known)
            if spot is not None:
                await forks.finish([forks.cut(*spot)])
            elif (path := samples[i] if coin else await session.sample_number(i)) is not None:
                forks.leaves.append(path)
        session.survivors(forks.leaves)
        return await self.voted(session, forks)

    def _coin(self, session: Session, i: int) -> bool:
        return session.rng.child("fresh", i).choose([1 - self.fresh, self.fresh]) == 1

    async def _fork(self, session: Session, forks: Forks, known: _Known) -> tuple[Path, int] | None:
        """The unused token of largest S, with the answer it is in; None if every token was sure."""
        spots: dict[Beginning, tuple[float, Path, int]] = {}
        for path in forks.leaves:
            for t, entropy in enumerate(token_statistics(path)[1]):
                if t and entropy > 0 and (ids := path.token_ids[:t]) not in known.used:
                    spots.setdefault(ids, (entropy, path, t))
        best = sorted(spots.items(), key=lambda item: -item[1][0])
        if not best:
            return None
        if self.metric == "semantic-entropy":
            best = best[: self.shortlist]
            new = {ids: spot for ids, spot in best if ids not in known.distance}
            parts = [session.cut(path, t) for _, path, t in new.values()]
            known.distance |= dict(zip(new, await self._distances(session, parts), strict=True))
            best.sort(key=lambda item: -item[1][0] * known.distance[item[0]])
        ids, (_, path, t) = best[0]
        known.used.add(ids)
        return path, t

    async def _distances(self, session: Session, parts: list[Path]) -> list[float]:
        """D of each: the mean distance between two short continuations."""
        families = await session.extend(
            parts, self.probes, until="end", at_most=self.probe_tokens, required=False
        )
        distances = []
        for part, family in zip(parts, families, strict=True):
            probes = [path for path in family if path is not part]
            session.pruned(probes)
            said = [path.token_ids[part.n_tokens :] for path in probes]
            apart = [difference(*pair) for pair in combinations(said, 2)]
            distances.append(math.fsum(apart) / len(apart) if apart else 0.0)
        return distances
