"""Steps drawn at one temperature, weighed for another: the law is that of the target's."""

from __future__ import annotations

import asyncio
import math

import pytest

from itscale.budget import Budget
from itscale.errors import OptionError
from itscale.methods import MCTS, ConfidenceVote, ParticleFilter, ParticleGibbs, SelfEvaluation, filtering
from itscale.models.base import Capability, WrappedModel
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from tests.methods.laws import deviation, tempered
from tests.methods.trees import JUDGEMENTS, PROMPT, SMALL, TREE, exact


@pytest.mark.parametrize("proposal", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("ess_threshold", [0.0, 1.0])
def test_the_law_is_that_of_the_target_temperature(proposal, ess_threshold):
    """Colder, equal and hotter proposals, resampling never and always, two particles."""
    method = ParticleFilter(proposal_temperature=proposal, ess_threshold=ess_threshold)
    assert deviation(method, TREE, 2) < 1e-12


def test_the_target_may_be_tempered_itself():
    """Drawn at 1, aimed at the model at temperature 1/2."""
    method = ParticleFilter(temperature=0.5, proposal_temperature=1.0, ess_threshold=1.0)
    assert deviation(method, SMALL, 3, exact(tempered(SMALL, 0.5), "final")) < 1e-12


def test_a_hotter_proposal_covers_the_targets_nucleus():
    """Under top-p both laws are cut, and the proposal keeps every token that the target does."""
    method = ParticleFilter(top_p=0.75, proposal_temperature=2.0, ess_threshold=1.0)
    cut = {prefix: {t: p for t, p in row.items() if p != 0.2} for prefix, row in SMALL.items()}
    cut[()] = {"a|": 0.6, "x": 0.4}
    cut[("a|",)] = {"y": 0.7, "x": 0.3}
    assert deviation(method, SMALL, 2, exact(cut, "final")) < 1e-12


@pytest.mark.parametrize("bug", ["dropped", "inverted"])
def test_a_wrong_ratio_is_caught(monkeypatch, bug):
    """Left out, or the other way round: another law."""
    honest = filtering.log_importance

    async def wrong(session, path):
        return 0.0 if bug == "dropped" else -await honest(session, path)

    monkeypatch.setattr(filtering, "log_importance", wrong)
    assert deviation(ParticleFilter(proposal_temperature=2.0), TREE, 2) > 1e-2


def run(method, model):
    """A run to its end."""
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)
    return asyncio.run(method.run(PROMPT, model, scorer, Budget(generations=4), 0))


def test_equal_temperatures_are_no_correction():
    """Every ratio is 1: the weights are those of the plain filter."""
    results = [
        run(ParticleFilter(proposal_temperature=t, ess_threshold=0), FakeModel(TREE)) for t in (1.0, 2.0)
    ]
    for c in results[0].candidates:
        assert c.weight * 4 == pytest.approx(c.score / math.exp(results[0].log_evidence))
    assert any(
        c.weight * 4 != pytest.approx(c.score / math.exp(results[1].log_evidence))
        for c in results[1].candidates
    )


def test_what_it_needs_is_checked_before_any_token():
    """A model that cannot tell given continuations is refused, and none without the option."""
    model = FakeModel(TREE, capabilities=frozenset(Capability) - {Capability.GIVEN})
    with pytest.raises(OptionError, match="given"):
        run(ParticleFilter(proposal_temperature=2.0), model)
    assert model.calls == 0
    assert run(ParticleFilter(), model).candidates


class AsServers(FakeModel):
    """Tells log-probabilities of draws at temperature 1 without top-p alone."""

    def tells(self, sampling, what):
        return sampling.plain


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"proposal_temperature": 2.0}, "leave out proposal_temperature, or"),
        ({"proposal_temperature": 1.0, "temperature": 0.5}, "leave out temperature, or"),
        ({"proposal_temperature": 1.0, "top_p": 0.9}, "leave out top_p, or"),
        ({"proposal_temperature": 1.0}, None),
        ({"temperature": 0.5, "top_p": 0.9}, None),
    ],
)
def test_where_nothing_can_be_corrected_no_token_is_drawn(options, fix):
    """A server tells neither law but the model's own; without the option nothing has to be told."""
    model, method = AsServers(TREE), ParticleFilter(**options)
    if fix is None:
        assert run(method, model).candidates
        return
    for asked in (model, WrappedModel(model)):
        with pytest.raises(OptionError, match=fix):
            run(method, asked)
    assert model.calls == 0


@pytest.mark.parametrize("method", [ConfidenceVote, SelfEvaluation, MCTS, ParticleGibbs])
def test_whoever_reads_log_probabilities_is_refused_them(method):
    """The same of every method whose options ask for them, and of none of the others."""
    reads = {
        MCTS: {"rule": "puct"},
        ParticleGibbs: {"ancestors": True},
        SelfEvaluation: {"question": "x", "yes": "x", "no": "y"},
    }.get(method, {})
    model = AsServers(TREE)
    with pytest.raises(OptionError, match="tells at temperature 1 without top-p; leave out temperature"):
        run(method(temperature=0.5, **reads), model)
    assert model.calls == 0
    method(**reads).check(model, FakeProcessScorer(JUDGEMENTS.__getitem__))


@pytest.mark.parametrize(
    "options",
    [
        {"proposal_temperature": 0.0},
        {"proposal_temperature": 1.0, "temperature": 0.0},
        {"proposal_temperature": 0.5, "top_p": 0.9},
        {"proposal_temperature": 0.5, "compatibility": "puri2025"},
    ],
)
def test_what_no_weight_can_make_up_for_is_refused(options):
    """A proposal must be able to draw whatever the target can."""
    with pytest.raises(OptionError):
        ParticleFilter(**options)
