"""What all tree searches owe: optima of trees small enough to enumerate, and what a tree counts."""

from __future__ import annotations

import asyncio
import itertools
import json
import math

import pytest

from itscale.budget import Budget
from itscale.errors import OptionError
from itscale.methods import (
    DVTS,
    MCTS,
    AStar,
    Beam,
    BestFirst,
    DiffusionTreeSampling,
    DiffusionTreeSearch,
    Lookahead,
    Rebase,
    StepBeam,
)
from itscale.methods.a_star import total_cost
from itscale.methods.tree import Tree
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import enumerate_law
from itscale.types import End, Path, Step
from tests.methods.trees import (
    JUDGEMENTS,
    PROMPT,
    TREE,
    finished,
    path_law,
)

BEST = max(filter(finished, JUDGEMENTS), key=JUDGEMENTS.__getitem__)


async def result_of(method, table, n, rng, judge=JUDGEMENTS.__getitem__):
    """A run to its end."""
    scorer = FakeProcessScorer(judge)
    return await method.run(PROMPT, FakeModel(table), scorer, Budget(generations=n), rng)


def run(method, table=TREE, n=4, seed=0, judge=JUDGEMENTS.__getitem__):
    """The same, from a test."""
    return asyncio.run(result_of(method, table, n, seed, judge))


def law_of(method, table: dict, n: int) -> dict[str, float]:
    """The exact law of the returned text."""

    async def answer(rng) -> str:
        return (await result_of(method, table, n, rng)).text

    return enumerate_law(answer)


GREEDY_WAY = ("b|", "a|", "x")  # the best judged child of every prefix, on TREE


@pytest.mark.parametrize(
    ("method", "n"),
    [
        (Beam(width=20), 400),
        (Beam(width=20, finished_hold_slot=False), 400),
        (Lookahead(width=1, k=2), 120),
        (Rebase(tau=1e9, choose="argmax"), 400),
        (StepBeam(width=20), 400),
        (MCTS(width=40, simulations=40), 40),
        (MCTS(width=40, simulations=40, rule="uct", value="rollouts"), 40),
        (DiffusionTreeSearch(), 120),
        (DVTS(width=40), 40),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_searches_find_the_best_answer_of_the_whole_tree(method, n):
    """With every child sampled it is brute force: a miss has probability below 0.88^120 (x by 'b|', 'a|')."""
    assert BEST == GREEDY_WAY
    assert run(method, n=n).text == "".join(BEST)


def test_best_first_is_brute_force_best_first():
    """With every child sampled: the path that popping the best score first comes to, and no other."""
    reached, node = [()], ()
    while not finished(node):
        reached.remove(node)
        reached += [(*node, token) for token in TREE[node]]
        node = max(reached, key=lambda prefix: (JUDGEMENTS[prefix], len(prefix)))
    assert run(BestFirst(width=40), n=40).text == "".join(node)


@pytest.mark.parametrize(
    "method",
    [
        MCTS(),
        MCTS(rule="uct", width=2),
        StepBeam(),
        DiffusionTreeSampling(choose="sample"),
        DiffusionTreeSearch(),
    ],
    ids=lambda method: method.name,
)
def test_with_one_path_all_are_plain_sampling(method):
    """N = 1 leaves nothing to choose: the law of the answer is the model's."""
    assert law_of(method, TREE, 1) == pytest.approx(path_law(TREE))


def test_a_star_costs_never_fall_along_a_path():
    """h is consistent on all score sequences of a grid: f of a prefix is at most f of the longer path."""
    for scores in itertools.product([0.1, 0.4, 0.5, 0.9], repeat=4):
        costs = [total_cost(scores[:i]) for i in range(5)]
        assert all(before <= after + 1e-12 for before, after in itertools.pairwise(costs))


@pytest.mark.parametrize("cap", [1, 2])
def test_a_small_frontier_still_ends_with_an_answer(cap):
    """A cap only drops the dearest: the search goes on with what is left."""
    for seed in range(5):
        result = run(AStar(frontier_cap=cap), seed=seed)
        assert result.candidates[result.chosen].path.finished


def child(path: Path, text: str, end: End = End.BOUNDARY) -> Path:
    """A path with one more step that says `text`."""
    return path.child(Step((), text, end, counted=1))


def test_a_tree_counts_what_is_backed_up():
    """Visits of the root are the backups, its value their mean; copies are one node drawn twice."""
    tree = Tree(Path.root(PROMPT))
    root = tree.root.path
    a, b, again = tree.expand(tree.root, [child(root, "a"), child(root, "b"), child(root, "a")])
    assert a is again
    assert (a.draws, b.draws, tree.root.n_drawn) == (2, 1, 3)
    [leaf] = tree.expand(a, [child(child(a.path, "c"), "d", End.EOS)])
    for node, value in ((leaf, 1.0), (b, 0.25), (leaf, 1.0)):
        tree.backup(node, value)
    assert (tree.root.visits, tree.root.value) == (3, 0.75)
    assert (a.visits, a.value, leaf.parent.parent) == (2, 1.0, a)


def test_a_node_closes_with_its_last_open_child():
    """Ended leaves close upward; a new open child opens the way to it again; pruning closes too."""
    tree = Tree(Path.root(PROMPT))
    root = tree.root.path
    a, b = tree.expand(tree.root, [child(root, "a"), child(root, "b", End.EOS)])
    assert (a.closed, b.closed, tree.root.closed) == (False, True, False)
    tree.expand(a, [child(a.path, "c", End.EOS)])
    assert a.closed
    assert tree.root.closed
    [d] = tree.expand(tree.root, [child(root, "d")])
    assert not tree.root.closed
    tree.prune(d)
    assert tree.root.closed
    assert tree.leaves() == [a.children[0], b]


def test_an_exported_tree_says_what_was_learned():
    """Ids, parents, visits, values and advantages as the tree counts them; the schema is named."""
    result = run(MCTS(rule="uct", width=2), n=6)
    told = json.loads(json.dumps(result.to_json()))["tree"]
    nodes = told["nodes"]
    assert (told["schema"], told["prompt"]) == ("itscale.tree/1", "count")
    assert [node["id"] for node in nodes] == list(range(len(nodes)))
    assert all(node["parent"] < node["id"] for node in nodes[1:])
    assert nodes[0]["visits"] == len(nodes) - 1 == result.tree.root.visits
    for node in nodes[1:]:
        assert node["advantage"] == pytest.approx(node["value"] - nodes[node["parent"]]["value"])


def test_a_reward_from_outside_gives_monte_carlo_values():
    """Values are the means of the rewards of the leaves below, copies counted; pruned ones left out."""
    tree = Tree(Path.root(PROMPT))
    root = tree.root.path
    a, _ = tree.expand(tree.root, [child(root, "a"), child(root, "b", End.EOS)])
    tree.expand(a, [child(a.path, text, End.EOS) for text in ("c", "c", "d", "e")])
    tree.prune(a.children[2])
    nodes = tree.to_json(lambda path: float(path.text.endswith("c")))["nodes"]
    values = {node["text"]: (node["visits"], node["value"]) for node in nodes}
    assert values == {
        "": (4, 0.5),
        "a": (3, pytest.approx(2 / 3)),
        "c": (2, 1.0),
        "d": (1, 0.0),
        "e": (0, None),
        "b": (1, 0.0),
    }
    assert nodes[1]["advantage"] == pytest.approx(2 / 3 - 1 / 2)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        (MCTS, {"rule": "pucr"}, "did you mean 'puct'"),
        (MCTS, {"exploration": -1.0}, "give 0 or more"),
        (MCTS, {"simulations": 0}, "none for N"),
        (MCTS, {"width": 0}, "at least 1"),
        (StepBeam, {"width": 0}, "at least 1"),
        (DiffusionTreeSampling, {"reward_weight": 0.0}, "above 0"),
        (DiffusionTreeSampling, {"choose": "draw"}, "unknown choose"),
        (DiffusionTreeSearch, {"alpha": 2.0}, "0 to 1"),
        (DiffusionTreeSearch, {"exploration": math.inf}, "give 0 or more"),
        (DiffusionTreeSearch, {"scale": "logs"}, "did you mean 'log'"),
    ],
)
def test_impossible_options_are_refused(method, options, says):
    """At construction, with what to do instead."""
    with pytest.raises(OptionError, match=says):
        method(**options)
