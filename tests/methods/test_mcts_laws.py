"""MCTS and AlphaMath's beam: exact laws against brute force, and where visits go."""

from __future__ import annotations

import asyncio
import copy
import itertools
import math
from collections import Counter

import pytest

from itscale.budget import Budget
from itscale.errors import OptionError
from itscale.methods import (
    MCTS,
    Beam,
    StepBeam,
)
from itscale.models.base import Capability
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from tests.methods.trees import (
    JUDGEMENTS,
    PROMPT,
    SMALL,
    TREE,
    best_finished,
    draws,
    finished,
    joint,
    law_of,
    run,
)


class Reference:
    """UCT written out over prefixes: the tree so far, and every way it can go on.

    What a rule or a kind of value changes are `up` and `valued`.
    """

    def __init__(self, table: dict, n: int, width: int, c: float) -> None:
        self.table, self.n, self.width, self.c = table, n, width, c
        self.kids: dict = {}
        self.visits: Counter = Counter()
        self.total: Counter = Counter()
        self.shut: set = set()
        self.ended: list = []

    def leaf(self) -> tuple:
        """Down by the upper bound."""
        node = ()
        while inside := [k for k in self.kids.get(node, ()) if k not in self.shut]:
            node = max(inside, key=lambda k: self.total[k] / self.visits[k] + self.c * self.up(k))
        return node

    def up(self, kid: tuple) -> float:
        """What is added for being little tried, over c."""
        return math.sqrt(math.log(self.visits[kid[:-1]]) / self.visits[kid])

    def valued(self, new: list):
        """Every way to value new children: each one's value, the answers met, the probability."""
        yield {kid: JUDGEMENTS[kid] for kid in new}, list(filter(finished, new)), 1.0

    def grow(self, node: tuple, drawn: list, worth: dict, met: list) -> None:
        """Add children, back up their values, close what has ended."""
        known = self.kids.setdefault(node, [])
        new = [k for k in dict.fromkeys(drawn) if k not in known]
        known += new
        for kid in drawn:
            if not finished(kid) and kid not in self.shut:
                self.shut -= {kid[:i] for i in range(len(kid))}
        self.ended += met
        for kid in new:
            for i in range(len(kid) + 1):
                self.visits[kid[:i]] += 1
                self.total[kid[:i]] += worth[kid]
        for kid in filter(finished, drawn):
            self.shut.add(kid)
        for i in range(len(node), -1, -1):
            if all(k in self.shut for k in self.kids[node[:i]]):
                self.shut.add(node[:i])
            else:
                break

    def law(self, left: int, starts: int = 0) -> Counter:
        """The law of the answer, from here."""
        node = self.leaf()
        room = self.width if node else min(self.width, self.n - starts)
        if not left or room < 1:
            return self.answer()
        law: Counter = Counter()
        for drawn, p in draws(self.table, node, room):
            new = [k for k in dict.fromkeys(drawn) if k not in self.kids.get(node, ())]
            for worth, met, share in self.valued(new):
                then = copy.deepcopy(self)
                then.grow(node, drawn, worth, met)
                for text, chance in then.law(left - 1, starts if node else starts + room).items():
                    law[text] += p * share * chance
        return law

    def answer(self) -> Counter:
        """The best that has finished, unless an open leaf is better: then the law of its rest joins."""
        waiting = [k for k in self.preorder(()) if not self.kids.get(k) and not finished(k)]
        best = max(waiting, key=JUDGEMENTS.__getitem__, default=None)
        top = max(map(JUDGEMENTS.__getitem__, self.ended), default=-1)
        if best is None or JUDGEMENTS[best] <= top:
            return Counter({best_finished(self.ended): 1.0})
        law: Counter = Counter()
        for leaf, p in continuations(self.table, best).items():
            law[best_finished([*self.ended, leaf])] += p
        return law

    def preorder(self, node: tuple):
        """Nodes but the root, parents first."""
        for kid in self.kids.get(node, ()):
            yield kid
            yield from self.preorder(kid)


class PuctReference(Reference):
    """PUCT: the model's own liking of a step, exp of the mean log-probability of its tokens."""

    def up(self, kid: tuple) -> float:
        p = self.table[kid[:-1]][kid[-1]]
        prior = math.sqrt(p) if finished(kid) else p  # two tokens, the end being one, of probability 1
        return prior * math.sqrt(self.visits[kid[:-1]]) / (1 + self.visits[kid])


class RolloutReference(Reference):
    """UCT by the mean score of whole answers sampled from a step, which are candidates too."""

    rollouts = 1

    def valued(self, new: list):
        growing = [kid for kid in new if not finished(kid)]
        own = list(filter(finished, new))
        ways = [list(continuations(self.table, kid).items()) for kid in growing for _ in range(self.rollouts)]
        for leaves in itertools.product(*ways):
            met = [leaf for leaf, _ in leaves]
            worth = {kid: JUDGEMENTS[kid] for kid in own}
            for i, kid in enumerate(growing):
                mine = met[i * self.rollouts : (i + 1) * self.rollouts]
                worth[kid] = sum(JUDGEMENTS[leaf] for leaf in mine) / self.rollouts
            yield worth, [*own, *met], math.prod(p for _, p in leaves)

    def answer(self) -> Counter:
        """The best of all answers met: no open prefix has a judgement of its own."""
        return Counter({best_finished(self.ended): 1.0})


class TwoRollouts(RolloutReference):
    """The mean of two."""

    rollouts = 2


def continuations(table: dict, prefix: tuple) -> dict[tuple, float]:
    """The model's law of finished paths that begin with a prefix."""
    if finished(prefix):
        return {prefix: 1.0}
    law: Counter = Counter()
    for token, p in table[prefix].items():
        for leaf, chance in continuations(table, (*prefix, token)).items():
            law[leaf] += p * chance
    return dict(law)


@pytest.mark.parametrize(("n", "width", "c"), [(2, 1, 1.0), (2, 2, 0.5), (3, 1, 1.0), (3, 2, 0.0)])
def test_uct_law(n, width, c):
    """Every answer with the probability of brute force, reopened roots and merged copies included."""
    expected = Reference(TREE, n, width, c).law(n)
    assert law_of(MCTS(rule="uct", width=width, exploration=c), TREE, n) == pytest.approx(dict(expected))


@pytest.mark.parametrize(("n", "width", "c"), [(2, 2, 1.25), (2, 2, 10.0), (3, 2, 10.0)])
def test_puct_law(n, width, c):
    """The same for PUCT, whose prior is asked of the model."""
    expected = PuctReference(TREE, n, width, c).law(n)
    assert law_of(MCTS(rule="puct", width=width, exploration=c), TREE, n) == pytest.approx(dict(expected))


def test_another_prior_is_another_law():
    """With c = 10 it matters who is likely: the law of UCT differs, and that of a flat prior."""

    class Flat(PuctReference):
        def up(self, kid: tuple) -> float:
            return math.sqrt(self.visits[kid[:-1]]) / (1 + self.visits[kid])

    ours, *others = (kind(TREE, 2, 2, 10.0).law(2) for kind in (PuctReference, Flat, Reference))
    for other in others:
        assert max(abs(ours[text] - other[text]) for text in ours) > 1e-3


@pytest.mark.parametrize(
    ("kind", "n", "width"), [(RolloutReference, 2, 1), (RolloutReference, 2, 2), (TwoRollouts, 2, 1)]
)
def test_law_with_values_of_rollouts(kind, n, width):
    """Values are means of sampled answers, and the answer is the best of all that were met."""
    expected = kind(TREE, n, width, 1.0).law(n)
    method = MCTS(rule="uct", value="rollouts", rollouts=kind.rollouts, width=width, exploration=1.0)
    assert law_of(method, TREE, n) == pytest.approx(dict(expected))


def test_rollouts_that_are_no_candidates_are_another_law():
    """Dropping the answers of rollouts changes what is returned, so the check above can fail."""

    class Dropped(RolloutReference):
        def valued(self, new: list):
            for worth, met, p in super().valued(new):
                yield worth, met[: sum(map(finished, new))] or met, p

    ours, other = (kind(TREE, 2, 2, 1.0).law(2) for kind in (RolloutReference, Dropped))
    assert max(abs(ours[text] - other[text]) for text in ours) > 1e-3


def test_a_bound_without_exploration_is_another_law():
    """Dropping U changes the law on this tree, so the check above can fail."""
    greedy, curious = (Reference(TREE, 3, 2, c).law(3) for c in (0.0, 2.0))
    assert max(abs(greedy[text] - curious[text]) for text in greedy) > 0.01


def endless(prefix):
    """Steps that never end of themselves."""
    return {"a|": 0.5, "b|": 0.5} if len(prefix) < 40 else {"$": 1.0}


def visits_of_arms(method, n=40) -> Counter:
    """How many proposals went below each first step."""
    model = FakeModel(endless, vocabulary=["a|", "b|", "$"])
    scorer = FakeProcessScorer(lambda texts: 0.8 if texts[0] == "a|" else 0.3)
    result = asyncio.run(method.run(PROMPT, model, scorer, Budget(generations=n), 0))
    first = {}
    for event in result.trace.events:
        if type(event).__name__ == "Proposed":
            first[event.path] = first.get(event.parent, event.text)
    return Counter(first.values())


@pytest.mark.parametrize("rule", ["uct", "puct"])
def test_visits_concentrate_on_the_better_arm(rule):
    """Two arms of value 0.8 and 0.3: most simulations go to the first, some to the second."""
    arms = visits_of_arms(MCTS(rule=rule, simulations=100, exploration=0.5))
    assert arms["a|"] > 2 * arms["b|"] > 2


def test_without_exploration_only_the_better_arm_is_followed():
    """c = 0 is greedy: the worse arm is never expanded after its first value."""
    arms = visits_of_arms(MCTS(rule="uct", exploration=0.0, simulations=40))
    assert arms["b|"] <= 4 < arms["a|"]


def test_puct_needs_log_probabilities():
    """Refused before any token; the other rule does without."""
    model = FakeModel(TREE, capabilities=frozenset({Capability.STEPS}))
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)
    with pytest.raises(OptionError, match="needs logprobs"):
        asyncio.run(MCTS().run(PROMPT, model, scorer, Budget(generations=2)))
    assert model.calls == 0
    asyncio.run(MCTS(rule="uct").run(PROMPT, model, scorer, Budget(generations=2)))


def test_rollouts_are_candidates():
    """What a rollout answered is not thrown away: the best of all answers met is returned."""
    result = run(MCTS(value="rollouts", rollouts=2, width=2), n=8, seed=3)
    assert result.usage.discarded_tokens < result.usage.generated_tokens / 2
    assert result.candidates[result.chosen].score == max(c.score for c in result.candidates)
    assert len(result.candidates) >= 8


def test_the_most_visited_way_can_be_the_answer():
    """choose=visits ends at an answer on the way that the search preferred."""
    result = run(MCTS(choose="visits", rule="uct", width=4, simulations=20), n=12)
    assert result.candidates[result.chosen].path.finished


def step_beam_law(table: dict, n: int, width: int) -> dict[str, float]:
    """The law of the best answer; finished ones take their places with them."""
    law: Counter = Counter()

    def level(kept: list, answers: list, places: int, p: float) -> None:
        if not kept:
            law[best_finished(answers)] += p
            return
        for families, chance in joint([list(draws(table, prefix, width)) for prefix in kept]):
            drawn = [prefix for family in families for prefix in dict.fromkeys(family)]
            best = sorted(drawn, key=lambda prefix: -JUDGEMENTS[prefix])[:places]
            ended = list(filter(finished, best))
            level([k for k in best if not finished(k)], answers + ended, places - len(ended), p * chance)

    level([()], [], n // width, 1.0)
    return dict(law)


@pytest.mark.parametrize(("n", "width"), [(2, 1), (2, 2), (4, 2)])
def test_step_beam_law(n, width):
    """Each answer with the probability of brute force."""
    table = TREE if n * width < 6 else SMALL
    assert law_of(StepBeam(width=width), table, n) == pytest.approx(step_beam_law(table, n, width))


def test_places_that_come_back_are_another_law():
    """Plain beam search differs here, so the check above can fail."""
    ours, beam = step_beam_law(TREE, 4, 2), law_of(Beam(width=2), TREE, 2)
    assert max(abs(ours.get(text, 0) - beam.get(text, 0)) for text in {*ours, *beam}) > 0.01
