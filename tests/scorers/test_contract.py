"""The scorer seam: the right count, no NaN, the open interval; and the fakes keep it."""

from __future__ import annotations

import asyncio
import math

import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import ScorerError
from itscale.scorers.base import AGGREGATIONS, OutcomeScorer, ProcessScorer, checked_scores
from itscale.scorers.fake import FakeOutcomeScorer, FakeProcessScorer
from itscale.types import End, Path, Prompt, Step

TWO_STEPS = (
    Path.root(Prompt.user("q")).child(Step((0, 1), "a|", End.BOUNDARY)).child(Step((2,), "b", End.EOS))
)


class Says(ProcessScorer):
    """A process scorer that returns what it was built with."""

    name = "says"

    def __init__(self, *scores):
        self.scores = scores

    async def score(self, path, ledger):
        return self.scores


class SaysOne(OutcomeScorer):
    """An outcome scorer that returns what it was built with."""

    name = "says-one"

    def __init__(self, value):
        self.value = value

    async def score(self, path, ledger):
        return self.value


def checked(scorer):
    """What `scorer` says of the two-step path, held against the contract."""
    return checked_scores(scorer, TWO_STEPS, asyncio.run(scorer.score(TWO_STEPS, Ledger(Budget()))))


@pytest.mark.parametrize("scores", [(), (0.5,), (0.5, 0.5, 0.5)], ids=len)
def test_a_wrong_count_is_an_error(scores):
    """A score too few or too many would be credited to the wrong step."""
    with pytest.raises(ScorerError, match=f"gave {len(scores)} scores for 2 steps"):
        checked(Says(*scores))


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, math.inf, -math.inf])
def test_a_process_score_outside_the_open_interval_is_an_error(value):
    """0 and 1 included: their odds and logarithms are infinite. The message names the way out."""
    with pytest.raises(ScorerError, match="apply a sigmoid"):
        checked(Says(0.5, value))


@pytest.mark.parametrize("scorer", [Says(0.5, math.nan), SaysOne(math.nan)], ids=["process", "outcome"])
def test_nan_is_an_error(scorer):
    """It would win or lose every comparison without a word."""
    with pytest.raises(ScorerError, match="NaN"):
        checked(scorer)


def test_good_scores_pass_as_plain_floats():
    """Whatever number type came, on any scale for outcome scorers."""
    import numpy as np

    scores = checked(Says(np.float32(0.25), 1e-9))
    assert scores == (0.25, 1e-9)
    assert {type(s) for s in scores} == {float}
    assert checked(SaysOne(-12)) == (-12.0,)


@pytest.mark.parametrize(
    ("name", "expected"), [("last", 0.5), ("min", 0.2), ("mean", 0.5), ("product", 0.08)], ids=str
)
def test_aggregations(name, expected):
    """Step scores to one number, as named."""
    assert AGGREGATIONS[name]([0.8, 0.2, 0.5]) == pytest.approx(expected)
    assert AGGREGATIONS[name]([0.3]) == pytest.approx(0.3)


def test_the_fake_process_scorer_sees_prefixes():
    """One judgement for each step, of the steps up to it; charged and counted on both sides."""
    seen, ledger = [], Ledger(Budget())
    scorer = FakeProcessScorer(lambda texts: seen.append(texts) or 0.1 * len(texts))
    assert asyncio.run(scorer.score(TWO_STEPS, ledger)) == pytest.approx([0.1, 0.2])
    assert seen == [("a|",), ("a|", "b")]
    assert (scorer.calls, scorer.tokens, ledger.scorer_tokens) == (1, 3, 3)


def test_the_fake_outcome_scorer_sees_the_text():
    """Any scale."""
    assert asyncio.run(FakeOutcomeScorer(len).score(TWO_STEPS, Ledger(Budget()))) == 3


@pytest.mark.parametrize("kind", [FakeProcessScorer, FakeOutcomeScorer])
def test_fakes_fail_when_told(kind):
    """The second call of three, and only it; a failed call judged nothing."""
    scorer, ledger = kind(lambda seen: 0.5, fail=lambda call: call == 1), Ledger(Budget())
    asyncio.run(scorer.score(TWO_STEPS, ledger))
    with pytest.raises(ScorerError, match="call 1 failed"):
        asyncio.run(scorer.score(TWO_STEPS, ledger))
    asyncio.run(scorer.score(TWO_STEPS, ledger))
    assert (scorer.calls, scorer.tokens, ledger.scorer_tokens) == (3, 6, 6)
