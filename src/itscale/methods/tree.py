"""A search tree: prefixes with what was learned below each of them.

The verbs every tree method needs: `select` a node by a rule, `expand` it, `backup` a value from it to
the root, `prune` it. Children that say the same are one node that remembers how often it was drawn, so
that statistics are pooled and nothing is searched twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from itscale.types import Path

__all__ = ["Node", "Tree", "distinct", "mean_value", "said"]


SCHEMA = "itscale.tree/1"


@dataclass(eq=False, slots=True)
class Node:
    """One prefix. Law: `draws` of a parent's children sum to how many were sampled there."""

    path: Path
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    draws: int = 1
    """How often it was sampled from its parent."""
    visits: int = 0
    """Values backed up through here."""
    total: float = 0.0
    """The sum of these values."""
    value: float = 0.0
    """What the backup rule makes of them."""
    closed: bool = False
    """Nothing new can come from below here."""
    pruned: bool = False

    @property
    def n_drawn(self) -> int:
        """How many children were sampled, copies included."""
        return sum(child.draws for child in self.children)

    def ancestors(self) -> Iterator[Node]:
        """This node, its parent, ... up to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def below(self) -> Iterator[Node]:
        """This node and all below it, parents first, in the order they were added."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))


class Tree:
    """The nodes under one prompt."""

    def __init__(self, root: Path) -> None:
        self.root = Node(root)

    def nodes(self) -> Iterator[Node]:
        """All nodes, parents first."""
        return self.root.below()

    def leaves(self) -> list[Node]:
        """Ended paths, pruned ones left out, in the order of the tree."""
        return [node for node in self.nodes() if node.path.ended and not node.pruned]

    def select(self, rule: Callable[[Node], Node | None]) -> Node:
        """Down from the root to the child that the rule names, until it names none."""
        node = self.root
        while (child := rule(node)) is not None:
            node = child
        return node

    def expand(self, node: Node, paths: Iterable[Path]) -> list[Node]:
        """The nodes of sampled descendants of a node, one for each, the steps between them added.

        Two that say the same are one node; those above an open one are open again.
        """
        ends = [self._add(node, path) for path in paths]
        for end in ends:
            if end.path.ended:
                self.close(end)
            elif not end.closed:
                for above in end.ancestors():
                    above.closed = False
        return ends

    def _add(self, node: Node, path: Path) -> Node:
        between = [above for above in path.nodes() if above.depth > node.path.depth]
        for step in reversed(between):
            known = next((child for child in node.children if said(child.path) == said(step)), None)
            if known is None:
                known = Node(step, node)
                node.children.append(known)
            else:
                known.draws += 1
            node = known
        return node

    def backup(self, node: Node, value: float, rule: Callable[[Node], float] | None = None) -> None:
        """A value reaches a node and all above it; each becomes what the rule (the mean) makes of it."""
        for above in node.ancestors():
            above.visits += 1
            above.total += value
            above.value = (rule or mean_value)(above)

    def close(self, node: Node) -> None:
        """Nothing new can come from below here; nor from above, where all children are closed."""
        node.closed = True
        while (parent := node.parent) is not None and all(child.closed for child in parent.children):
            parent.closed = True
            node = parent

    def prune(self, node: Node) -> None:
        """Drop a node and all below it for good."""
        for below in node.below():
            below.pruned = True
        self.close(node)

    def to_json(self, reward: Callable[[Path], float] | None = None) -> dict[str, Any]:
        """The tree as plain values, parents first: the schema of `docs/trees.md`.

        With `reward` every ended path that was not pruned is judged by it, and visits and values are
        those of these rewards alone; without, they are what the method backed up.
        """
        nodes = list(self.nodes())
        visits = {node: node.visits for node in nodes}
        values = {node: node.value for node in nodes}
        if reward is not None:
            visits, totals = dict.fromkeys(nodes, 0), dict.fromkeys(nodes, 0.0)
            for leaf in self.leaves():
                worth = reward(leaf.path)
                for node in leaf.ancestors():
                    visits[node] += leaf.draws
                    totals[node] += leaf.draws * worth
            values = {node: totals[node] / visits[node] if visits[node] else 0.0 for node in nodes}
        numbers = {node: i for i, node in enumerate(nodes)}
        rows = []
        for node in nodes:
            step, parent, known = node.path.step, node.parent, visits[node] > 0
            rows.append(
                {
                    "id": numbers[node],
                    "parent": None if parent is None else numbers[parent],
                    "depth": node.path.depth,
                    "text": step.text if step else "",
                    "token_ids": list(step.token_ids) if step else [],
                    "token_logprobs": list(step.token_logprobs) if step and step.token_logprobs else None,
                    "end": step.end.value if step else None,
                    "draws": node.draws,
                    "visits": visits[node],
                    "value": values[node] if known else None,
                    "advantage": values[node] - values[parent] if known and parent else None,
                    "pruned": node.pruned,
                }
            )
        return {"schema": SCHEMA, "prompt": self.root.path.prompt.question, "nodes": rows}


def mean_value(node: Node) -> float:
    """Monte-Carlo value: the mean of what was backed up."""
    return node.total / node.visits if node.visits else 0.0


def said(path: Path) -> tuple[Any, ...]:
    """What the last step says: token ids and text, so that copies are known as such."""
    step = path.step
    return (step.token_ids, step.text, step.end) if step else ()


def distinct(siblings: Iterable[Path]) -> list[Path]:
    """Siblings that differ in their step, the first of each kind: a copy would only be searched twice."""
    first: dict[tuple[Any, ...], Path] = {}
    for path in siblings:
        first.setdefault(said(path), path)
    return list(first.values())
