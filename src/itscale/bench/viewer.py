"""Traces made small enough for the page: a tree of steps, and the frames in which it grew.

A frame is one round: steps proposed and scored together, one resampling, one pruning. The page draws
frame after frame and computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["Texts", "compact"]

LONGEST_TEXT = 1200
"""Characters of one step that are kept."""


class Texts:
    """Every text once: its number stands for it."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of a text, shortened where it is very long."""
        short = text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " …"
        if short not in self._numbers:
            self._numbers[short] = len(self.texts)
            self.texts.append(short)
        return self._numbers[short]


def compact(trace: Mapping[str, Any], texts: Texts) -> dict[str, Any]:
    """One run's trace as `nodes` and `frames`.

    A node is `[parent, text, tokens, end, score, frame it was proposed in]`, the root node 0; its
    score is the scorer's for the path up to it, None where it was not judged. A frame is an object
    with its `kind` (grow, resample, prune, compare, stop, choose) and what it needs; `weights` of a grow
    are `[node, weight]`, of a resampling those of its slots before.
    """
    tree = _Tree(texts)
    for event in trace["events"]:
        tree.take(event)
    candidates = [
        {
            "node": tree.node_of.get(c["path"]),
            "answer": c["answer"],
            "score": _short(c["score"]),
            "weight": _short(c["weight"]),
            "correct": c["correct"],
        }
        for c in trace["candidates"]
    ]
    return {"nodes": tree.nodes, "frames": tree.frames, "candidates": candidates, "chosen": trace["chosen"]}


class _Tree:
    """Nodes and frames so far."""

    def __init__(self, texts: Texts) -> None:
        self.nodes: list[list[Any]] = [[-1, texts.number(""), 0, "root", None, -1]]
        self.frames: list[dict[str, Any]] = []
        self.node_of: dict[int, int] = {0: 0}
        """Path numbers of the trace to nodes: pictures need no gaps."""
        self._depth = [0]
        self._last = 0
        self._texts = texts

    def take(self, event: Mapping[str, Any]) -> None:
        """One event; kinds that a later version adds are shown by their name."""
        kind = event["event"]
        if kind == "proposed":
            self._propose(event)
        elif kind == "scored":
            self._score(event)
        elif kind == "weighed":
            self._weigh(event)
        elif kind == "resampled":
            slots = self._nodes_of(event["paths"])
            weights = [_short(w) for w in event["weights"]]
            self._frame("resample", paths=slots, weights=weights, ess=_short(event["ess"]))
        elif kind == "pruned":
            before = self.frames[-1] if self.frames else {}
            dropped = self._nodes_of(event["paths"])
            if before.get("kind") == "prune":
                before["paths"] += dropped
            else:
                self._frame("prune", paths=dropped)
        elif kind == "failed":
            self._frame("fail", paths=self._nodes_of([event["path"]]), text=event["error"][:300])
        elif kind == "chosen":
            self._frame("choose", paths=self._nodes_of([event["path"]]))
        else:
            paths = event.get("paths") or ([event["path"]] if "path" in event else [])
            self._frame(kind, paths=self._nodes_of(paths), text=str(event.get("reason", "")))

    def _propose(self, event: Mapping[str, Any]) -> None:
        parent = self.node_of.get(event["parent"], 0)
        grown_on = self.nodes[parent][5]
        # A whole answer arrives as a chain: step after step. Anything else that grows on this round's
        # own steps is the next round.
        chained = parent == self._last and parent == len(self.nodes) - 1
        current = len(self.frames) - 1
        if current < 0 or self.frames[-1]["kind"] != "grow" or (grown_on == current and not chained):
            self._frame("grow")
            current = len(self.frames) - 1
        self.node_of[event["path"]] = self._last = len(self.nodes)
        self._depth.append(self._depth[parent] + 1)
        text = self._texts.number(event["text"])
        self.nodes.append([parent, text, event["tokens"], event["end"], None, current])

    def _score(self, event: Mapping[str, Any]) -> None:
        """The last score is the path's own; earlier ones fill steps that were not judged alone."""
        node = self.node_of.get(event["path"])
        if node is None:
            return
        scores: Sequence[float] = event["scores"]
        self._last = -1  # what comes now does not continue a chain
        for score in reversed(scores if len(scores) == self._depth[node] else scores[-1:]):
            if self.nodes[node][4] is None:
                self.nodes[node][4] = _short(score)
            node = self.nodes[node][0]

    def _weigh(self, event: Mapping[str, Any]) -> None:
        """What the paths weigh belongs to the frame in which the last came; slots of one path add up."""
        weights: dict[int, float] = {}
        for path, weight in zip(event["paths"], event["weights"], strict=True):
            node = self.node_of.get(path)
            if node is not None:
                weights[node] = weights.get(node, 0.0) + weight
        if self.frames:
            told = [[node, _short(weight)] for node, weight in weights.items()]
            self.frames[-1] |= {"weights": told, "ess": _short(event["ess"])}

    def _frame(self, kind: str, **more: Any) -> None:
        self.frames.append({"kind": kind, **more})

    def _nodes_of(self, paths: Iterable[int]) -> list[int]:
        return [self.node_of[path] for path in paths if path in self.node_of]


def _short(value: float | None) -> float | None:
    """Four digits; None for what JSON has no number for."""
    return None if value is None or value != value or abs(value) == float("inf") else float(f"{value:.4g}")
