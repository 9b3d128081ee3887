"""What every method guided by a process scorer owes: limits, failures, seeds, refusals."""

from __future__ import annotations

import asyncio

import pytest

from itscale.budget import Budget
from itscale.errors import AllFailedError, OptionError
from itscale.models.base import Capability
from itscale.models.fake import FakeModel
from itscale.registry import METHODS
from itscale.scorers.fake import FakeOutcomeScorer, FakeProcessScorer
from itscale.types import StopReason
from tests.methods.trees import JUDGEMENTS, PROMPT, TREE

GUIDED = [name for name, method in METHODS.items() if method.scorer_kind == "process"]
SLOW_TO_END = {"go|": 0.8, "answer: 1": 0.1, "$": 0.1}


def words(prefix):
    """Steps that go on four times in five; an answer is followed by the end."""
    return {"$": 1.0} if prefix and prefix[-1] == "answer: 1" else SLOW_TO_END


def run(name, model, scorer=None, seed=0, **budget):
    """A run to its end."""
    scorer = scorer or FakeProcessScorer(JUDGEMENTS.__getitem__)
    return asyncio.run(METHODS[name]().run(PROMPT, model, scorer, Budget(**budget), seed))


def flat(texts) -> float:
    """A judgement that depends on the number of steps alone."""
    return 1 / (2 + len(texts))


def test_all_of_them_are_here():
    """An empty list would make every other test here pass."""
    assert len(GUIDED) >= 9


@pytest.mark.parametrize("name", GUIDED)
@pytest.mark.parametrize("tokens", [1, 5, 12])
def test_a_token_limit_binds_and_is_never_overstepped(name, tokens):
    """Anytime: the limit is named, the account true, and there is something to return."""
    model = FakeModel(words, vocabulary=[*SLOW_TO_END])
    result = run(name, model, FakeProcessScorer(flat), generations=4, tokens=tokens)
    assert model.tokens_generated == result.usage.generated_tokens <= tokens
    assert result.candidates
    if tokens < 12:
        assert result.stop_reason is StopReason.TOKENS


@pytest.mark.parametrize("name", GUIDED)
def test_a_limit_on_judgements_binds(name):
    """No more paths are judged than allowed, and the limit is the reason told."""
    model, scorer = FakeModel(words, vocabulary=[*SLOW_TO_END]), FakeProcessScorer(flat)
    result = run(name, model, scorer, generations=4, scorer_calls=3)
    assert scorer.calls <= 3
    assert result.stop_reason is StopReason.SCORER_CALLS


@pytest.mark.parametrize("name", GUIDED)
@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_failed_call_costs_one_candidate(name, failing):
    """The run goes on and ends with a finished answer, whichever call fails."""
    reached = 0
    for seed in range(6):
        model = FakeModel(TREE, fail=lambda call: call == failing)
        result = run(name, model, seed=seed, generations=8)
        assert result.usage.failed_calls == (model.calls > failing)
        assert result.candidates[result.chosen].path.finished
        reached += result.usage.failed_calls
    assert reached or failing > 1, "no run was long enough to see the failure"


@pytest.mark.parametrize("name", GUIDED)
def test_all_failed_is_a_clear_error(name):
    """With no path at all the error names the last cause."""
    with pytest.raises(AllFailedError, match="failed as told"):
        run(name, FakeModel(TREE, fail=lambda call: True), generations=4)


@pytest.mark.parametrize("name", GUIDED)
def test_a_scorer_that_never_answers_leaves_answers_unjudged(name):
    """Judgements that fail cost no path: there is an answer, without a score."""
    scorer = FakeProcessScorer(flat, fail=lambda call: True)
    result = run(name, FakeModel(TREE), scorer, generations=4)
    assert result.candidates[result.chosen].path.finished
    assert {c.score for c in result.candidates} == {None}


@pytest.mark.parametrize("name", GUIDED)
def test_one_seed_is_one_result(name):
    """Same seed, same events; some other seed differs."""
    first, again, *others = [
        run(name, FakeModel(TREE), seed=seed, generations=6).trace.to_json() for seed in (1, 1, 2, 3, 4)
    ]
    assert first == again
    assert any(other != first for other in others)


@pytest.mark.parametrize("name", GUIDED)
def test_what_it_needs_is_checked_before_any_token(name):
    """A model without steps, an outcome scorer: refused, and nothing was generated."""
    whole = FakeModel(TREE, capabilities=frozenset({Capability.SEEDS}))
    with pytest.raises(OptionError, match="steps"):
        run(name, whole)
    model = FakeModel(TREE)
    with pytest.raises(OptionError, match="process scorer"):
        run(name, model, FakeOutcomeScorer(len))
    assert whole.calls == model.calls == 0
