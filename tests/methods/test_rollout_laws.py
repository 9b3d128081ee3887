"""Rollout trees: the exact law of the group of answers that each makes."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations_with_replacement

import pytest

from itscale.budget import Budget
from itscale.methods import EntropyTree, LookaheadTree, SegmentTree, SemanticTree, entropy_tree
from itscale.models.fake import FakeModel
from itscale.registry import METHODS
from itscale.testing import enumerate_law
from tests.methods.trees import END, PROMPT, SMALL, TREE, draws, finished, joint, path_law

NAMES = ["segment-tree", "entropy-tree", "lookahead-tree", "semantic-tree"]
Group = tuple[str, ...]


def group_law(method, table: dict, n: int) -> dict[Group, float]:
    """The exact law of a run's answers, in no order."""

    async def group(rng) -> Group:
        result = await method.run(PROMPT, FakeModel(table), None, Budget(generations=n), rng)
        return tuple(sorted(c.path.text for c in result.candidates))

    return enumerate_law(group)


def independent(table: dict, n: int) -> dict[Group, float]:
    """The law of n independent samples, in no order."""
    law: Counter = Counter()
    one = path_law(table)
    for group in combinations_with_replacement(sorted(one), n):
        orders = math.factorial(n) / math.prod(map(math.factorial, Counter(group).values()))
        law[group] = orders * math.prod(one[text] for text in group)
    return dict(law)


def rest(table: dict, prefix: tuple) -> dict[tuple, float]:
    """The model's law of finished paths that begin with a prefix."""
    if finished(prefix):
        return {prefix: 1.0}
    law: Counter = Counter()
    for token, p in table[prefix].items():
        for leaf, chance in rest(table, (*prefix, token)).items():
            law[leaf] += p * chance
    return dict(law)


def entropy(table: dict, prefix: tuple) -> float:
    """Of the next token, in nats."""
    return -sum(p * math.log(p) for p in table[prefix].values())


def said(group) -> Group:
    """Texts of finished prefixes, in no order."""
    return tuple(sorted("".join(prefix) for prefix in group))


@pytest.mark.parametrize("name", NAMES)
def test_one_answer_is_one_sample(name):
    """N = 1 leaves nothing to fork: the model's law."""
    assert group_law(METHODS[name](), TREE, 1) == pytest.approx({(t,): p for t, p in path_law(TREE).items()})


@pytest.mark.parametrize(
    "method",
    [
        SegmentTree(trees=2, branching=1),
        EntropyTree(forks=0),
        EntropyTree(branches=0),
        SemanticTree(fresh=1.0),
        LookaheadTree(tau_abs=1.0, tree_tokens=1),
    ],
    ids=str,
)
def test_without_forks_answers_are_independent(method):
    """Nothing shared: the joint law of two answers is that of two samples, greedy rows aside."""
    expected = independent(TREE, 2)
    if isinstance(method, LookaheadTree):  # its first row is greedy: a| then x
        expected = Counter()
        for text, p in path_law(TREE).items():
            expected[tuple(sorted(("a|x", text)))] += p
    assert group_law(method, TREE, 2) == pytest.approx(expected)


def segment_law(table: dict, n: int, b: int) -> dict[Group, float]:
    """The law of the group of a segment tree whose segments are steps, every fallback written out."""
    law: Counter = Counter()

    def level(active: list, counts: list[int], done: list, falls: int, p: float) -> None:
        for families, chance in joint(
            [list(draws(table, x, c)) for x, c in zip(active, counts, strict=True)]
        ):
            grown = [prefix for family in families for prefix in family]
            over = [prefix for prefix in grown if finished(prefix)]
            still = [prefix for prefix in grown if not finished(prefix)]
            ended, q = done + over, p * chance
            spare = n - len(ended)
            if still:
                total = min(spare, b * (len(still) + len(over)))
                share, left = divmod(total, len(still))
                level(still, [share] * (len(still) - left) + [share + 1] * left, ended, falls, q)
            elif spare:
                path = ended[falls % len(ended)]
                for depth in range(len(path)):
                    level([path[:depth]], [min(b, spare)], ended, falls + 1, q / len(path))
            else:
                law[said(ended)] += q

    level([()], [min(b, n)], [], 0, 1.0)
    return dict(law)


@pytest.mark.parametrize(("table", "n", "b"), [(SMALL, 2, 1), (SMALL, 3, 2), (SMALL, 4, 2), (TREE, 3, 2)])
def test_segment_tree_law(table, n, b):
    """Every group with the probability of brute force: forks, early ends, random fallbacks."""
    method = SegmentTree(branching=b)
    assert group_law(method, table, n) == pytest.approx(segment_law(table, n, b))


def fork_at(table: dict, path: tuple) -> int:
    """The most uncertain token of a path but the first, the earliest among equals."""
    return max(range(1, len(path) + 1), key=lambda t: entropy(table, path[:t]))


def entropy_law(table: dict) -> dict[Group, float]:
    """Three answers: a trunk, and two new rests from its most uncertain token."""
    law: Counter = Counter()
    for trunk, p in rest(table, ()).items():
        leaves = rest(table, trunk[: fork_at(table, trunk)])
        for one, q in leaves.items():
            for two, r in leaves.items():
                law[said([trunk, one, two])] += p * q * r
    return dict(law)


def test_entropy_tree_law():
    """A trunk and two rests from its peak, each group with the probability of brute force."""
    assert group_law(EntropyTree(forks=1, spacing=1), TREE, 3) == pytest.approx(entropy_law(TREE))


def test_a_fork_one_token_late_is_caught(monkeypatch):
    """Off by one, the token that was uncertain is kept instead of drawn anew."""
    right = entropy_tree.peaks
    monkeypatch.setattr(
        entropy_tree, "peaks", lambda h, m, s: [min(t + 1, len(h) - 1) for t in right(h, m, s)]
    )
    wrong, expected = group_law(EntropyTree(forks=1, spacing=1), TREE, 3), entropy_law(TREE)
    assert max(abs(wrong.get(group, 0) - p) for group, p in expected.items()) > 0.01


def semantic_law(table: dict, n: int, fresh: float) -> dict[Group, float]:
    """Answer by answer: from the prompt, or from the most uncertain token that was not used yet."""
    law: Counter = Counter()

    def turn(leaves: list, used: frozenset, p: float) -> None:
        if len(leaves) == n:
            law[said(leaves)] += p
            return
        spots = [leaf[:t] for leaf in leaves for t in range(1, len(leaf))]
        spots = [s for s in dict.fromkeys(spots) if s not in used and entropy(table, s) > 0]
        coins = [(True, 1.0)] if not leaves else [(True, fresh), (False, 1 - fresh)]
        for coin, q in coins:
            start = () if coin or not spots else max(spots, key=lambda s: entropy(table, s))
            for leaf, r in rest(table, start).items():
                turn([*leaves, leaf], used | ({start} if start else set()), p * q * r)

    turn([], frozenset(), 1.0)
    return {group: p for group, p in law.items() if p}


@pytest.mark.parametrize(("table", "n", "fresh"), [(TREE, 2, 0.5), (TREE, 2, 0.0), (SMALL, 3, 0.25)])
def test_semantic_tree_law(table, n, fresh):
    """With D = 1, each group with the probability of brute force; a fork point is used once."""
    method = SemanticTree(metric="entropy", fresh=fresh)
    assert group_law(method, table, n) == pytest.approx(semantic_law(table, n, fresh))


UNSURE = {
    (): {"a|": 0.8, "x": 0.2},
    ("x",): END,
    ("a|",): {"x": 0.45, "y": 0.55},
    ("a|", "x"): END,
    ("a|", "y"): END,
}


def test_lookahead_tree_law():
    """Two rows: the greedy one, and its rival unless two draws miss it (0.55^2); then a sample."""
    expected: Counter = Counter({("a|x", "a|y"): 1 - 0.55**2})
    for text, p in path_law(UNSURE).items():
        expected[tuple(sorted(("a|y", text)))] += 0.55**2 * p
    assert group_law(LookaheadTree(tries=2, ahead=2), UNSURE, 2) == pytest.approx(dict(expected))
