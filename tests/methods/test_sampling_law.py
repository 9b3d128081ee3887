"""The exact laws of the methods that sample whole answers, and beam search, by enumeration."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter

import pytest

from itscale.budget import Budget
from itscale.errors import OptionError
from itscale.methods import Beam, BestOfN, Greedy, Majority, Sample, WeightedBestOfN
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeOutcomeScorer, FakeProcessScorer
from itscale.testing import all_paths, enumerate_law
from itscale.types import Prompt, StopReason

PROMPT = Prompt.user("count")
END = {"$": 1.0}
ANSWERS = {"Answer: 1": 0.4, "Answer: 2": 0.3, "Answer: 3": 0.2, "nothing": 0.1}
FLAT = {(): ANSWERS, **{(text,): END for text in ANSWERS}}
SCORES = {"Answer: 1": 0.3, "Answer: 2": 0.9, "Answer: 3": 0.5, "nothing": 0.7}


def law_of(method, n: int, scorer=None) -> dict[str, float]:
    """The exact law of the returned text."""

    async def run(rng) -> str:
        return (await method.run(PROMPT, FakeModel(FLAT), scorer, Budget(generations=n), rng)).text

    return enumerate_law(run)


def by_brute_force(n: int, pick) -> dict[str, float]:
    """The law of `pick` over all ordered n-tuples of answers."""
    law: Counter[str] = Counter()
    for drawn in itertools.product(ANSWERS, repeat=n):
        law[pick(drawn)] += math.prod(ANSWERS[text] for text in drawn)
    return dict(law)


def assert_same(got: dict[str, float], expected: dict[str, float]) -> None:
    assert got.keys() == expected.keys()
    for text, p in expected.items():
        assert got[text] == pytest.approx(p, abs=1e-12)


def test_sample_has_the_models_law():
    """One sample is one draw from the model."""
    assert_same(law_of(Sample(), 1), ANSWERS)


def test_greedy_draws_nothing():
    """Greedy returns the likeliest answer with probability one."""
    assert_same(law_of(Greedy(), 1), {"Answer: 1": 1.0})


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_majority_law(n):
    """Most votes win, ties go to the earliest, a text without an answer never votes."""

    def pick(drawn):
        votes = Counter(text for text in drawn if text != "nothing")
        return max(votes, key=lambda text: (votes[text], -drawn.index(text))) if votes else drawn[0]

    assert_same(law_of(Majority(), n), by_brute_force(n, pick))


def test_majority_at_two_is_no_better_than_one():
    """With ties to the earliest, two votes decide nothing: the law of N = 2 is that of N = 1."""
    texts = {text: p for text, p in ANSWERS.items() if text != "nothing"}
    scale = sum(texts.values())
    table = {(): {t: p / scale for t, p in texts.items()}, **{(text,): END for text in texts}}

    async def run(rng, n) -> str:
        return (await Majority().run(PROMPT, FakeModel(table), None, Budget(generations=n), rng)).text

    one, two = (enumerate_law(lambda rng, n=n: run(rng, n)) for n in (1, 2))
    assert one == pytest.approx(two)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_best_of_n_law(n):
    """P(return y) = F(y)^N - F(y-)^N, with F the distribution of the score under the model."""
    scorer = FakeOutcomeScorer(lambda text: SCORES[text])
    ordered = sorted(ANSWERS, key=SCORES.__getitem__)
    below, expected = 0.0, {}
    for text in ordered:
        expected[text] = (below + ANSWERS[text]) ** n - below**n
        below += ANSWERS[text]
    assert_same(law_of(BestOfN(), n, scorer), expected)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_weighted_best_of_n_law(n):
    """Scores add up over equal answers."""

    def pick(drawn):
        votes: Counter[str] = Counter()
        for text in drawn:
            if text != "nothing":
                votes[text] += SCORES[text]
        if not votes:
            return drawn[0]
        return max(votes, key=lambda text: (votes[text], -drawn.index(text)))

    scorer = FakeOutcomeScorer(lambda text: SCORES[text])
    assert_same(law_of(WeightedBestOfN(), n, scorer), by_brute_force(n, pick))


def test_constant_scores_make_weighted_best_of_n_a_majority():
    """With equal scores the weighted vote is the plain one; best-of-n returns the first sample."""
    constant = FakeOutcomeScorer(lambda text: 0.5)
    assert_same(law_of(WeightedBestOfN(), 3, constant), law_of(Majority(), 3))
    assert_same(law_of(BestOfN(), 3, constant), ANSWERS)


def test_negative_scores_do_not_vote():
    """A negative score would vote against its own answer; it is refused."""
    with pytest.raises(OptionError, match="at least 0"):
        law_of(WeightedBestOfN(), 2, FakeOutcomeScorer(lambda text: -1.0))


# Two good first steps hide the best answer behind the one that looks worse at first.
TREE = {
    (): {"a|": 0.5, "b|": 0.5},
    ("a|",): {"x": 0.5, "y": 0.5},
    ("b|",): {"x": 0.5, "y": 0.5},
    **{(a, x): END for a in ("a|", "b|") for x in ("x", "y")},
}
STEPS = {
    ("a|",): 0.6,
    ("b|",): 0.4,
    ("a|", "x"): 0.5,
    ("a|", "y"): 0.3,
    ("b|", "x"): 0.9,
    ("b|", "y"): 0.1,
}


def beam_by_brute_force(n: int, width: int, scope: str) -> dict[str, float]:
    """The law of beam search on TREE over all ordered draws, written without itscale."""
    law: Counter[str] = Counter()
    for first in itertools.product(("a|", "b|"), repeat=n):
        p_first = 0.5**n
        families = [first[i : i + width] for i in range(0, n, width)]
        if scope == "parent":
            kept = [max(family, key=lambda a: STEPS[(a,)]) for family in families]
        else:
            kept = sorted(first, key=lambda a: -STEPS[(a,)])[: n // width]
        for second in itertools.product(("x", "y"), repeat=len(kept) * width):
            leaves = [(kept[i // width], leaf) for i, leaf in enumerate(second)]
            best = max(leaves, key=lambda leaf: STEPS[leaf])
            law["".join(best)] += p_first * 0.5 ** len(second)
    return dict(law)


@pytest.mark.parametrize(
    ("n", "width", "scope"), [(2, 2, "global"), (4, 2, "global"), (4, 2, "parent"), (2, 1, "global")]
)
def test_beam_law(n, width, scope):
    """Beam search returns each answer with the probability of brute force, both scopes."""
    scorer = FakeProcessScorer(STEPS.__getitem__)
    method = Beam(width=width, scope=scope)

    async def run(rng) -> str:
        return (await method.run(PROMPT, FakeModel(TREE), scorer, Budget(generations=n), rng)).text

    assert_same(enumerate_law(run), beam_by_brute_force(n, width, scope))


def test_beam_generates_what_it_says():
    """N paths to begin with, then N/width kept and width children each: counted at the model."""
    model, scorer = FakeModel(TREE), FakeProcessScorer(STEPS.__getitem__)
    result = asyncio.run(Beam(width=4).run(PROMPT, model, scorer, Budget(generations=8), 0))
    assert model.tokens_generated == 8 * 1 + 2 * 4 * 2
    assert result.usage.generated_tokens == model.tokens_generated
    assert result.stop_reason is StopReason.DONE


def test_finished_beams_hold_a_slot_or_not():
    """Both readings of the published codes, told apart by an answer that finishes early and scores low."""
    table = {
        (): {"z": 0.5, "a|": 0.5},
        ("z",): END,
        ("a|",): {"x": 1.0},
        ("a|", "x"): END,
    }
    judged = {("z",): 0.8, ("a|",): 0.7, ("a|", "x"): 0.9}
    scorer = FakeProcessScorer(judged.__getitem__)

    def law(hold: bool) -> dict[str, float]:
        async def run(rng) -> str:
            method = Beam(width=2, finished_hold_slot=hold)
            return (await method.run(PROMPT, FakeModel(table), scorer, Budget(generations=2), rng)).text

        return enumerate_law(run)

    # Held: an early "z" (0.8) takes the only place whenever it is drawn. Set aside: "a|" goes on to 0.9.
    assert law(True) == pytest.approx({"z": 0.75, "a|x": 0.25})
    assert law(False) == pytest.approx({"z": 0.25, "a|x": 0.75})


@pytest.mark.parametrize("method", [Majority(), BestOfN(), WeightedBestOfN(), Beam(width=2)])
@pytest.mark.parametrize("tokens", [1, 3, 7])
def test_anytime_under_a_token_limit(method, tokens):
    """A token limit is never overstepped, and what there is so far is returned with the reason."""
    model, scorer = FakeModel(TREE), FakeProcessScorer(STEPS.__getitem__)
    result = asyncio.run(method.run(PROMPT, model, scorer, Budget(generations=4, tokens=tokens), 1))
    assert model.tokens_generated <= tokens
    assert result.usage.generated_tokens == model.tokens_generated
    assert result.stop_reason is StopReason.TOKENS
    assert sum(len(p.token_ids) * pr for p, pr in all_paths(model, PROMPT)) == pytest.approx(3)
