"""The exact laws of the methods that vote and stop, by enumeration against brute force."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from itscale.budget import Budget
from itscale.errors import OptionError
from itscale.methods import (
    AdaptiveConsistency,
    BestOfMajority,
    BestOfN,
    ConfidenceVote,
    Majority,
    ShortMAtK,
    WeightedBestOfN,
)
from itscale.methods.adaptive_consistency import beta_lead, dirichlet_lead
from itscale.models.fake import FakeModel
from itscale.registry import METHODS
from itscale.scorers.fake import FakeComparisonScorer, FakeOutcomeScorer, FakeProcessScorer
from itscale.testing import enumerate_law
from itscale.types import End, Prompt, Step, StopReason

PROMPT = Prompt.user("count")
END = {"$": 1.0}
ANSWERS = {"Answer: 1": 0.4, "Answer: 2": 0.3, "Answer: 3": 0.2, "nothing": 0.1}
FLAT = {(): ANSWERS, **{(text,): END for text in ANSWERS}}
SCORES = {"Answer: 1": 0.3, "Answer: 2": 0.6, "Answer: 3": 0.9, "nothing": 0.95}


def law_of(method, n, scorer=None, read=lambda result: result.text, model=FakeModel):
    """The exact law of what is read off the result."""

    async def run(rng):
        return read(await method.run(PROMPT, model(FLAT), scorer, Budget(generations=n), rng))

    return enumerate_law(run)


def by_brute_force(n, pick):
    """The law of `pick` over all ordered n-tuples of answers."""
    law: Counter = Counter()
    for drawn in itertools.product(ANSWERS, repeat=n):
        law[pick(drawn)] += math.prod(ANSWERS[text] for text in drawn)
    return pytest.approx(dict(law), abs=1e-12)


def voted(drawn):
    """Most votes, ties to the earliest, the first text if nobody votes."""
    votes = Counter(text for text in drawn if text != "nothing")
    return max(votes, key=lambda text: (votes[text], -drawn.index(text))) if votes else drawn[0]


def leader_is_safe(drawn, confidence):
    """The rule of the paper, from the tail of a binomial, on a list of drawn texts."""
    counts = sorted(Counter(text for text in drawn if text != "nothing").values(), reverse=True)
    if not counts:
        return False
    first, second = (*counts, 0)[:2]
    tail = sum(math.comb(first + second + 1, k) for k in range(first + 1))
    return tail / 2 ** (first + second + 1) >= confidence


@pytest.mark.parametrize(("n", "confidence"), [(2, 0.7), (4, 0.8), (5, 0.8)])
def test_adaptive_consistency_law(n, confidence):
    """Text and number of samples have the law of the one-by-one rule, though samples start together."""

    def pick(drawn):
        used = next((k for k in range(1, n) if leader_is_safe(drawn[:k], confidence)), n)
        return voted(drawn[:used]), used

    law = law_of(AdaptiveConsistency(confidence=confidence), n, read=lambda r: (r.text, len(r.candidates)))
    assert law == by_brute_force(n, pick)


def test_adaptive_consistency_wastes_nothing():
    """As many calls as samples looked at, on every outcome."""
    calls = law_of(
        AdaptiveConsistency(confidence=0.8), 4, read=lambda r: r.usage.model_calls - len(r.candidates)
    )
    assert calls == pytest.approx({0: 1.0})


def test_the_extremes_of_adaptive_consistency():
    """At 0 it is one answer, at 1 the plain majority of all N."""
    assert law_of(AdaptiveConsistency(confidence=1), 3) == pytest.approx(law_of(Majority(), 3))
    used = law_of(AdaptiveConsistency(confidence=0), 3, read=lambda r: len(r.candidates))
    assert used == pytest.approx({1: 0.9, 2: 0.09, 3: 0.01})  # samples without an answer are no answer


def test_unanimous_answers_stop_at_four():
    """The pins of the rule: 0.9375 at three, 0.96875 at four; 3 : 1 needs three more."""
    assert [beta_lead(v, 0) for v in (1, 3, 4)] == [Fraction(3, 4), Fraction(15, 16), Fraction(31, 32)]
    assert [AdaptiveConsistency().needed(c, 40) for c in ([], [3], [4], [3, 1])] == [4, 1, 0, 3]
    assert AdaptiveConsistency(confidence=1).needed([30], 40) == 40


@pytest.mark.parametrize("counts", [(0,), (1,), (4,), (9,)])
def test_with_one_answer_seen_both_rules_agree(counts):
    """Dirichlet with one unseen competitor is the Beta rule."""
    assert dirichlet_lead(counts) == pytest.approx(float(beta_lead(counts[0], 0)), abs=1e-9)


def test_the_dirichlet_rule_is_a_probability_of_first_place():
    """By symmetry 1/3 for three equal counts of 0; (3, 1, 0 unseen) by a fine grid of its own."""
    assert dirichlet_lead((0, 0)) == pytest.approx(1 / 3, abs=1e-9)
    grid = (np.arange(2000) + 0.5) / 2000
    p, q = np.meshgrid(grid, grid)
    rest = 1 - p - q
    density = np.where(rest > 0, p**3 * q, 0.0)
    first = (p > q) & (p > rest)
    assert dirichlet_lead((3, 1)) == pytest.approx(density[first].sum() / density.sum(), abs=1e-3)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_early_stop_changes_no_answer(n, share):
    """The law of the answer is that of all N samples, abstentions included."""
    whole, early = (
        law_of(Majority(early_stop=early, abstain_below=share), n, read=lambda r: r.answer)
        for early in (False, True)
    )
    assert early == pytest.approx(whole)
    assert (whole.get(None, 0) > 0.1**n + 1e-9) is (share > 0)


def test_abstention_law():
    """Below the share of all samples, those without an answer included, the answer is None."""

    def pick(drawn):
        winner = voted(drawn)
        return winner[8:] if winner != "nothing" and drawn.count(winner) >= 0.6 * len(drawn) else None

    assert law_of(Majority(abstain_below=0.6), 3, read=lambda r: r.answer) == by_brute_force(3, pick)


def constant(text):
    """A scorer's liking for an answer."""
    return {"Answer: 1": 0.9, "Answer: 2": 0.4, "Answer: 3": 0.1}.get(text, 0.5)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.6, 0.8, 1.0])
@pytest.mark.parametrize(
    "method",
    [Majority, ConfidenceVote, AdaptiveConsistency, ShortMAtK, WeightedBestOfN, BestOfMajority],
)
def test_whoever_votes_can_abstain(method, share):
    """An answer with less than its share of the votes is none; the text and the candidates stay. The
    weights of a scorer's or a confidence's votes are those of all samples, answered or not."""
    scorer, budget = FakeOutcomeScorer(constant), Budget(generations=4)
    texts = ["Answer: 1", "Answer: 1", "Answer: 2", "nothing"]
    plain, careful = (
        asyncio.run(method(**options).run(PROMPT, fixed(texts), scorer, budget))
        for options in ({}, {"abstain_below": share})
    )
    backing = {
        Majority: lambda c: 1.0,
        AdaptiveConsistency: lambda c: 1.0,
        ShortMAtK: lambda c: 1.0,
        BestOfMajority: lambda c: c.weight,
    }.get(method, lambda c: c.score)
    votes = math.fsum(backing(c) for c in plain.candidates if c.answer == "1")
    total = 1.0 if method is BestOfMajority else math.fsum(backing(c) for c in plain.candidates)
    assert plain.answer == "1"
    assert not plain.abstained
    assert careful.abstained is (votes / total < share)
    assert careful.answer == (None if careful.abstained else "1")
    assert (careful.text, careful.chosen) == (plain.text, plain.chosen)


def best_of_majority(drawn, alpha):
    """Of the answers frequent enough the best scored; the most frequent if none is."""
    counts = Counter(text for text in drawn if text != "nothing")
    if not counts:
        return drawn[0]
    frequent = [text for text in counts if counts[text] >= alpha * len(drawn)] or [voted(drawn)]
    return max(frequent, key=SCORES.__getitem__)


@pytest.mark.parametrize("alpha", [0, 0.4, 0.9])
def test_best_of_majority_law(alpha):
    """Frequency first, then reward, by brute force."""
    scorer = FakeOutcomeScorer(lambda text: SCORES[text])
    law = law_of(BestOfMajority(alpha=alpha), 4, scorer)
    assert law == by_brute_force(4, lambda drawn: best_of_majority(drawn, alpha))


def test_the_limits_of_best_of_majority():
    """alpha = 0 is best-of-n where all texts have answers; alpha just under the top share is majority."""
    texts = {text: p / 0.9 for text, p in ANSWERS.items() if text != "nothing"}
    table = {(): texts, **{(text,): END for text in texts}}
    scorer = FakeOutcomeScorer(lambda text: SCORES[text])
    assert law_of(BestOfMajority(alpha=0), 3, scorer, model=lambda _: FakeModel(table)) == pytest.approx(
        law_of(BestOfN(), 3, scorer, model=lambda _: FakeModel(table))
    )
    assert law_of(BestOfMajority(alpha=1), 3, scorer, read=lambda r: r.answer) == pytest.approx(
        law_of(Majority(), 3, read=lambda r: r.answer)
    )


def fixed(texts):
    """A model whose i-th call says the i-th text."""

    class InTurn(FakeModel):
        async def extend(self, path, n, until, sampling, rng, ledger):
            text = texts[self.calls]
            self.calls += 1
            law = {(): {text: 1.0}, (text,): END}
            return await FakeModel(law).extend(path, n, until, sampling, rng, ledger)

    return InTurn({(): END})


@pytest.mark.parametrize(
    ("alpha", "ranked"), [(0.0, ["c", "b", "a"]), (0.2, ["b", "a"]), (0.5, ["a"]), (0.9, ["a"])]
)
def test_best_of_majority_ranks_what_is_frequent(alpha, ranked):
    """Five a, three b, one c, rewards .2, .6, .99: the candidates are the ranking; only they are judged."""
    texts = [f"Answer: {letter}" for letter in "aaaaabbbc"]
    rewards = {"Answer: a": 0.2, "Answer: b": 0.6, "Answer: c": 0.99}
    scorer = FakeOutcomeScorer(lambda text: rewards[text])
    budget = Budget(generations=9)
    result = asyncio.run(BestOfMajority(alpha=alpha).run(PROMPT, fixed(texts), scorer, budget))
    assert [c.answer for c in result.candidates] == ranked
    assert result.answer == ranked[0]
    assert result.usage.scorer_calls == sum(texts.count(f"Answer: {letter}") for letter in ranked)
    two = BestOfMajority(alpha=alpha, k=1, reward="first")
    assert asyncio.run(two.run(PROMPT, fixed(texts), scorer, budget)).usage.scorer_calls == len(ranked)


def test_more_answers_than_samples_are_refused():
    """k above N is an error that says so, before any sample."""
    model = FakeModel(FLAT)
    with pytest.raises(OptionError, match="more than the 2 samples"):
        asyncio.run(BestOfMajority(k=3).run(PROMPT, model, FakeOutcomeScorer(len), Budget(generations=2)))
    assert model.calls == 0


def test_confidence_vote_law():
    """Weights are the geometric mean of the token probabilities, here the root of p(text) * 1."""

    def pick(drawn):
        votes: Counter = Counter()
        for text in drawn:
            if text != "nothing":
                votes[text] += math.sqrt(ANSWERS[text])
        if not votes:
            return drawn[0]
        return max(votes, key=lambda text: (round(votes[text], 12), -drawn.index(text)))

    assert law_of(ConfidenceVote(), 4) == by_brute_force(4, pick)


def test_only_the_most_confident_vote():
    """keep = 0.3 of three answers is one: the most likely text drawn wins."""

    def pick(drawn):
        answered = [text for text in drawn if text != "nothing"] or drawn
        return max(answered, key=ANSWERS.__getitem__)

    assert law_of(ConfidenceVote(keep=0.3), 3) == by_brute_force(3, pick)


def test_the_lowest_step_decides():
    """A sure end does not make up for an unsure step; the whole answer's mean would prefer it."""
    table = {
        (): {"a|": 0.9, "b|": 0.1},
        ("a|",): {"Answer: 1": 0.5, "Answer: 3": 0.5},
        ("b|",): {"Answer: 2": 1.0},
        **dict.fromkeys(itertools.product(("a|", "b|"), ("Answer: 1", "Answer: 2", "Answer: 3")), END),
    }

    async def scores(confidence):
        method = ConfidenceVote(confidence=confidence)
        result = await method.run(PROMPT, FakeModel(table), None, Budget(generations=40), 0)
        return {c.path.text: c.score for c in result.candidates}

    assert asyncio.run(scores("mean"))["b|Answer: 2"] == pytest.approx(0.1 ** (1 / 3))
    assert asyncio.run(scores("last"))["b|Answer: 2"] == pytest.approx(1.0)
    assert asyncio.run(scores("lowest"))["b|Answer: 2"] == pytest.approx(0.1)
    assert asyncio.run(scores("lowest"))["a|Answer: 1"] == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("confidence", ["mean", "last", "lowest"])
def test_confidence_of_a_server_that_counts_tokens_without_their_ids(confidence):
    """What it tells of probabilities is used, and the empty step it may end with says nothing."""

    class Counting(FakeModel):
        async def extend(self, path, n, until, sampling, rng, ledger):
            [whole] = await super().extend(path, n, until, sampling, rng, ledger)
            step = replace(whole.step, token_ids=(), counted=2, end=End.BOUNDARY)
            return [path.child(step).child(Step((), "", End.EOS, 0.0, counted=0))]

    result = asyncio.run(
        ConfidenceVote(confidence=confidence).run(PROMPT, Counting(FLAT), None, Budget(generations=9))
    )
    for candidate in result.candidates:
        assert candidate.score == pytest.approx(math.sqrt(ANSWERS[candidate.path.text]))


def test_a_share_that_is_met_exactly_is_met():
    """7 of 100 are not less than 0.07 of them, nor 55 than 0.55, whatever floating point makes of it."""
    texts = ["Answer: a"] * 55 + ["Answer: b"] * 7 + ["nothing"] * 38
    budget, scorer = Budget(generations=100), FakeOutcomeScorer(lambda text: "b" in text)
    assert 0.55 * 100 > 55
    assert 0.07 * 100 > 7
    assert asyncio.run(Majority(abstain_below=0.55).run(PROMPT, fixed(texts), None, budget)).answer == "a"
    assert asyncio.run(BestOfMajority(alpha=0.07).run(PROMPT, fixed(texts), scorer, budget)).answer == "b"


@pytest.mark.parametrize("n", [2, 3])
def test_short_m_at_k_without_latency_is_the_first_m(n):
    """When all arrive together the order is that of the seeds; equal lengths leave ties to the earliest."""
    assert law_of(ShortMAtK(m=2), n) == by_brute_force(n, lambda drawn: voted(drawn[:2]))


def test_short_m_at_k_breaks_ties_by_length_not_by_arrival():
    """Both at once, the long one first: the tie goes to the short chain, so only two long ones lose it."""
    table = {
        (): {"x": 0.5, "\nAnswer: 1": 0.5},
        ("x",): {"\nAnswer: 2": 1.0},
        ("\nAnswer: 1",): END,
        ("x", "\nAnswer: 2"): END,
    }
    law = law_of(ShortMAtK(m=2), 2, read=lambda r: r.answer, model=lambda _: FakeModel(table))
    assert law == pytest.approx({"1": 0.75, "2": 0.25})


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        (lambda: BestOfMajority(alpha=1.1), "alpha"),
        (lambda: BestOfMajority(k=0), "k is 0"),
        (lambda: BestOfMajority(reward="maen"), "did you mean 'mean'"),
        (lambda: ConfidenceVote(confidence="lowst"), "did you mean 'lowest'"),
        (lambda: ConfidenceVote(keep=0), "keep"),
        (lambda: AdaptiveConsistency(confidence=1.5), "confidence"),
        (lambda: AdaptiveConsistency(rule="betta"), "did you mean 'beta'"),
        (lambda: ShortMAtK(m=0), "m is 0"),
        (lambda: Majority(abstain_below=-0.1), "abstain_below"),
        (lambda: Majority(answers="numbr"), "did you mean 'number'"),
    ],
)
def test_impossible_options_are_refused(method, problem):
    """With what would do instead."""
    with pytest.raises(OptionError, match=problem):
        method()


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, method in METHODS.items()
        if "answers" in method.__dataclass_fields__
        and method.scorer_kind in ("none", "any", "process")
        # Those that force text or read a file have tests of their own, with a model that can say it.
        and not {"exit", "question", "calibration"} & method.__dataclass_fields__.keys()
    ],
)
def test_every_method_over_whole_answers_honours_the_kind(name):
    """The text is an answer to kind `number` and none to `auto`; the result knows how it was read."""
    table = {(): {"#### 7": 0.5, "#### 7.0": 0.5}, ("#### 7",): END, ("#### 7.0",): END}
    method = METHODS[name]
    scorer = (
        FakeComparisonScorer(lambda texts: range(len(texts)))
        if method.scorer_kind == "comparison"
        else FakeProcessScorer(lambda steps: 0.5)
    )
    for kind, answer in (("number", {"7", "7.0"}), ("auto", {None})):
        run = method(answers=kind).run(PROMPT, FakeModel(table), scorer, Budget(generations=4), 1)
        result = asyncio.run(run)
        assert result.answer in answer
        assert result.answer_kind.name == kind


@pytest.mark.parametrize(
    "method",
    [Majority(early_stop=True), AdaptiveConsistency(), ShortMAtK(m=1), ConfidenceVote(), BestOfMajority()],
)
@pytest.mark.parametrize("tokens", [1, 3])
def test_anytime_under_a_token_limit(method, tokens):
    """A token limit is never overstepped, and what there is so far is returned with the reason."""
    model = FakeModel({(): {"x": 1.0}, ("x",): {"y": 1.0}, ("x", "y"): END})
    budget = Budget(generations=4, tokens=tokens)
    result = asyncio.run(method.run(PROMPT, model, FakeOutcomeScorer(len), budget, 1))
    assert model.tokens_generated <= tokens
    assert result.usage.generated_tokens == model.tokens_generated
    if tokens == 1:
        assert result.stop_reason is StopReason.TOKENS
