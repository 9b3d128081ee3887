"""Diffusion tree sampling and search, over steps of text: one tree in which no rollout is wasted.

Jain et al. 2025, "Diffusion Tree Sampling: Scalable inference-time alignment of diffusion models",
arXiv 2506.20701, with "the denoising state at time t" read as "the prefix of t steps". Target:

    p(x) exp(lambda r(x)) / Z        r the score of the finished answer

An iteration goes down from the root while a node is full (as many children as C visits^alpha), at the
first that is not, samples a whole answer from there, adds all its steps to the tree, and backs up

    v(answer) = r,    v(x) = (1 / lambda) log( mean over sampled children of exp(lambda v(child)) )

Down goes DTS by a draw proportional to exp(lambda v(child)), DTS* to the child of largest
v + c sqrt(ln N_parent / N). The tree's own law of answers is its walk from the root by DTS draws; it
converges to the target, and exp(lambda v(root)) to Z.

Left open by the sources, and chosen here. The backup takes the *mean*, not the sum, over children
(with a sum the root grows by ln |C| / lambda a level and nothing converges); a child drawn twice
counts twice; p enters by sampling alone and is not multiplied in again; C = 2, alpha = 0.8. An answer
whose judgement failed leaves the tree. `scale=log` has r = ln score, so that the target is p * score^lambda.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from itscale.errors import OptionError, did_you_mean
from itscale.methods.base import Outcome, StepMethod
from itscale.methods.searching import Candidates, check_search_options
from itscale.methods.session import Session
from itscale.methods.tree import Node, Tree
from itscale.randomness import Randomness
from itscale.scorers.answers import tally
from itscale.scorers.base import Aggregation
from itscale.types import Path

__all__ = ["DiffusionTreeSampling", "DiffusionTreeSearch"]

Walk = Callable[[Node, Randomness], Node]
"""The child to go down to."""
_FREE_VISITS = 1000
"""Walks in a row that end at a known answer (and cost nothing) before the tree counts as complete."""


@dataclass(frozen=True, kw_only=True)
class _DiffusionTree(StepMethod):
    reward_weight: float = 5.0
    """lambda of the target p exp(lambda r)."""
    scale: Literal["linear", "log"] = "linear"
    """r is the score, or its logarithm."""
    widen: float = 2.0
    """C: a node may have C visits^alpha children."""
    alpha: float = 0.8
    iterations: int | None = None
    """Whole answers sampled; none is N."""
    aggregate: Aggregation = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_search_options(self, but=("choose",))
        if self.scale not in ("linear", "log"):
            raise OptionError(did_you_mean("scale", self.scale, ["linear", "log"]))
        if not (self.reward_weight > 0 and math.isfinite(self.reward_weight)):
            raise OptionError(f"reward_weight of {self.name} is {self.reward_weight}; give a number above 0")
        if not 1 <= self.widen < math.inf or not 0 <= self.alpha <= 1:
            raise OptionError(f"{self.name} widens by {self.widen} visits^{self.alpha}; give >= 1 and 0 to 1")
        if self.iterations is not None and self.iterations < 1:
            raise OptionError(
                f"iterations of {self.name} is {self.iterations}; give at least 1, or none for N"
            )

    async def grown(
        self,
        session: Session,
        judged: Candidates,
        choose: Walk,
        likely: Walk,
    ) -> tuple[Tree, list[Node]]:
        """The tree after all iterations, or as many as the limits allow, and its answers.

        If no answer was judged, those that were not, outside of the tree. While an answer is judged,
        the next may be begun where the tree as it is would `likely` go.
        """
        tree, walks, unjudged = Tree(session.root), 0, list[Path]()
        iterations = self.iterations or session.generations
        for iteration in range(iterations):
            node = tree.root
            for _ in range(_FREE_VISITS):
                rng, walks = session.rng.child("walk", walks), walks + 1
                node = self._walked(session, tree, choose, rng)
                if session.can_grow(node.path):
                    break
                tree.backup(node, node.value, self.soft_value)  # an answer that is known already
            else:
                break  # all that there is to sample has been
            [drawn] = await session.extend([node.path], until="end", required=not iteration)
            if drawn == [node.path]:
                break  # a limit binds
            if iteration + 1 < iterations:
                session.begin([self._walked(session, tree, likely, session.rng).path], until="end")
            scores = await session.score(drawn)
            judged.add([list(zip(drawn, scores, strict=True))])
            unjudged += [path for path, told in zip(drawn, scores, strict=True) if not told]
            for leaf in tree.expand(node, [path for path in drawn if path not in unjudged]):
                tree.backup(leaf, self.reward(judged.value(leaf.path)), self.soft_value)
        leaves = [node for node in tree.nodes() if node.visits and not node.children]
        session.pruned(unjudged if leaves else [])
        return tree, leaves or [Node(path) for path in unjudged or [session.root]]

    def _walked(self, session: Session, tree: Tree, choose: Walk, rng: Randomness) -> Node:
        """Down from the root while a node is full."""
        node = tree.root
        while self._full(session, node):
            node = choose(node, rng.child(node.path.depth))
        return node

    def _full(self, session: Session, node: Node) -> bool:
        """Whether a node has all the children that its visits give it."""
        most = session.generations if node.parent is None else math.inf
        wanted = min(most, math.ceil(self.widen * max(1, node.visits) ** self.alpha))
        return bool(node.children) and node.n_drawn >= wanted

    def reward(self, score: float) -> float:
        """r of a score."""
        return math.log(score) if self.scale == "log" else score

    def soft_value(self, node: Node) -> float:
        """v of a node whose children have theirs; an answer's is its reward, whatever the visits."""
        if not node.children:
            return node.total / node.visits
        return log_mean_exp([child.value for child in node.children], self._draws(node), self.reward_weight)

    def walk_law(self, node: Node) -> npt.NDArray[np.float64]:
        """Probability of each child in a draw of DTS: proportional to draws * exp(lambda v)."""
        tilted = self.reward_weight * np.array([child.value for child in node.children])
        weights: npt.NDArray[np.float64] = np.array(self._draws(node)) * np.exp(tilted - tilted.max())
        law: npt.NDArray[np.float64] = weights / weights.sum()
        return law

    def _draws(self, node: Node) -> list[int]:
        return [child.draws for child in node.children]


def log_mean_exp(values: list[float], counts: list[int], weight: float) -> float:
    """(1 / weight) log( sum counts exp(weight values) / sum counts ).

    >>> round(log_mean_exp([0.0, 1.0], [3, 1], 1e-9), 6)  # no weight: the mean
    0.25
    """
    top = max(values)
    total = math.fsum(n * math.exp(weight * (v - top)) for v, n in zip(values, counts, strict=True))
    return top + math.log(total / sum(counts)) / weight


@dataclass(frozen=True, kw_only=True)
class DiffusionTreeSampling(_DiffusionTree):
    """DTS: a tree of N rollouts whose walks sample p exp(lambda r).

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "dts"
    summary: ClassVar[str] = "one tree of rollouts that samples the model tilted by the score"

    choose: Literal["vote", "argmax", "sample"] = "vote"
    """By the tree's law: most probability behind an answer, or a draw; or the best score."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.choose not in ("vote", "argmax", "sample"):
            raise OptionError(did_you_mean("choose", self.choose, ["vote", "argmax", "sample"]))

    async def search(self, session: Session) -> Outcome:
        """Grow the tree by draws; the answer by its law."""
        judged = Candidates(self.aggregate)
        tree, leaves = await self.grown(
            session,
            judged,
            lambda node, rng: node.children[rng.child(node.path.depth).choose(self.walk_law(node))],
            lambda node, _: node.children[int(self.walk_law(node).argmax())],
        )
        weights = [self._probability(leaf) for leaf in leaves]
        weights = [weight / math.fsum(weights) for weight in weights]
        outcome = judged.outcome([leaf.path for leaf in leaves], "argmax", session.exhausted)
        candidates = [
            replace(c, weight=weight) for c, weight in zip(outcome.candidates, weights, strict=True)
        ]
        chosen = outcome.chosen
        if self.choose == "sample":
            chosen = session.rng.child("choice").choose(weights)
        elif self.choose == "vote" and (clusters := tally([c.answer for c in candidates], weights)):
            chosen = clusters[0].representative
        log_evidence = self.reward_weight * tree.root.value if tree.root.visits else None
        return Outcome(candidates, chosen, log_evidence, stop_reason=session.exhausted, tree=tree)

    def _probability(self, leaf: Node) -> float:
        """That a walk from the root ends at this leaf."""
        probability = 1.0
        for node in leaf.ancestors():
            if node.parent is not None:
                probability *= float(self.walk_law(node.parent)[node.parent.children.index(node)])
        return probability


@dataclass(frozen=True, kw_only=True)
class DiffusionTreeSearch(_DiffusionTree):
    """DTS*: the same tree, grown toward the best answer.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "dts-star"
    summary: ClassVar[str] = "one tree of rollouts grown toward the best score, with soft backups"

    exploration: float = 1.0
    """c of v + c sqrt(ln N_parent / N)."""
    choose: Literal["argmax", "vote"] = "argmax"
    """Best-scored answer, or the one whose texts' scores add up to most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_search_options(self)
        if not (self.exploration >= 0 and math.isfinite(self.exploration)):
            raise OptionError(f"exploration of dts-star is {self.exploration}; give 0 or more")

    async def search(self, session: Session) -> Outcome:
        """Grow the tree by upper bounds; the answer is the best leaf."""
        judged = Candidates(self.aggregate)

        def best(node: Node, _: Randomness) -> Node:
            return max(node.children, key=self.bound)

        tree, leaves = await self.grown(session, judged, best, best)
        outcome = judged.outcome([leaf.path for leaf in leaves], self.choose, session.exhausted)
        return replace(outcome, tree=tree)

    def bound(self, node: Node) -> float:
        """v + c sqrt(ln N_parent / N)."""
        assert node.parent is not None
        return node.value + self.exploration * math.sqrt(math.log(node.parent.visits) / node.visits)
