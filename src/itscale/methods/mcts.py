"""Monte-Carlo tree search over steps, by UCT or PUCT, with values from a scorer or from rollouts.

Kocsis & Szepesvari 2006 (UCT); Silver et al. 2017 (PUCT); over reasoning steps as in AlphaMath: Chen et
al. 2024, arXiv 2405.03553. A simulation goes down from the root to the child of largest Q + U until it
is at a node without open children, samples `width` next steps there, and backs up the value of each:

    Q = mean of the values backed up through a node
    uct     U = c sqrt(ln N_parent / N)
    puct    U = c P sqrt(N_parent) / (1 + N),   P = exp(mean token log-probability of the step)

The value of a step is the scorer's judgement of the prefix, or the mean score of sampled whole answers
from it (`value=rollouts`; these answers are candidates too). Steps that say the same are one child.

Left open by the papers, and chosen here: every new child is valued and backed up, not the parent; a
node below which everything has ended is closed, and when the root is, it gets `width` more children,
so that the search is anytime up to the N starts of the budget. P is not normalised over siblings, as in
the published code. An open prefix judged better than every finished answer is grown to its end after
the last simulation. Simulations come one after the other, without virtual losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from itscale.errors import OptionError, did_you_mean
from itscale.methods.base import Outcome, StepMethod
from itscale.methods.searching import Candidates, check_search_options, rolled_out
from itscale.methods.session import Session
from itscale.methods.tree import Node, Tree
from itscale.models.base import Capability
from itscale.scorers.base import AGGREGATIONS, Aggregation
from itscale.types import Path

__all__ = ["MCTS"]

_CHOICES = {"rule": ("puct", "uct"), "value": ("scorer", "rollouts"), "choose": ("argmax", "vote", "visits")}


@dataclass(frozen=True, kw_only=True)
class MCTS(StepMethod):
    """N simulations: select, expand, value, back up.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "mcts"
    summary: ClassVar[str] = "tree search that weighs what is good against what is little tried"

    rule: Literal["puct", "uct"] = "puct"
    value: Literal["scorer", "rollouts"] = "scorer"
    width: int = 4
    """Children of an expansion. A budget below it narrows it."""
    exploration: float = 1.25
    """c: 0 follows the best value alone."""
    rollouts: int = 1
    """Whole answers sampled from a step to value it, with `value=rollouts`."""
    simulations: int | None = None
    """Expansions; none is N."""
    aggregate: Aggregation = "last"
    choose: Literal["argmax", "vote", "visits"] = "argmax"
    """Best score, most score behind an answer, or the most visited way down."""
    max_steps: int = 64
    """Depth of the tree."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, known in _CHOICES.items():
            if getattr(self, option) not in known:
                raise OptionError(did_you_mean(option, str(getattr(self, option)), known))
        check_search_options(self, "width", "rollouts", "max_steps", but=("choose",))
        if self.simulations is not None and self.simulations < 1:
            raise OptionError(f"simulations of mcts is {self.simulations}; give at least 1, or none for N")
        if not (self.exploration >= 0 and math.isfinite(self.exploration)):
            raise OptionError(f"exploration of mcts is {self.exploration}; give 0 or more")

    @property
    def required(self) -> frozenset[Capability]:
        return self.needs | {Capability.LOGPROBS} if self.rule == "puct" else self.needs

    async def search(self, session: Session) -> Outcome:
        """Simulate until the simulations, the budget or the tree are at their end."""
        tree, judged, ended = Tree(session.root), Candidates(self.aggregate), list[Path]()
        width = min(self.width, session.generations)
        for _ in range(self.simulations or session.generations):
            leaf = tree.select(self.best_child)
            room = width if leaf.parent else min(width, session.generations - leaf.n_drawn)
            if room < 1 or session.exhausted:
                break
            [drawn] = await session.extend([leaf.path], room, required=not tree.root.children)
            if drawn == [leaf.path]:
                break  # a limit binds
            if not drawn:
                tree.prune(leaf)  # its call failed
                continue
            new = [node for node in dict.fromkeys(tree.expand(leaf, drawn)) if not node.visits]
            kept = {node.path for node in new}
            session.pruned([path for path in drawn if path not in kept])
            for node, value in zip(new, await self._values(session, judged, new, ended), strict=True):
                if value is not None:
                    tree.backup(node, value)
                if not session.can_grow(node.path) or node.path.depth >= self.max_steps:
                    tree.close(node)
        return await self._outcome(session, tree, judged, ended)

    def best_child(self, node: Node) -> Node | None:
        """The open child of largest Q + U; none where there is none, which is where to expand."""
        return max((child for child in node.children if not child.closed), key=self.bound, default=None)

    def bound(self, node: Node) -> float:
        """Q + U. A child that was never valued (its judgement failed) comes last."""
        assert node.parent is not None
        if not node.visits:
            return -math.inf
        if self.rule == "uct":
            return node.value + self.exploration * math.sqrt(math.log(node.parent.visits) / node.visits)
        return node.value + self.exploration * prior(node.path) * math.sqrt(node.parent.visits) / (
            1 + node.visits
        )

    async def _values(
        self, session: Session, judged: Candidates, nodes: Sequence[Node], ended: list[Path]
    ) -> list[float | None]:
        """What each new node is worth, None where that is not known; answers met are `ended`."""
        paths = [node.path for node in nodes]
        ended += [path for path in paths if not session.can_grow(path)]
        session.begin(paths)
        if self.value == "scorer":
            judged.add([list(zip(paths, await session.score(paths), strict=True))])
            return [judged.value(path) if judged.scores(path) else None for path in paths]
        growing = [path for path in paths if session.can_grow(path)]
        over = [path for path in paths if not session.can_grow(path)]
        groups = await session.extend_scored(growing, self.rollouts, until="end", required=False)
        leaves = dict(zip(growing, groups, strict=True))
        leaves |= {
            path: [(path, scores)] for path, scores in zip(over, await session.score(over), strict=True)
        }
        judged.add(leaves.values())
        ended += [leaf for path in growing for leaf, _ in leaves[path] if leaf is not path]
        worth = {path: [AGGREGATIONS[self.aggregate](s) for _, s in leaves[path] if s] for path in paths}
        return [math.fsum(worth[path]) / len(worth[path]) if worth[path] else None for path in paths]

    async def _outcome(self, session: Session, tree: Tree, judged: Candidates, ended: list[Path]) -> Outcome:
        """The answer among what has ended, an open prefix that is better than all of it grown to its end."""
        waiting = [node.path for node in tree.nodes() if not node.children and session.can_grow(node.path)]
        finished = [path for path in ended if path.finished]
        best = judged.best(waiting) if waiting else None
        if best and not (finished and judged.value(best) <= judged.value(judged.best(finished))):
            ended.append(await rolled_out(session, judged, best))
        outcome = judged.outcome(ended, "vote" if self.choose == "vote" else "argmax", session.exhausted)
        if self.choose != "visits":
            return replace(outcome, tree=tree)
        way = tree.select(lambda node: max(filter(_leads_on, node.children), key=_tried, default=None)).path
        chosen = next((i for i, c in enumerate(outcome.candidates) if c.path is way), outcome.chosen)
        return replace(outcome, chosen=chosen, tree=tree)


def prior(path: Path) -> float:
    """P of PUCT: exp of the mean log-probability of the last step's tokens (linear, 0 to 1)."""
    step = path.step
    return math.exp(step.logprob / max(1, step.n_tokens)) if step and step.logprob is not None else 0.0


def _leads_on(node: Node) -> bool:
    """Whether a finished answer is below."""
    return any(below.path.finished for below in node.below())


def _tried(node: Node) -> tuple[int, float]:
    return node.visits, node.value
