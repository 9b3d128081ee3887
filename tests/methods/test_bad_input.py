"""What goes wrong around a method: patterns that never match, judges that talk, broken scorers, k above N.

Every case is a typed error before or at the fault, or a degradation that the result states; never a
first sample handed out as if it had been chosen.
"""

from __future__ import annotations

import asyncio
import json
import math

import pytest
from typer.testing import CliRunner

from itscale import cli
from itscale.allocation import OnlinePlan, PetsOnline
from itscale.budget import Budget
from itscale.errors import AllFailedError, CalibrationError, OptionError, ScorerError
from itscale.methods import (
    AdaptiveConsistency,
    BestOfMajority,
    BestOfN,
    EarlyExit,
    Majority,
    PrunedMajority,
    ShortMAtK,
    WeightedBestOfN,
)
from itscale.methods.early_exit import ExitRule
from itscale.methods.probes import Probe
from itscale.methods.success import SuccessPredictor
from itscale.models.fake import FakeModel
from itscale.registry import METHODS
from itscale.scorers.answers import AnswerKind
from itscale.scorers.fake import FakeComparisonScorer, FakeOutcomeScorer, FakeProcessScorer
from itscale.types import Prompt
from itscale.version import __version__
from tests.bench.worlds import play_coins

PROMPT = Prompt.user("count")
TABLE = {
    (): {"Answer: 1": 0.6, "Answer: 2": 0.4},
    ("Answer: 1",): {"$": 1.0},
    ("Answer: 2",): {"$": 1.0},
}
NEVER = AnswerKind("never", extract=lambda text: None)
VOTING = [
    name
    for name, method in METHODS.items()
    if "answers" in method.__dataclass_fields__
    and name not in ("greedy", "sample")
    and method.scorer_kind in ("none", "any")
    and not {"exit", "question", "calibration"} & method.__dataclass_fields__.keys()
]


def run(method, scorer=None, n=4, **limits):
    return asyncio.run(method.run(PROMPT, FakeModel(TABLE), scorer, Budget(generations=n, **limits), 1))


@pytest.mark.parametrize("name", VOTING)
def test_a_pattern_that_never_matches_is_said(name):
    """No answer, every sample that was asked for drawn, and a sentence that says which text came back."""
    result = run(METHODS[name](answers=NEVER), FakeOutcomeScorer(lambda text: float(text[-1])))
    assert result.answer is None
    assert len(result.candidates) >= 2
    assert result.degraded is not None
    assert "states an answer of kind 'never'" in result.degraded
    assert result.degraded.endswith("or a prompt that asks for `Answer: X`")
    assert f"the text is that of candidate {result.chosen + 1};" in result.degraded
    assert result.to_json()["degraded"] == result.degraded


def test_where_answers_are_found_nothing_is_said():
    """Nor of a single candidate, which nobody had to vote on; of answers cut off it says that."""
    assert run(Majority()).degraded is None
    assert "degraded" not in run(Majority()).to_json()
    assert run(Majority(answers=NEVER), n=1).degraded is None
    assert "2 were cut off: raise max_tokens" in str(run(Majority(max_tokens=1), n=2).degraded)


def test_the_command_line_says_it_too(monkeypatch):
    """Under the missing answer, before the text; in the JSON as `degraded`."""
    play_coins(monkeypatch.setattr)
    words = ["solve", "Call it.", "--method", "majority:answers=choice", "--budget", "4"]
    said = CliRunner().invoke(cli.app, words).stdout.splitlines()
    assert said[0] == "no answer was reached"
    assert said[1].startswith("(none of 4 candidates states an answer of kind 'choice'")
    split = ["solve", "Call it.", "--method", "majority:abstain_below=1", "--budget", "9"]
    assert CliRunner().invoke(cli.app, split).stdout.startswith("no answer: too few votes agree")
    assert "degraded" in json.loads(CliRunner().invoke(cli.app, [*words, "--json"]).stdout)


@pytest.mark.parametrize("method", [BestOfN(), WeightedBestOfN(), BestOfMajority()], ids=lambda m: m.name)
@pytest.mark.parametrize(
    "scorer",
    [FakeOutcomeScorer(lambda text: math.nan), FakeProcessScorer(lambda steps: math.nan)],
    ids=["outcome", "process"],
)
def test_a_scorer_that_returns_nan_breaks_the_run(method, scorer):
    """A broken contract is the scorer's: nothing is chosen by it, and nothing in spite of it."""
    with pytest.raises(ScorerError, match="returned NaN; return a number for every path"):
        run(method, scorer)


@pytest.mark.parametrize("name", ["knockout", "round-robin", "listwise"])
def test_a_judge_that_answers_prose_leaves_the_vote(name):
    """Without a verdict the order of votes stands, and the failed comparisons are counted."""
    result = run(METHODS[name](), FakeComparisonScorer(lambda texts: None), n=9)
    assert result.answer == run(Majority(), n=9).answer
    assert result.usage.failed_calls > 0


def test_a_judge_that_never_scores_is_counted():
    """Every judgement failed: the vote decides where there is one, and failed calls say so."""
    silent = FakeOutcomeScorer(float, fail=lambda call: True)
    for method in (WeightedBestOfN(), BestOfMajority()):
        result = run(method, silent, n=9)
        assert result.answer == run(Majority(), n=9).answer
        assert result.usage.failed_calls > 0


def test_more_answers_than_samples():
    """k above N is refused where it was promised, and waits for all where it is a race."""
    with pytest.raises(OptionError, match="k is 5, more than the 4 samples; raise the budget or lower k"):
        run(BestOfMajority(k=5), FakeOutcomeScorer(len))
    assert len(run(ShortMAtK(m=9)).candidates) == 4
    assert len(run(AdaptiveConsistency(confidence=1), n=2).candidates) == 2


def calibrated(kind, model):
    """A calibration of that kind for a model, and what would use it on another."""
    probe = Probe("logprobs", (0.0,) * 6, (1.0,) * 6, (0.0,) * 6, 0.0)
    if kind == "early-exit":
        return ExitRule(model, probe, 0.5, 0.5, 0.1, "question", "step", "answer").to_calibration({"n": 1})
    if kind == "success":
        return SuccessPredictor(model, probe, probe, 8).to_calibration({"n": 1})
    return OnlinePlan.fit([[3, 1]], model).to_calibration({"n": 1})


@pytest.mark.parametrize("kind", ["early-exit", "success", "pets-online"])
def test_a_calibration_is_readable_and_belongs_to_one_model(kind, tmp_path):
    """One JSON file with what it is, its version, its model and its evidence; another model is refused
    before any token, with the command that makes one for it."""
    file = tmp_path / "calibration.json"
    calibrated(kind, "other").save(file)
    content = json.loads(file.read_text())
    assert list(content) == ["calibration", "format", "itscale", "model", "evidence", "values"]
    assert (content["calibration"], content["format"], content["model"]) == (kind, 1, "other")
    assert content["itscale"] == __version__
    assert file.read_text().count("\n") > 10

    model = FakeModel(TABLE)
    budget = Budget(generations=4)
    fix = f"fit one for this model with: itscale calibrate {kind}"
    if kind == "pets-online":
        run_on_another = PetsOnline(plan=OnlinePlan.load(file)).run([PROMPT], model, budget)
    else:
        method = EarlyExit if kind == "early-exit" else PrunedMajority
        run_on_another = method(calibration=str(file)).run(PROMPT, model, None, budget)
    with pytest.raises(CalibrationError, match=rf"belongs to model other, not to fake \(fake\); {fix}"):
        asyncio.run(run_on_another)
    assert model.calls == 0


def test_a_model_that_always_fails_is_an_error():
    """With no candidate left there is nothing to degrade to."""
    model = FakeModel(TABLE, fail=lambda call: True)
    with pytest.raises(AllFailedError, match="every candidate failed"):
        asyncio.run(Majority().run(PROMPT, model, None, Budget(generations=3)))
