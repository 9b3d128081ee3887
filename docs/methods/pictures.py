"""Draw what each method really does: one run on a tiny exact model, its trace as a picture.

    python docs/methods/pictures.py [NAME ...]

writes `docs/methods/pictures/NAME.svg` for the named methods, or draws all that there are again. The
model plays a game: from 2 reach 10 by the moves +3, *2 and -1; from 8 on (or after four moves) it
states its answer. The scorer knows the chance of success, but also likes numbers that are close to
10. Same code, same pictures: a test draws them again and compares.

To show a method with other options than its defaults, or another N, add it to `SHOWN`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

from itscale.budget import Budget
from itscale.events import Chosen, Proposed, Pruned, Resampled, Scored
from itscale.methods.base import Result
from itscale.models.fake import FakeModel
from itscale.registry import parse_method
from itscale.scorers.base import Scorer
from itscale.scorers.fake import FakeComparisonScorer, FakeProcessScorer
from itscale.types import Prompt, Step

FOLDER = Path(__file__).parent / "pictures"
PROMPT = Prompt.user("from 2 to 10")
START, TARGET, STOP_AT, MOST_MOVES = 2, 10, 8, 4


@dataclass(frozen=True)
class Shown:
    """How a method is run for its picture."""

    spec: str
    n: int = 4
    seed: int = 0


SHOWN: Mapping[str, Shown] = {
    "beam": Shown("beam:width=2"),
    "dvts": Shown("dvts:width=2"),
    "lookahead": Shown("lookahead:width=2"),
    "best-first": Shown("best-first:width=2", n=3),
    "a-star": Shown("a-star:width=2", n=3),
    "short-m-at-k": Shown("short-m-at-k:m=2"),
    "particle-gibbs": Shown("particle-gibbs:iterations=2", n=6),
    "entropic-particle-filter": Shown("entropic-particle-filter:max_steps=4", n=6),
    "particle-filter": Shown("particle-filter", n=6),
    "parallel-tempering": Shown("parallel-tempering:chains=2,iterations=2", n=12),
    "particle-cascade": Shown("particle-cascade", n=6, seed=7),
    "resample-move": Shown("resample-move:ess_threshold=1", n=4),
    "revision-smc": Shown("revision-smc:levels=1,ess_threshold=1", n=4),
    "step-beam": Shown("step-beam:width=3", n=6),
    "mcts": Shown("mcts:width=2,exploration=0.5", seed=11),
    "dts": Shown("dts:widen=1,alpha=0.5", n=6, seed=11),
    "dts-star": Shown("dts-star:widen=1,alpha=0.5", n=6, seed=4),
    "segment-tree": Shown("segment-tree", n=6, seed=3),
    "entropy-tree": Shown("entropy-tree:forks=1,spacing=2", n=6, seed=2),
    "lookahead-tree": Shown("lookahead-tree:tau_rel=0.35,ahead=4"),
    "semantic-tree": Shown("semantic-tree:metric=entropy,fresh=0.2", n=5),
    "rebase": Shown("rebase", n=6),
}


# --- the game -----------------------------------------------------------------------------------


def _moves(number: int) -> dict[str, tuple[float, int]]:
    """Each move's probability and where it leads."""
    chances = (0.3, 0.6, 0.1) if number % 2 == 0 else (0.4, 0.35, 0.25)
    return dict(
        zip(("+3", "*2", "-1"), zip(chances, (number + 3, number * 2, number - 1), strict=True), strict=True)
    )


def _state(tokens: tuple[str, ...]) -> tuple[int, int]:
    """The number reached, and after how many moves."""
    reached = [token for token in tokens if token.startswith("=")]
    return (int(reached[-1][1:]) if reached else START), len(reached)


def next_token(tokens: tuple[str, ...]) -> dict[str, float]:
    """The model: a move, then the number it leads to; when it is time, the answer and the end."""
    number, moves = _state(tokens)
    if tokens and tokens[-1].startswith("Answer"):
        return {"$": 1.0}
    if tokens and not tokens[-1].startswith("="):
        return {f"={_moves(number)[tokens[-1]][1]}\n": 1.0}
    if number >= STOP_AT or moves == MOST_MOVES:
        return {f"Answer: {number}": 1.0}
    return {move: p for move, (p, _) in _moves(number).items()}


@cache
def success(number: int, moves: int) -> float:
    """The probability that the model's answer will be the target."""
    if number >= STOP_AT or moves == MOST_MOVES:
        return float(number == TARGET)
    return sum(p * success(then, moves + 1) for p, then in _moves(number).values())


def judge(steps: tuple[str, ...]) -> float:
    """The scorer: mostly the chance of success, partly closeness, never quite sure."""
    number, moves = _state(tuple(f"={step.rpartition('=')[2]}" for step in steps if "=" in step))
    chance = success(number, moves)
    if steps[-1].startswith("Answer"):
        return 0.05 + 0.9 * chance
    return 0.05 + 0.9 * (0.6 * chance + 0.4 * max(0.0, 1 - abs(TARGET - number) / TARGET))


def closest(texts: tuple[str, ...]) -> list[int]:
    """The judge that compares: the nearer to the target the better."""
    gaps = [abs(TARGET - int(text.rpartition(" ")[2])) for text in texts]
    return [sum(other < gap for other in set(gaps)) for gap in gaps]


def _vocabulary() -> list[str]:
    numbers = range(-3, 40)
    return ["+3", "*2", "-1", "$", *(f"={n}\n" for n in numbers), *(f"Answer: {n}" for n in numbers)]


async def trace_of(shown: Shown) -> Result:
    """The run that is drawn."""
    model = FakeModel(next_token, vocabulary=_vocabulary(), boundary="\n")
    method = parse_method(shown.spec)
    scorer: Scorer | None = FakeProcessScorer(judge)
    if method.scorer_kind == "none":
        scorer = None
    elif method.scorer_kind == "comparison":
        scorer = FakeComparisonScorer(closest)
    return await method.run(PROMPT, model, scorer, Budget(generations=shown.n), shown.seed)


# --- the picture --------------------------------------------------------------------------------

COLUMN, ROW, BOX, HEIGHT, MARGIN = 146, 30, 116, 22, 14
INK, FAINT, ACCENT = "#1f2933", "#9aa5b1", "#c2410c"


@dataclass
class Node:
    """One proposed step: where it hangs, what was said of it, where it is drawn."""

    number: int
    text: str
    parent: Node | None
    children: list[Node] = field(default_factory=list)
    score: float | None = None
    copies: int = 1
    pruned: bool = False
    kept: bool = False
    chosen: bool = False
    row: float = 0.0

    @property
    def depth(self) -> int:
        """Steps from the prompt."""
        return 0 if self.parent is None else self.parent.depth + 1

    def ancestors(self) -> Iterator[Node]:
        """This node and all above it."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


def tree_of(result: Result) -> list[Node]:
    """The nodes of a run in the order they were drawn; the first is the prompt."""
    nodes = {0: Node(0, PROMPT.question, None)}
    pruned = {path for event in result.trace.events if isinstance(event, Pruned) for path in event.paths}
    for event in result.trace.events:
        if isinstance(event, Proposed) and event.path not in nodes:
            parent = nodes[event.parent]
            nodes[event.path] = Node(len(nodes), _said(event), parent)
            parent.children.append(nodes[event.path])
        elif isinstance(event, Scored):
            nodes[event.path].score = event.scores[-1]
        elif isinstance(event, Resampled):
            for path in set(event.paths):
                nodes[path].copies = event.paths.count(path)
        elif isinstance(event, Chosen):
            for node in nodes[event.path].ancestors():
                node.chosen = True
    for path, node in nodes.items():
        node.pruned = path in pruned
    _keep(list(nodes.values()), [tuple(map(_said, c.path.steps)) for c in result.candidates])
    return list(nodes.values())


def _said(step: Proposed | Step) -> str:
    """What stands in the box of a step."""
    return step.text.strip() or "(end)"


def _keep(nodes: list[Node], candidates: list[tuple[str, ...]]) -> None:
    """Marks one node for each candidate, with all above it: the chosen one first, pruned ones last."""
    by_text: dict[tuple[str, ...], list[Node]] = {}
    for node in sorted(nodes, key=lambda node: (not node.chosen, node.pruned)):
        said = tuple(a.text for a in node.ancestors() if a.parent is not None)[::-1]
        by_text.setdefault(said, []).append(node)
    for said in candidates:
        same = by_text.get(said, [])
        for above in (same.pop(0) if len(same) > 1 else same[0]).ancestors():
            above.kept = True


def placed(root: Node) -> int:
    """Gives every node its row, leaves from top to bottom; how many rows there are."""
    rows = 0
    stack = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            node.row = (node.children[0].row + node.children[-1].row) / 2
        elif node.children:
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(node.children))
        else:
            node.row, rows = float(rows), rows + 1
    return rows


def _fill(score: float | None) -> str:
    """White for a bad score, deep green for a good one, grey where there is none."""
    if score is None:
        return "#eef1f4"
    low, high = (255, 255, 255), (134, 204, 150)
    return "#" + "".join(f"{round(a + (b - a) * score):02x}" for a, b in zip(low, high, strict=True))


def _box(node: Node) -> str:
    x, y = MARGIN + node.depth * COLUMN, MARGIN + 20 + round(node.row * ROW)
    ink = INK if node.kept else FAINT
    line = f'stroke="{ACCENT if node.chosen else ink}" stroke-width="{2 if node.chosen else 1}"'
    line += "" if node.kept else ' stroke-dasharray="3 3"'
    parts = []
    if node.parent is not None:
        x0, y0 = MARGIN + node.parent.depth * COLUMN + BOX, MARGIN + 31 + round(node.parent.row * ROW)
        y1, middle = y + HEIGHT // 2, (x0 + x) // 2
        parts.append(f'<path d="M{x0} {y0} C{middle} {y0} {middle} {y1} {x} {y1}" fill="none" {line}/>')
    fill = f'rx="5" fill="{_fill(node.score)}"'
    parts.append(f'<rect x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" {fill} {line}/>')
    centre = f'x="{x + BOX // 2}" y="{y + 15}" text-anchor="middle"'
    parts.append(f'<text {centre} fill="{ink}">{escape(node.text)}</text>')
    if node.parent is not None:
        parts.append(f'<text x="{x + 4}" y="{y + 14}" class="s">{node.number}</text>')
    if node.score is not None:
        score = f"{node.score:.2f}".lstrip("0")
        parts.append(f'<text x="{x + BOX - 4}" y="{y + 14}" class="s" text-anchor="end">{score}</text>')
    if node.copies > 1:
        below = f'x="{x + BOX + 2}" y="{y + 21}"'
        parts.append(f'<text {below} class="s" fill="{ACCENT}">x{node.copies}</text>')
    return "\n".join(parts)


def drawing(name: str) -> str:
    """The picture of a method, as SVG."""
    shown = SHOWN.get(name, Shown(name))
    result = asyncio.run(trace_of(shown))
    nodes = tree_of(result)
    rows = placed(nodes[0])
    width = 2 * MARGIN + max(node.depth for node in nodes) * COLUMN + BOX + 26
    height = 2 * MARGIN + 40 + rows * ROW
    usage = result.usage
    head = f"{shown.spec}, N = {shown.n}: {usage.generated_tokens} tokens, {usage.scorer_calls} scorer calls"
    foot = "left: order drawn; right: score; xk: kept k times; dashed: in no candidate; red: the answer"
    boxes = "\n".join(map(_box, nodes))
    width = max(width, 7 * len(head), 6 * len(foot))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="Menlo, Consolas, monospace" font-size="11">\n'
        f"<style>.s{{font-size:9px;fill:#616e7c}}</style>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>\n'
        f'<text x="{MARGIN}" y="20" fill="{INK}">{escape(head)}</text>\n{boxes}\n'
        f'<text x="{MARGIN}" y="{height - 10}" class="s">{foot}</text>\n</svg>\n'
    )


def main(names: list[str]) -> None:
    """Write the pictures of these methods, or draw all again that there are."""
    FOLDER.mkdir(exist_ok=True)
    for name in names or sorted(picture.stem for picture in FOLDER.glob("*.svg")):
        (FOLDER / f"{name}.svg").write_text(drawing(name), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
