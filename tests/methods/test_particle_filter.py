"""What the particle filter does beside its law: choosing, failing, running out, refusing."""

from __future__ import annotations

import asyncio
import math

import pytest

from itscale.budget import Budget
from itscale.errors import AllFailedError, OptionError
from itscale.events import Resampled
from itscale.methods.particle_filter import ParticleFilter
from itscale.models.base import Capability
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeOutcomeScorer, FakeProcessScorer
from itscale.types import StopReason

END = {"$": 1.0}
GOOD, BAD = "answer: 1", "answer: 2"
# A step that tells nothing, then one of two answers, half each.
TWO_ANSWERS = {
    (): {"think\n": 1.0},
    ("think\n",): {GOOD: 0.5, BAD: 0.5},
    ("think\n", GOOD): END,
    ("think\n", BAD): END,
}


def likes_good(texts: tuple[str, ...]) -> float:
    """0.9 for the good answer, 0.2 for the bad one, 0.5 on the way."""
    return {GOOD: 0.9, BAD: 0.2}.get(texts[-1], 0.5)


def run(method, model, scorer, **budget):
    """A run to its end."""
    return asyncio.run(method.run("question", model, scorer, Budget(**budget), 3))


def endless(texts):
    """A model that never finishes."""
    return {"go|": 1.0, "$": 0.0}


@pytest.mark.parametrize("choose", ["vote", "argmax"])
def test_the_likelier_and_better_answer_is_chosen(choose):
    """Both choices find the good one among 16, and weights sum to 1."""
    result = run(
        ParticleFilter(choose=choose),
        FakeModel(TWO_ANSWERS, boundary="\n"),
        FakeProcessScorer(likes_good),
        generations=16,
    )
    assert result.answer == "1"
    assert result.stop_reason is StopReason.DONE
    assert math.fsum(c.weight for c in result.candidates) == pytest.approx(1.0)
    assert {c.answer for c in result.candidates} == {"1", "2"}
    assert [c.score for c in result.candidates] == [c.step_scores[-1] for c in result.candidates]


def test_a_vote_adds_up_where_argmax_looks_at_one():
    """Three middling copies of an answer outvote one brilliant lone one."""
    table = {(): {"answer: 1": 0.75, "answer: 2": 0.25}, ("answer: 1",): END, ("answer: 2",): END}
    scorer = FakeProcessScorer(lambda texts: 0.6 if texts[0] == "answer: 1" else 0.9)
    vote = run(ParticleFilter(), FakeModel(table), scorer, generations=16)
    argmax = run(ParticleFilter(choose="argmax"), FakeModel(table), scorer, generations=16)
    assert sum(c.answer == "1" for c in vote.candidates) > 10
    assert (vote.answer, argmax.answer) == ("1", "2")


def test_a_vote_without_answers_falls_back_to_the_best_score():
    """Texts that state no answer are judged, not voted on."""
    table = {(): {"left": 0.5, "right": 0.5}, ("left",): END, ("right",): END}
    scorer = FakeProcessScorer(lambda texts: 0.8 if texts[0] == "right" else 0.7)
    result = run(ParticleFilter(), FakeModel(table), scorer, generations=8)
    assert (result.text, result.answer) == ("right", None)


@pytest.mark.parametrize("choose", ["vote", "argmax", "sample"])
def test_a_path_cut_off_is_never_the_answer_while_another_finished(choose):
    """Truncated paths keep their slot and their weight; a worse finished one is still preferred."""
    table = {(): {"answer: 1": 0.5, "long": 0.5}, ("answer: 1",): END, ("long",): {"long": 1.0, "$": 0.0}}
    table[("long", "long")] = {"answer: 2": 1.0}
    scorer = FakeProcessScorer(lambda texts: 0.99 if "long" in texts[-1] else 0.01)
    method = ParticleFilter(choose=choose, max_tokens=3)
    result = run(method, FakeModel(table), scorer, generations=8)
    cut = [c for c in result.candidates if c.path.truncated]
    assert cut
    assert all(c.answer is None and c.weight > 0.05 for c in cut)
    assert result.answer == "1"


def test_nothing_is_resampled_after_the_last_step():
    """Uneven final weights stay as they are: resampling them would only add noise."""
    result = run(
        ParticleFilter(ess_threshold=1.0),
        FakeModel(TWO_ANSWERS, boundary="\n"),
        FakeProcessScorer(likes_good),
        generations=8,
    )
    assert not any(isinstance(event, Resampled) for event in result.trace.events)
    assert len({c.weight for c in result.candidates}) == 2


def test_a_finished_path_is_not_judged_again():
    """Sixteen paths of at most two steps cost at most two judgements each."""
    scorer = FakeProcessScorer(likes_good)
    result = run(ParticleFilter(), FakeModel(TWO_ANSWERS, boundary="\n"), scorer, generations=16)
    assert scorer.calls == result.usage.scorer_calls == 32


def test_a_failed_call_costs_one_slot():
    """Its weight is zero, its old path stays, the evidence counts it as nothing, the rest goes on."""
    model = FakeModel(TWO_ANSWERS, boundary="\n", fail=lambda call: call == 5)
    result = run(ParticleFilter(ess_threshold=0), model, FakeProcessScorer(lambda texts: 0.5), generations=4)
    weights = [c.weight for c in result.candidates]
    assert sorted(weights) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    lost = result.candidates[weights.index(0)]
    assert (lost.path.text, lost.answer) == ("think\n", None)
    assert result.log_evidence == pytest.approx(math.log(0.5 * 3 / 4))
    assert result.usage.failed_calls == 1
    assert model.calls == 8


def test_a_lost_slot_costs_nothing_more():
    """Where nothing is resampled, a slot of weight zero is not extended again."""
    table = {(): {"1|": 1.0}, ("1|",): {"2|": 1.0}, ("1|", "2|"): {"3|": 1.0}, ("1|", "2|", "3|"): END}
    model = FakeModel(table, fail=lambda call: call == 0)
    run(ParticleFilter(ess_threshold=0), model, FakeProcessScorer(lambda texts: 0.5), generations=2)
    assert model.calls == 2 + 1 + 1 + 1


def test_the_last_growing_path_may_fail_while_finished_ones_remain():
    """A failure is one candidate's: finished paths are still the result."""
    table = {(): {"answer: 1": 0.5, "on|": 0.5}, ("answer: 1",): END, ("on|",): END}
    model = FakeModel(table, fail=lambda call: call >= 8)
    result = run(ParticleFilter(ess_threshold=0), model, FakeProcessScorer(lambda texts: 0.5), generations=8)
    assert result.answer == "1"
    assert 0 < sum(c.weight == 0 for c in result.candidates) < 8


def test_all_failed_is_a_clear_error():
    """With no path left the error is typed and names the last cause."""
    with pytest.raises(AllFailedError, match="failed as told"):
        run(
            ParticleFilter(),
            FakeModel(TWO_ANSWERS, boundary="\n", fail=lambda call: True),
            FakeProcessScorer(likes_good),
        )


def test_a_failed_judgement_keeps_the_parents_weight():
    """An unscored step has potential 1 and the path the score it had; the next score is not skewed."""
    scorer = FakeProcessScorer(likes_good, fail=lambda call: call == 0)
    result = run(
        ParticleFilter(ess_threshold=0), FakeModel(TWO_ANSWERS, boundary="\n"), scorer, generations=1
    )
    assert result.log_evidence == pytest.approx(math.log(result.candidates[0].score))
    never = FakeProcessScorer(likes_good, fail=lambda call: True)
    result = run(ParticleFilter(), FakeModel(TWO_ANSWERS, boundary="\n"), never, generations=4)
    assert result.log_evidence == pytest.approx(0.0)
    assert {c.score for c in result.candidates} == {None}
    assert result.answer in {"1", "2"}


@pytest.mark.parametrize(
    ("budget", "reason"),
    [({"tokens": 6}, StopReason.TOKENS), ({"scorer_calls": 3}, StopReason.SCORER_CALLS)],
)
def test_a_limit_ends_the_run_with_the_best_so_far(budget, reason):
    """Anytime: candidates for every slot, the limit named, never overstepped."""
    model = FakeModel(endless, vocabulary=["go|", "$"])
    scorer = FakeProcessScorer(lambda texts: 0.5)
    result = run(ParticleFilter(max_tokens=64), model, scorer, generations=2, **budget)
    assert result.stop_reason is reason
    assert len(result.candidates) == 2
    assert result.usage.generated_tokens <= budget.get("tokens", 99)
    assert scorer.calls <= budget.get("scorer_calls", 99)


def test_max_steps_ends_the_run():
    """The step limit is named as the reason, and the paths it left have no answer."""
    model = FakeModel(endless, vocabulary=["go|", "$"])
    result = run(ParticleFilter(max_steps=3), model, FakeProcessScorer(lambda texts: 0.5), generations=2)
    assert result.stop_reason is StopReason.STEPS
    assert [c.path.depth for c in result.candidates] == [3, 3]
    assert result.answer is None


def test_a_path_that_used_its_tokens_up_at_a_boundary_ends_the_run():
    """Nothing can move any more, so nothing more is asked for or resampled."""
    model = FakeModel(endless, vocabulary=["go|", "$"])
    result = run(ParticleFilter(max_tokens=4), model, FakeProcessScorer(lambda texts: 0.5), generations=2)
    assert model.calls == 8
    assert [c.path.n_tokens for c in result.candidates] == [4, 4]
    assert result.answer is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target": "finel"}, "did you mean 'final'"),
        ({"resampling": "systematik"}, "did you mean 'systematic'"),
        ({"choose": "voting"}, "known: argmax, sample, vote"),
        ({"ess_threshold": 1.5}, "0 to 1"),
        ({"ess_threshold": float("nan")}, "0 to 1"),
        ({"max_steps": 0}, "at least 1"),
        ({"temperature": -1.0}, "0 .greedy. or more"),
    ],
)
def test_impossible_options_are_refused(options, says):
    """At construction, with what to do instead."""
    with pytest.raises(OptionError, match=says):
        ParticleFilter(**options)


def test_what_it_needs_is_checked_before_any_token():
    """A model without steps, an outcome scorer or none: refused, and nothing was generated."""
    whole = FakeModel(TWO_ANSWERS, boundary="\n", capabilities=frozenset({Capability.SEEDS}))
    with pytest.raises(OptionError, match="steps"):
        run(ParticleFilter(), whole, FakeProcessScorer(likes_good))
    model = FakeModel(TWO_ANSWERS, boundary="\n")
    for scorer in (None, FakeOutcomeScorer(len)):
        with pytest.raises(OptionError, match="process scorer"):
            run(ParticleFilter(), model, scorer)
    assert whole.calls == model.calls == 0
