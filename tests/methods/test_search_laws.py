"""DVTS, lookahead, REBASE, best-first and A*: their laws and optima against brute force."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from itertools import pairwise

import pytest

from itscale.budget import Budget
from itscale.errors import OptionError
from itscale.events import Proposed
from itscale.methods import (
    DVTS,
    AStar,
    Beam,
    BestFirst,
    BestOfN,
    Lookahead,
    Rebase,
    a_star,
)
from itscale.methods.best_first import Frontier
from itscale.methods.rebase import shares
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import enumerate_law
from itscale.types import Path, StopReason
from tests.methods.trees import (
    END,
    JUDGEMENTS,
    PROMPT,
    SMALL,
    TREE,
    best_finished,
    draws,
    finished,
    joint,
    law_of,
    path_law,
)


def run(method, table=TREE, n=4, seed=0, judge=JUDGEMENTS.__getitem__, **budget):
    """A run to its end, and the model it ran on."""
    model, scorer = FakeModel(table), FakeProcessScorer(judge)
    budget = Budget(generations=n, **budget)
    return asyncio.run(method.run(PROMPT, model, scorer, budget, seed)), model


@pytest.mark.parametrize(
    "method", [DVTS(width=1), Lookahead(width=1, k=1), Rebase(), BestFirst(width=1), AStar(width=1)]
)
def test_with_one_path_all_are_plain_sampling(method):
    """N = 1 leaves nothing to choose: the law of the answer is the model's."""
    assert law_of(method, TREE, 1) == pytest.approx(path_law(TREE))


# --- DVTS -------------------------------------------------------------------------------------


def tree_law(table: dict, width: int) -> Counter:
    """The law of one greedy tree's last family."""
    law: Counter = Counter()

    def grow(family: list, p: float) -> None:
        head = max(family, key=JUDGEMENTS.__getitem__)
        if finished(head):
            law[tuple(family)] += p
            return
        for children, chance in draws(table, head, width):
            grow(children, p * chance)

    for children, chance in draws(table, (), width):
        grow(children, chance)
    return law


@pytest.mark.parametrize(("n", "width"), [(2, 2), (3, 2), (4, 2), (2, 1)])
def test_dvts_law(n, width):
    """N / width independent trees; of all their last children the best finished one."""
    expected: Counter = Counter()
    trees = [[([family], p) for family, p in tree_law(table=SMALL, width=width).items()]] * (n // width)
    for families, p in joint(trees):
        expected[best_finished([prefix for [family] in families for prefix in family])] += p
    assert law_of(DVTS(width=width), SMALL, n) == pytest.approx(dict(expected))


def test_dvts_law_over_three_steps():
    """One tree on the deeper example, whose best first step does not lead to the best answer."""
    expected: Counter = Counter()
    for family, p in tree_law(TREE, 2).items():
        expected[best_finished(list(family))] += p
    assert law_of(DVTS(width=2), TREE, 2) == pytest.approx(dict(expected))


def test_dvts_of_width_one_is_best_of_n():
    """Trees without branches are independent samples, of which the best is returned."""
    assert law_of(DVTS(width=1), TREE, 2) == pytest.approx(law_of(BestOfN(), TREE, 2))


def test_dvts_spends_nothing_on_trees_that_ended():
    """Width children a living tree a round, counted at the model; N candidates at the end."""
    table = {(): {"x": 0.5, "a|": 0.5}, ("x",): END, ("a|",): {"y": 1.0}, ("a|", "y"): END}
    judged = {("x",): 0.9, ("a|",): 0.5, ("a|", "y"): 0.8}.__getitem__
    result, model = run(DVTS(width=2), table, 8, 4, judged)
    families = [[c.path for c in result.candidates[i : i + 2]] for i in range(0, 8, 2)]
    went_on = sum(family[0].depth == 2 for family in families)
    first_tokens = sum(2 if c.path.text == "x" else 1 for c in result.candidates if c.path.depth == 1)
    assert 0 < went_on < 4
    assert model.tokens_generated == first_tokens + went_on * (2 * 1 + 2 * 2)
    assert len(result.candidates) == 8


# --- lookahead --------------------------------------------------------------------------------


def foreseen(table: dict, prefix: tuple, k: int) -> float:
    """The judgement k likeliest steps further; ties go to the token that sorts first."""
    for _ in range(k):
        if finished(prefix):
            break
        row = table[prefix]
        prefix = (*prefix, max(sorted(row), key=row.__getitem__))
    return JUDGEMENTS[prefix]


def lookahead_law(table: dict, n: int, width: int, k: int) -> dict[str, float]:
    """The law of beam search by foreseen values."""
    law: Counter = Counter()

    def grow(grown: list, p: float) -> None:
        beams = sorted(grown, key=lambda prefix: -foreseen(table, prefix, k))[: n // width]
        if all(map(finished, beams)):
            law[best_finished(beams)] += p
            return
        for families, chance in joint([list(draws(table, beam, width)) for beam in beams]):
            grow([prefix for family in families for prefix in family], p * chance)

    for children, chance in draws(table, (), n):
        grow(children, chance)
    return dict(law)


@pytest.mark.parametrize(
    ("table", "n", "width", "k"), [(TREE, 2, 2, 1), (TREE, 2, 2, 2), (SMALL, 4, 2, 1), (TREE, 2, 1, 1)]
)
def test_lookahead_law(table, n, width, k):
    """Steps are kept by the score at the end of their greedy rollout; rollouts are dropped."""
    assert law_of(Lookahead(width=width, k=k), table, n) == pytest.approx(lookahead_law(table, n, width, k))


def test_looking_ahead_changes_the_law():
    """On this tree the first step's own score misleads, so the checks above can fail."""
    near, far = (lookahead_law(TREE, 2, 2, k) for k in (0, 1))
    assert max(abs(near[text] - far[text]) for text in near) > 0.05


@pytest.mark.parametrize("seed", range(5))
def test_lookahead_of_no_steps_is_beam_search(seed):
    """Same seed, same beams, same scores."""
    ours, _ = run(Lookahead(k=0, width=2), n=6, seed=seed)
    beam, _ = run(Beam(width=2), n=6, seed=seed)
    assert [(c.path.text, c.step_scores) for c in ours.candidates] == [
        (c.path.text, c.step_scores) for c in beam.candidates
    ]


def test_rollouts_are_paid_for_and_discarded():
    """Three steps of 1, 1 and 2 tokens, each rolled out one step: 4 tokens kept, 3 discarded."""
    table = {(): {"1|": 1.0}, ("1|",): {"2|": 1.0}, ("1|", "2|"): {"3": 1.0}, ("1|", "2|", "3"): END}
    result, model = run(Lookahead(k=1), table, 1, judge=lambda texts: 0.5)
    assert result.usage.generated_tokens == model.tokens_generated == 4 + 1 + 2
    assert result.usage.discarded_tokens == 3
    assert result.usage.scorer_calls == 3


# --- REBASE -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "width", "tau", "expected"),
    [
        ([0.9, 0.8, 0.5, 0.1], 16, 0.2, [10, 5, 1, 0]),
        ([0.1, 0.5, 0.8, 0.9], 16, 0.2, [0, 1, 5, 10]),
        ([0.9, 0.8, 0.5, 0.1], 16, 1e12, [4, 4, 4, 4]),
        ([0.9, 0.8, 0.5, 0.1], 16, 1e-9, [16, 0, 0, 0]),
        ([0.5, 0.5, 0.5], 3, 0.2, [1, 1, 1]),
        ([0.5], 0, 0.2, [0]),
    ],
)
def test_shares_of_a_level(scores, width, tau, expected):
    """The published numbers, any order, and both limits of the temperature."""
    assert shares(scores, width, tau) == expected


def rebase_law(table: dict, n: int, tau: float) -> dict[str, float]:
    """The law of the best finished path, levels written out."""
    law: Counter = Counter()

    def level(nodes: list, counts: list[int], done: list, p: float) -> None:
        for families, chance in joint([list(draws(table, x, c)) for x, c in zip(nodes, counts, strict=True)]):
            grown = [prefix for family in families for prefix in family]
            ended = [*done, *filter(finished, grown)]
            still = [prefix for prefix in grown if not finished(prefix)]
            if not still:
                law[best_finished(ended)] += p * chance
                continue
            order = sorted(range(len(still)), key=lambda j: -JUDGEMENTS[still[j]])
            odds = [math.exp(JUDGEMENTS[prefix] / tau) for prefix in still]
            left, wanted = n - len(ended), [0] * len(still)
            for rank, j in enumerate(order):
                wanted[j] = math.ceil(left * odds[j] / sum(odds[i] for i in order[rank:]) - 1e-9)
                left -= wanted[j]
            kept = [j for j in range(len(still)) if wanted[j]]
            level([still[j] for j in kept], [wanted[j] for j in kept], ended, p * chance)

    level([()], [n], [], 1.0)
    return dict(law)


@pytest.mark.parametrize(("table", "n", "tau"), [(TREE, 2, 0.2), (TREE, 2, 100.0), (SMALL, 3, 0.5)])
def test_rebase_law(table, n, tau):
    """Each answer with the probability of brute force; finished paths give up their share."""
    assert law_of(Rebase(tau=tau, choose="argmax"), table, n) == pytest.approx(rebase_law(table, n, tau))


def test_even_scores_make_rebase_independent_sampling():
    """Constant scores leave every path its one child: N answers, none discarded."""
    result, model = run(Rebase(), n=6, judge=lambda texts: 0.5)
    assert len(result.candidates) == 6
    assert all(c.path.finished for c in result.candidates)
    assert result.usage.discarded_tokens == 0
    assert model.tokens_generated == sum(c.path.n_tokens for c in result.candidates)


def test_rebase_votes_by_score():
    """Three answers of 0.4 outvote one of 0.9; the best-scored one alone wins by argmax."""
    table = {(): {"answer: 1": 0.75, "answer: 2": 0.25}, ("answer: 1",): END, ("answer: 2",): END}

    def judge(texts) -> float:
        return 0.4 if texts[0] == "answer: 1" else 0.9

    vote, _ = run(Rebase(), table, 16, 4, judge)
    argmax, _ = run(Rebase(choose="argmax"), table, 16, 4, judge)
    assert sum(c.answer == "1" for c in vote.candidates) > 10
    assert (vote.answer, argmax.answer) == ("1", "2")


# --- best-first and A* ------------------------------------------------------------------------


def total_cost(prefix: tuple) -> float:
    """h_0 plus every rise of 1 - r on the way, h_0 = 0."""
    doubts = [0.0] + [1 - JUDGEMENTS[prefix[: i + 1]] for i in range(len(prefix))]
    return sum(max(0.0, after - before) for before, after in pairwise(doubts))


COSTS = {"a-star": total_cost, "best-first": lambda prefix: -JUDGEMENTS[prefix]}


def generated(result) -> tuple[set, set]:
    """All prefixes that were proposed, and those of them that were expanded."""
    prefixes: dict[int, tuple] = {0: ()}
    expanded = set()
    for event in result.trace.events:
        if isinstance(event, Proposed):
            prefixes[event.path] = (*prefixes[event.parent], event.text)
            expanded.add(event.parent)
    return set(prefixes.values()) - {()}, {prefixes[number] for number in expanded}


@pytest.mark.parametrize("method", [BestFirst(width=2), AStar(width=2)])
def test_the_first_finished_path_popped_is_optimal(method):
    """In every possible run: no finished path is better, no open path left behind could be."""
    cost = COSTS[method.name]
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)

    async def violations(rng) -> int:
        result = await method.run(PROMPT, FakeModel(TREE), scorer, Budget(generations=2), rng)
        prefixes, expanded = generated(result)
        mine = cost(tuple(step.text for step in result.candidates[result.chosen].path.steps))
        assert result.candidates[result.chosen].path.finished
        # Copies of an expanded prefix may still wait: they could lead no lower than it.
        return sum(cost(prefix) < mine - 1e-12 for prefix in prefixes - expanded)

    assert enumerate_law(violations) == pytest.approx({0: 1.0})


def test_a_star_finds_the_least_cost_of_the_whole_tree():
    """With all children generated (40 draws miss one with probability 0.7^40) it is brute force."""
    for seed in range(3):
        result, _ = run(AStar(width=40), n=40, seed=seed)
        best = min((p for p in JUDGEMENTS if finished(p)), key=total_cost)
        assert result.text == "".join(best)
        assert generated(result)[0] < set(JUDGEMENTS), "nothing was saved: every path was expanded"


def test_the_other_sign_of_the_cost_is_caught(monkeypatch):
    """A cost that pays for rising doubt counts it twice and can fall along a path: no optimum."""
    table = {(): {"p|": 0.5, "q|": 0.5}, ("p|",): {"x": 1.0}, ("q|",): {"x": 1.0}}
    table |= {("p|", "x"): END, ("q|", "x"): END}
    judged = {("p|",): 0.5, ("q|",): 0.6, ("p|", "x"): 0.99, ("q|", "x"): 0.5}

    def least(name: str) -> bool:
        costs = {p: a_star.total_cost((judged[(p,)], judged[(p, "x")])) for p in ("p|", "q|")}
        return costs[name] == min(costs.values())

    def answers() -> list[str]:
        return [
            run(AStar(width=1), table, 8, seed, judged.__getitem__)[0].candidates[0].path.steps[0].text
            for seed in range(4)
        ]

    assert all(map(least, answers()))
    monkeypatch.setattr(a_star, "step_cost", lambda before, after: max(0.0, before - after))
    assert not all(map(least, answers()))


def test_ties_go_to_the_deeper_path_then_to_the_earlier():
    """With equal costs the search goes on with what it has instead of starting over."""
    root = Path.root(PROMPT)
    paths = [root, Path(PROMPT, root), Path(PROMPT, root)]
    frontier = Frontier(lambda path: 0.0, cap=3)
    assert frontier.push(paths) == []
    assert [frontier.pop() for _ in range(4)] == [paths[1], paths[2], paths[0], None]


def test_the_frontier_keeps_the_cheapest():
    """Beyond the cap the dearest are dropped, and told."""
    root = Path.root(PROMPT)
    paths = [Path(PROMPT, root) for _ in range(4)]
    cost = dict(zip(paths, (3.0, 1.0, 2.0, 0.5), strict=True))
    frontier = Frontier(cost.__getitem__, cap=2)
    assert frontier.push(paths) == [paths[2], paths[0]]
    assert [frontier.pop(), frontier.pop(), len(frontier)] == [paths[3], paths[1], 0]


def test_expansions_that_run_out_end_with_one_path_grown_to_its_end():
    """After one expansion nothing had finished: the best open path goes on without branching."""
    table = {(): {"a|": 1.0}, ("a|",): {"b|": 1.0}, ("a|", "b|"): {"x": 1.0}, ("a|", "b|", "x"): END}
    result, model = run(AStar(max_expansions=1), table, 3, judge=lambda texts: 0.5)
    assert (result.text, result.stop_reason) == ("a|b|x", StopReason.STEPS)
    assert model.tokens_generated == 3 + 1 + 2


@pytest.mark.parametrize("method", [BestFirst(), AStar()])
def test_children_that_say_the_same_are_one_child(method):
    """A certain model makes one path whatever the width: copies are neither judged nor expanded."""
    table = {(): {"a|": 1.0}, ("a|",): {"x": 1.0}, ("a|", "x"): END}
    result, model = run(method, table, 4, judge=lambda texts: 0.5)
    assert [c.path.text for c in result.candidates] == ["a|x"]
    assert result.usage.scorer_calls == 2
    assert (result.usage.generated_tokens, result.usage.discarded_tokens) == (4 * 1 + 4 * 2, 4 * 3 - 3)
    assert model.calls == 2


def test_the_search_ends_as_soon_as_a_finished_path_is_best():
    """A sure answer at the first step costs nothing but the first expansion."""
    result, model = run(BestFirst(), n=4, seed=4, judge=lambda texts: 0.9 if texts[-1] == "x" else 0.1)
    assert result.text == "x"
    assert model.calls == 1


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        (DVTS, {"width": 0}, "width of dvts is 0"),
        (DVTS, {"choose": "votes"}, "did you mean 'vote'"),
        (DVTS, {"aggregate": "lst"}, "did you mean 'last'"),
        (Lookahead, {"k": -1}, "0 .no rollout. or more"),
        (Rebase, {"tau": 0.0}, "above 0"),
        (Rebase, {"max_steps": 0}, "at least 1"),
        (BestFirst, {"frontier_cap": 0}, "frontier_cap of best-first is 0"),
        (AStar, {"max_expansions": 0}, "at least 1"),
    ],
)
def test_impossible_options_are_refused(method, options, says):
    """At construction, with what to do instead."""
    with pytest.raises(OptionError, match=says):
        method(**options)
