"""Diffusion trees: the law of a draw, unbiased evidence, convergence, and what a wrong backup does."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from itscale.methods import (
    DiffusionTreeSampling,
    DiffusionTreeSearch,
    diffusion_tree,
)
from itscale.models.fake import FakeModel
from itscale.testing import all_paths, enumerate_expectation
from tests.methods.trees import JUDGEMENTS, PROMPT, SMALL, TREE, finished, law_of, result_of, run

WEIGHT = 2.0


def soft(kids: dict, node: tuple) -> float:
    """v by its definition, from the counts alone."""
    if finished(node):
        return JUDGEMENTS[node]
    total = sum(kids[node].values())
    return math.log(sum(n * math.exp(WEIGHT * soft(kids, k)) for k, n in kids[node].items()) / total) / WEIGHT


def walk(kids: dict, node: tuple) -> dict[tuple, float]:
    """The law of one step down."""
    odds = {k: n * math.exp(WEIGHT * soft(kids, k)) for k, n in kids[node].items()}
    return {k: x / sum(odds.values()) for k, x in odds.items()}


def dts_law(table: dict, n: int, widen: float, alpha: float) -> dict[str, float]:
    """The law of a final draw from the tree, all its growth written out."""
    law: Counter = Counter()

    def end(kids: dict, node: tuple, p: float) -> None:
        if finished(node):
            law["".join(node)] += p
            return
        for kid, chance in walk(kids, node).items():
            end(kids, kid, p * chance)

    def seen(visits: Counter, leaf: tuple) -> Counter:
        return visits + Counter([leaf[:i] for i in range(len(leaf) + 1)])

    def descend(kids: dict, visits: Counter, left: int, node: tuple, p: float) -> None:
        if not left:
            end(kids, (), p)
        elif finished(node):
            descend(kids, seen(visits, node), left, (), p)
        elif sum(kids.get(node, {}).values()) >= math.ceil(widen * max(1, visits[node]) ** alpha):
            for kid, chance in walk(kids, node).items():
                descend(kids, visits, left, kid, p * chance)
        else:
            roll(kids, visits, left, node, node, p)

    def roll(kids: dict, visits: Counter, left: int, start: tuple, node: tuple, p: float) -> None:
        if finished(node):
            grown = {k: Counter(v) for k, v in kids.items()}
            for i in range(len(start), len(node)):
                grown.setdefault(node[:i], Counter())[node[: i + 1]] += 1
            descend(grown, seen(visits, node), left - 1, (), p)
            return
        for token, chance in table[node].items():
            roll(kids, visits, left, start, (*node, token), p * chance)

    descend({}, Counter(), n, (), 1.0)
    return dict(law)


@pytest.mark.parametrize(("n", "widen", "alpha"), [(2, 2.0, 0.8), (2, 1.0, 0.5), (3, 1.0, 0.5)])
def test_dts_law(n, widen, alpha):
    """Every answer with the probability of brute force: walks, widening, rollouts, soft backups."""
    method = DiffusionTreeSampling(reward_weight=WEIGHT, widen=widen, alpha=alpha, choose="sample")
    table = TREE if n == 2 else SMALL
    assert law_of(method, table, n) == pytest.approx(dts_law(table, n, widen, alpha))


def star_law(table: dict, n: int, widen: float, alpha: float, c: float) -> dict[str, float]:
    """The law of the best leaf of DTS*: walks by upper bounds, all rollouts written out."""
    law: Counter = Counter()

    def full(kids: dict, visits: Counter, node: tuple) -> bool:
        wanted = math.ceil(widen * max(1, visits[node]) ** alpha)
        drawn = sum(kids.get(node, {}).values())
        return drawn > 0 and drawn >= (wanted if node else min(wanted, n))

    def search(kids: dict, visits: Counter, leaves: list, left: int, p: float) -> None:
        for _ in range(1000):  # walks to answers that are known only back up
            node = ()
            while full(kids, visits, node):
                up = math.log(visits[node])
                node = max(kids[node], key=lambda k: soft(kids, k) + c * math.sqrt(up / visits[k]))
            if not left or not finished(node):
                break
            visits = visits + Counter([node[:i] for i in range(len(node) + 1)])
        else:
            left = 0
        if not left:
            law["".join(max(leaves, key=JUDGEMENTS.__getitem__))] += p
            return
        for leaf, chance in rests(node):
            grown = {k: Counter(v) for k, v in kids.items()}
            for i in range(len(node), len(leaf)):
                grown.setdefault(leaf[:i], Counter())[leaf[: i + 1]] += 1
            then = visits + Counter([leaf[:i] for i in range(len(leaf) + 1)])
            search(grown, then, [*leaves, leaf], left - 1, p * chance)

    def rests(node: tuple):
        if finished(node):
            yield node, 1.0
            return
        for token, p in table[node].items():
            for leaf, chance in rests((*node, token)):
                yield leaf, p * chance

    search({}, Counter(), [], n, 1.0)
    return dict(law)


@pytest.mark.parametrize(
    ("n", "widen", "alpha", "c"),
    [(2, 1.0, 0.5, 1.0), (3, 1.0, 0.5, 1.0), (3, 1.0, 0.2, 0.0), (4, 1.0, 0.2, 2.0)],
)
def test_dts_star_law(n, widen, alpha, c):
    """Every best leaf with the probability of brute force: bounds, widening, rollouts, soft backups."""
    method = DiffusionTreeSearch(reward_weight=WEIGHT, widen=widen, alpha=alpha, exploration=c)
    assert law_of(method, TREE, n) == pytest.approx(star_law(TREE, n, widen, alpha, c))


def test_another_bound_is_another_law():
    """Greedy and curious walks give other answers, so the check above can fail."""
    greedy, curious = (star_law(TREE, 4, 1.0, 0.2, c) for c in (0.0, 2.0))
    assert max(abs(greedy.get(text, 0) - curious.get(text, 0)) for text in {*greedy, *curious}) > 1e-3


def evidence(method, n: int) -> float:
    """E[exp(lambda v(root))]."""

    async def estimate(rng) -> float:
        return math.exp((await result_of(method, TREE, n, rng)).log_evidence)

    return float(enumerate_expectation(estimate))


def target() -> dict[str, float]:
    """p exp(lambda r) by brute force."""
    return {
        path.text: p * math.exp(WEIGHT * JUDGEMENTS[tuple(step.text for step in path.steps)])
        for path, p in all_paths(FakeModel(TREE), PROMPT)
    }


def test_dts_evidence_is_unbiased_while_the_root_widens():
    """While every iteration starts at the prompt, E exp(lambda v(root)) is the normalising constant."""
    z = sum(target().values())
    assert evidence(DiffusionTreeSampling(reward_weight=WEIGHT), 2) == pytest.approx(z)


def test_a_sum_instead_of_the_mean_is_caught(monkeypatch):
    """The backup of third-party ports is off by the number of children."""
    mean = diffusion_tree.log_mean_exp
    monkeypatch.setattr(diffusion_tree, "log_mean_exp", lambda v, n, w: mean(v, n, w) + math.log(sum(n)) / w)
    assert evidence(DiffusionTreeSampling(reward_weight=WEIGHT), 2) > 1.5 * sum(target().values())


def test_dts_converges_to_its_target():
    """700 rollouts: the tree's own law is near p exp(lambda r) / Z, its root near log Z / lambda.

    One seed of a process whose distance has mean 0.02: no false alarm unless the random streams change.
    """
    result = run(DiffusionTreeSampling(reward_weight=WEIGHT), n=700, seed=1)
    exact, z = target(), sum(target().values())
    law = Counter()
    for c in result.candidates:
        law[c.path.text] += c.weight
    assert sum(abs(law[text] - p / z) for text, p in exact.items()) / 2 < 0.05
    assert result.log_evidence == pytest.approx(math.log(z), abs=0.05)


def test_log_scale_tilts_by_the_score_itself():
    """scale=log with weight 1: the evidence is the mean score, unbiased at any N."""
    mean = sum(
        p * JUDGEMENTS[tuple(s.text for s in path.steps)] for path, p in all_paths(FakeModel(TREE), PROMPT)
    )
    assert evidence(DiffusionTreeSampling(reward_weight=1.0, scale="log"), 2) == pytest.approx(mean)


def test_a_tree_of_known_answers_ends():
    """A model with one answer: N rollouts at most, then nothing is left to do."""
    table = {(): {"x": 1.0}, ("x",): {"$": 1.0}}
    result = run(DiffusionTreeSearch(iterations=50), table, 4, judge=lambda texts: 0.5)
    assert result.text == "x"
    assert result.usage.model_calls == 4
