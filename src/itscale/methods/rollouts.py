"""What tree rollouts share: answers that fork from one another anywhere, and the tree they make.

A rollout tree makes a group of answers, for a vote or for a trainer, with fewer tokens than as many
independent samples: what they share is generated once. Its answers are correlated and do not follow
the model's law, so estimates that take them for independent (pass@k, majority bounds) do not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar, Literal

from itscale.methods.base import Outcome
from itscale.methods.cutting import split_at
from itscale.methods.session import Session
from itscale.methods.tree import Tree
from itscale.methods.whole import Voting
from itscale.models.base import Capability
from itscale.types import Path

__all__ = ["Forks", "RolloutTree", "difference", "reopened", "token_statistics"]


@dataclass
class Forks:
    """The answers of a run, and where they were cut to go on differently."""

    session: Session
    leaves: list[Path] = field(default_factory=list)
    parts: dict[tuple[int, ...], str] = field(default_factory=dict)

    def cut(self, path: Path, n_tokens: int) -> Path:
        """The first tokens of a path, to fork from."""
        part = self.session.cut(path, n_tokens)
        self.parts[part.token_ids] = part.text
        return part

    async def finish(self, paths: Sequence[Path], counts: int | Sequence[int] = 1) -> list[Path]:
        """Whole answers from each of these beginnings: new leaves."""
        required = not self.leaves
        families = await self.session.extend(paths, counts, until="end", required=required)
        new = [
            leaf for family, path in zip(families, paths, strict=True) for leaf in family if leaf is not path
        ]
        self.leaves += new
        return new

    def tree(self) -> Tree:
        """All leaves as one tree, split where they were cut."""
        tree = Tree(self.session.root)
        tree.expand(tree.root, [split_at(leaf, self.parts) for leaf in self.leaves if leaf.depth])
        return tree


@dataclass(frozen=True, kw_only=True)
class RolloutTree(Voting):
    """A method that grows answers as a tree and lets them vote."""

    scorer_kind: ClassVar[Literal["none", "any", "process", "comparison"]] = "none"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.FORCING, Capability.TOKEN_STATISTICS})

    async def voted(self, session: Session, forks: Forks) -> Outcome:
        """The majority of the leaves; a node's value is the share of the leaves below that agree."""
        leaves = forks.leaves or [session.root]
        candidates = [self.candidate(path, weight=1.0 / len(leaves)) for path in leaves]
        clusters = await self.votes(candidates)
        agreeing = {leaves[i].token_ids for i in clusters[0].members} if clusters else set()
        tree = forks.tree()
        for leaf in tree.leaves():
            for _ in range(leaf.draws):
                tree.backup(leaf, float(leaf.path.token_ids in agreeing))
        outcome = self.elected(candidates, next(iter(clusters), None), len(candidates))
        return replace(outcome, stop_reason=session.exhausted, tree=tree)


def reopened(session: Session, path: Path) -> Path:
    """A path that only the length of its extension ended, so that it can go on; itself if it may not."""
    if not path.truncated or session.exhausted:
        return path
    going = session.cut(path, path.n_tokens)
    return going if session.can_grow(going) else path


def token_statistics(path: Path) -> tuple[list[float], list[float]]:
    """Log-probability and entropy of each token of a path, in nats; none where one is not told."""
    steps = path.steps
    logprobs = [x for step in steps for x in step.token_logprobs or ()]
    entropies = [x for step in steps for x in step.token_entropies or ()]
    return (logprobs, entropies) if len(logprobs) == len(entropies) == path.n_tokens else ([], [])


def difference(one: Sequence[int], other: Sequence[int]) -> float:
    """Edit distance of two token sequences over the longer length: 0 the same, 1 nothing in common.

    >>> difference((1, 2, 3, 4), (1, 3, 4, 5))
    0.5
    """
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        changed = [i]
        for (before, above), b in zip(pairwise(row), other, strict=True):
            changed.append(min(before + (a != b), above + 1, changed[-1] + 1))
        row = changed
    return row[-1] / max(len(one), len(other), 1)
