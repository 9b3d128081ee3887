"""Methods that let a judge compare: exact laws under true, biased, cyclic and speechless judges."""

from __future__ import annotations

import asyncio
import io
import itertools
import math
from collections import Counter

import pytest
from rich.console import Console

from itscale.budget import Budget
from itscale.errors import OptionError, ScorerError
from itscale.events import Compared, Failed
from itscale.explain import explanation
from itscale.methods import BestOfN, Knockout, Listwise, RoundRobin
from itscale.methods.listwise import borda, rotated
from itscale.methods.round_robin import rounds
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeComparisonScorer, FakeOutcomeScorer
from itscale.testing import enumerate_law
from itscale.types import Prompt, StopReason

PROMPT = Prompt.user("choose")
ANSWERS = {"Answer: 1": 0.4, "Answer: 2": 0.3, "Answer: 3": 0.2, "nothing": 0.1}
FLAT = {(): ANSWERS, **{(text,): {"$": 1.0} for text in ANSWERS}}
WORTH = {"Answer: 1": 1, "Answer: 2": 4, "Answer: 3": 3, "nothing": 2}
METHODS = [
    Knockout(contestants="samples"),
    RoundRobin(contestants="samples"),
    Listwise(contestants="samples"),
    Listwise(contestants="samples", group=2),
    Listwise(contestants="samples", group=3, rotations=2),
]


def true_judge(texts):
    """Ranks by worth, equal texts as ties."""
    return [sum(WORTH[other] > WORTH[text] for other in set(texts)) for text in texts]


def first_judge(texts):
    """Likes places, in their order, and does not read."""
    return list(range(len(texts)))


def leaning_judge(texts):
    """Sees only large differences of worth; otherwise what it reads last is best."""
    values = [WORTH[text] + 1.5 * place for place, text in enumerate(texts)]
    return [sum(other > value for other in values) for value in values]


BEATS = {("Answer: 1", "Answer: 2"), ("Answer: 2", "Answer: 3"), ("Answer: 3", "Answer: 1")}


def cyclic_judge(texts):
    """Each of three answers is preferred to the next, and all of them to saying nothing."""
    losses = [
        sum((other, text) in BEATS or (text == "nothing" != other) for other in texts) for text in texts
    ]
    return losses if len(texts) == 2 else [0] * len(texts)


def law_of(method, n, judge):
    """The exact law of the returned text."""

    async def run(rng):
        scorer = FakeComparisonScorer(judge)
        return (await method.run(PROMPT, FakeModel(FLAT), scorer, Budget(generations=n), rng)).text

    return enumerate_law(run)


def by_brute_force(n, pick):
    """The law of `pick` over all ordered n-tuples of answers."""
    law = Counter()
    for drawn in itertools.product(ANSWERS, repeat=n):
        law[pick(drawn)] += math.prod(ANSWERS[text] for text in drawn)
    return dict(law)


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for text, p in expected.items():
        assert got[text] == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_true_judge_makes_it_best_of_n(method, n):
    """P(return y) = F(y)^N - F(y-)^N in the judge's order, the closed form of best-of-n."""
    order = sorted(ANSWERS, key=WORTH.__getitem__)
    below = dict(zip(order, itertools.accumulate([0.0, *(ANSWERS[t] for t in order)]), strict=False))
    assert_same(
        law_of(method, n, true_judge),
        {text: (below[text] + ANSWERS[text]) ** n - below[text] ** n for text in order},
    )


@pytest.mark.parametrize("method", [m for m in METHODS if getattr(m, "rotations", None) is None], ids=str)
def test_a_judge_that_goes_by_place_decides_nothing(method):
    """The swap (or all rotations) turns its verdicts into ties: one draw from the model is the answer."""
    assert_same(law_of(method, 3, first_judge), ANSWERS)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_leaning_judge_in_a_knockout(n):
    """Only a difference of more than the lean survives the swap; brute force over the bracket."""

    def match(first, second):
        return second if WORTH[second] - WORTH[first] > 1.5 else first

    def pick(drawn):
        while len(drawn) > 1:
            drawn = [
                match(*drawn[i : i + 2]) if i + 1 < len(drawn) else drawn[i] for i in range(0, len(drawn), 2)
            ]
        return drawn[0]

    assert_same(law_of(METHODS[0], n, leaning_judge), by_brute_force(n, pick))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_leaning_judge_in_a_league(n):
    """A point for a difference larger than the lean, half a point for any other; ties to the earliest."""

    def pick(drawn):
        def points(i):
            gaps = (WORTH[drawn[i]] - WORTH[other] for j, other in enumerate(drawn) if j != i)
            return sum(1.0 if gap > 1.5 else 0.0 if gap < -1.5 else 0.5 for gap in gaps)

        return drawn[max(range(n), key=lambda i: (points(i), -i))]

    assert_same(law_of(METHODS[1], n, leaning_judge), by_brute_force(n, pick))


def test_a_cycle_of_preferences_ends_in_both():
    """Three answers, each preferred to the next: the league calls it a tie, the knockout a winner."""

    def league(drawn):
        def points(i):
            return sum(
                0.5
                + ((drawn[i], b) in BEATS or b == "nothing" != drawn[i]) / 2
                - ((b, drawn[i]) in BEATS or drawn[i] == "nothing" != b) / 2
                for j, b in enumerate(drawn)
                if j != i
            )

        return drawn[max(range(3), key=lambda i: (points(i), -i))]

    assert_same(law_of(METHODS[1], 3, cyclic_judge), by_brute_force(3, league))
    cycle = run(METHODS[0], cyclic_judge, ["Answer: 1", "Answer: 2", "Answer: 3"])
    assert cycle.text == "Answer: 3"
    assert run(METHODS[1], cyclic_judge, ["Answer: 1", "Answer: 2", "Answer: 3"]).text == "Answer: 1"


def run(method, judge, texts, budget=None, **options):
    """A run whose samples are exactly these texts; a judge given as a scorer is used as it is."""
    from itscale.randomness import Randomness

    class Scripted(Randomness):
        """Stream i of the samples always draws text i."""

        def __init__(self, draw=0, sample=None):
            self.draw, self.sample = draw, sample

        seed = 0

        def choose(self, probabilities):
            if self.sample is None or probabilities[model.vocabulary.index("$")] == 1.0:
                return model.vocabulary.index("$")
            return model.vocabulary.index(texts[self.sample])

        def child(self, *labels):
            return Scripted(0, labels[1] if labels[0] == "sample" else self.sample)

    table = {(): {t: 1 / len(set(texts)) for t in set(texts)}, **{(t,): {"$": 1.0} for t in texts}}
    model = FakeModel(table)
    scorer = judge if isinstance(judge, FakeComparisonScorer) else FakeComparisonScorer(judge, **options)
    limits = budget or Budget(generations=len(texts))
    return asyncio.run(method.run(PROMPT, model, scorer, limits, Scripted()))


FIVE = ["Answer: 1", "Answer: 3", "nothing", "Answer: 2", "Answer: 1"]


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        (Knockout(contestants="samples"), 8),
        (RoundRobin(contestants="samples"), 20),
        (Listwise(contestants="samples"), 5),
        (Listwise(contestants="samples", rotations=2), 2),
        (Knockout(), 4),
        (RoundRobin(), 6),
        (Listwise(), 3),
    ],
    ids=str,
)
def test_what_it_costs(method, calls):
    """Two calls a match, one an order shown; equal answers compete once. Both sides count the same."""
    scorer = FakeComparisonScorer(true_judge)
    result = run(method, scorer, FIVE)
    assert result.text == "Answer: 2"
    assert result.usage.scorer_calls == scorer.calls == calls
    assert result.usage.scorer_tokens == scorer.tokens > 0
    assert sum(isinstance(event, Compared) for event in result.trace.events) == calls


@pytest.mark.parametrize("method", [Knockout(), RoundRobin(), Listwise()], ids=str)
def test_answers_compete_in_the_order_of_their_votes(method):
    """With a judge that likes the last place, and so decides nothing, the answer is the majority's."""
    result = run(
        method, lambda texts: first_judge(texts)[::-1], ["Answer: 3", "Answer: 2", "Answer: 2", "nothing"]
    )
    assert result.answer == "2"


@pytest.mark.parametrize("method", [Knockout(), RoundRobin(), Listwise()], ids=str)
def test_texts_without_an_answer_compete_when_there_is_no_other(method):
    """No answer anywhere: the samples themselves are compared."""
    worth = {"red": 1, "green": 3, "blue": 2}
    result = run(method, lambda texts: [3 - worth[t] for t in texts], ["red", "green", "blue"])
    assert (result.text, result.answer) == ("green", None)


@pytest.mark.parametrize("calls", range(1, 21))
@pytest.mark.parametrize("method", METHODS[:3], ids=str)
def test_a_limit_on_scorer_calls_binds_and_the_best_so_far_is_the_answer(method, calls):
    """Never a call more; what was not played is a tie, so the result is a true contestant's."""
    scorer = FakeComparisonScorer(true_judge)
    result = run(method, scorer, FIVE, Budget(generations=5, scorer_calls=calls))
    assert scorer.calls == result.usage.scorer_calls <= calls
    full = {Knockout: 8, RoundRobin: 20, Listwise: 5}[type(method)]
    assert result.stop_reason is (StopReason.DONE if calls >= full else StopReason.SCORER_CALLS)
    assert result.text in FIVE
    if calls >= full:
        assert result.text == "Answer: 2"


@pytest.mark.parametrize("method", METHODS[:3], ids=str)
def test_a_judge_that_answers_prose_decides_nothing(method):
    """Every comparison failed: the first stands, each failure is in the trace and the usage."""
    result = run(method, lambda texts: None, FIVE)
    assert result.text == FIVE[0]
    failures = [event for event in result.trace.events if isinstance(event, Failed)]
    assert len(failures) == result.usage.failed_calls == result.usage.scorer_calls > 0
    assert "no verdict" in failures[0].error


def test_half_a_swap_is_no_verdict():
    """One order failed: the match is a tie, whatever the other said."""
    result = run(Knockout(), true_judge, ["Answer: 1", "Answer: 2"], fail=lambda call: call == 1)
    assert result.text == "Answer: 1"


@pytest.mark.parametrize("ranks", [[0], [0, 1, 2], [0, -1], [0.0, 1.0], [True, False]], ids=str)
def test_a_judge_that_breaks_its_contract_ends_the_run(ranks):
    """A wrong count or no whole numbers: not a tie, a bug, and said so."""
    with pytest.raises(ScorerError, match=r"ranks"):
        run(Knockout(), lambda texts: ranks, ["Answer: 1", "Answer: 2"])


def test_scorers_of_the_wrong_kind_are_refused_before_any_token():
    """Both ways, each with what would do."""
    model = FakeModel(FLAT)
    one_by_one = FakeOutcomeScorer(len)
    with pytest.raises(OptionError, match=r"compares answers; pass judge:MODEL#mode=compare"):
        asyncio.run(Knockout().run(PROMPT, model, one_by_one))
    with pytest.raises(OptionError, match=r"use knockout, round-robin or listwise"):
        asyncio.run(BestOfN().run(PROMPT, model, FakeComparisonScorer(true_judge)))
    assert model.calls == one_by_one.calls == 0


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: Knockout(contestants="answer"), "did you mean 'answers'"),
        (lambda: Listwise(group=1), "at least 2"),
        (lambda: Listwise(rotations=1), "at least 2"),
    ],
)
def test_impossible_options_are_refused(make, hint):
    """With the fix."""
    with pytest.raises(OptionError, match=hint):
        make()


@pytest.mark.parametrize("n", range(1, 10))
def test_rounds_play_every_pair_once_and_nobody_twice_in_a_round(n):
    """A limit that cuts the league short treats all players alike, up to one match."""
    pairs = rounds(range(n))
    assert sorted(pairs) == list(itertools.combinations(range(n), 2))
    for k in range(len(pairs) + 1):
        played = Counter(itertools.chain.from_iterable(pairs[:k]))
        assert max(played.values(), default=0) - min((played[i] for i in range(n)), default=0) <= 2


def test_borda_points_add_up_whatever_the_ties():
    """In each order the points of m contestants sum to m / 2."""
    for ranks in itertools.product(range(3), repeat=3):
        assert sum(borda([[7, 8, 9]], [ranks]).values()) == pytest.approx(1.5)
    assert borda([[7, 8], [8, 7]], [(0, 1), None]) == {7: 1.0, 8: 0.0}
    assert rotated("abc", None) == [list("abc"), list("bca"), list("cab")]
    assert rotated("a", None) == []


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        (true_judge, "4 comparisons; the swap upset the verdict on 0 of 2 pairs"),
        (first_judge, "4 comparisons; the swap upset the verdict on 2 of 2 pairs"),
    ],
)
def test_an_explanation_says_how_the_judge_held_up(judge, said):
    """How often it compared, and how often it changed its mind with the order."""
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(explanation(run(Knockout(), judge, ["Answer: 1", "Answer: 2", "Answer: 3"])))
    assert said in console.export_text()
