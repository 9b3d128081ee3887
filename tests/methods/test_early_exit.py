"""Conformal early exit: where it leaves, what it promises, what it refuses."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest

from itscale.budget import Budget
from itscale.errors import CalibrationError, OptionError
from itscale.methods import EarlyExit
from itscale.methods.early_exit import ExitRule, cue_of
from itscale.methods.probes import Probe, conformal_quantile
from itscale.models.base import Capability
from itscale.testing import enumerate_law
from itscale.types import End, Path, Step
from tests.methods.test_exits import PROMPT, VOCABULARY, fake


def a_rule(model, *, q_wrong=0.5, q_right=0.5, cue="step", way_out="answer"):
    """A probe that reads P(Answer) off the fake model's law: weight on one entry of it."""
    weights = [0.0] * len(VOCABULARY)
    weights[VOCABULARY.index("Answer: ")] = 10.0
    probe = Probe("hidden", (0.0,) * 7, (1.0,) * 7, tuple(weights), -5.0)
    return ExitRule(model.identity, probe, q_wrong, q_right, 0.1, "question", cue, way_out)


def growing(prefix):
    """Ever likelier to answer: P(Answer) is 0.2 a thought."""
    if prefix and prefix[-1] in "12":
        return {"$": 1.0}
    if prefix and prefix[-1] == "Answer: ":
        return {"1": 1.0}
    p = min(0.2 * prefix.count("t\n"), 1.0)
    return {"t\n": 1 - p, "Answer: ": p}


def test_early_exit_leaves_at_the_first_confident_cue(tmp_path):
    """By the probe, and by the two thresholds together; the file survives."""
    model = fake(growing)
    file = tmp_path / "exit.json"
    for q_wrong, q_right, thoughts in ((0.5, 0.5, 3), (0.9, 0.5, 4), (0.5, 0.005, 5)):
        rule = a_rule(model, q_wrong=q_wrong, q_right=q_right)
        rule.to_calibration({"questions": 3}).save(file)
        assert ExitRule.load(file) == rule
        law = enumerate_law(lambda rng: _text(EarlyExit(calibration=str(file)), rng))
        # It leaves once p(x) = sigmoid(10 P(Answer) - 5) crosses; before, the chain may end by itself.
        assert max(text.count("t\n") for text in law) == thoughts
        assert set(law) == {"t\n" * k + "Answer: 1" for k in range(1, thoughts + 1)}


async def _text(method, rng):
    return (await method.run(PROMPT, fake(growing), None, Budget(), rng)).text


def test_too_few_examples_promise_nothing(tmp_path):
    """ceil((n + 1)(1 - delta)) > n: the quantile is infinite, and saved so, and there is no exit."""
    assert conformal_quantile([0.1] * 18, 0.05) == math.inf
    assert conformal_quantile([0.1] * 19, 0.05) == 0.1
    model = fake(growing)
    rule = ExitRule.calibrate(
        model.identity, a_rule(model).probe, [[(0.9, True)]] * 5, delta=0.1, unit="question"
    )
    assert rule.q_wrong == math.inf
    file = tmp_path / "exit.json"
    rule.to_calibration({}).save(file)
    assert ExitRule.load(file).q_wrong == math.inf
    result = asyncio.run(EarlyExit(calibration=str(file)).run(PROMPT, model, None, Budget(), 1))
    assert not any(step.forced for step in result.candidates[0].path.steps)


def calibrated_streams():
    """Thousand streams, each 61 questions of five cues as (p, whether the forced answer is right).

    A question's cues share a difficulty, so they depend on each other; most answers are wrong, and p is
    an uncalibrated score that only half tells.
    """
    rng = np.random.default_rng(7)
    hard = rng.normal(size=(1000, 61, 1))
    ok = rng.random((1000, 61, 5)) < 1 / (1 + np.exp(1.5 + hard))
    scores = 1 / (1 + np.exp(-(0.8 * ok + rng.normal(size=ok.shape))))
    for p, right_ in zip(scores.tolist(), ok.tolist(), strict=True):
        yield [list(zip(*pair, strict=True)) for pair in zip(p, right_, strict=True)]


def errs(rule, question):
    """Whether a question is left at a wrong answer."""
    return next((good for score, good in question if rule.leaves(score)), None) is False


@pytest.mark.parametrize("delta", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("unit", ["question", "event"])
def test_the_promise_holds_over_a_thousand_streams(delta, unit):
    """Each stream: 60 questions to calibrate on, one new one; of 1,000 at most delta err.

    The bound is delta plus three standard errors: a false alarm once in 700 at the worst. The rule is
    not idle either: it errs at more than half of delta.
    """
    rng = np.random.default_rng(8)
    probe = a_rule(fake(growing)).probe
    errors = looks = 0
    for *seen, new in calibrated_streams():
        rule = ExitRule.calibrate("m", probe, seen, delta=delta, unit=unit)
        if unit == "question":
            looks += 1
            errors += errs(rule, new)
        elif not (cue := new[int(rng.integers(5))])[1]:  # a cue of its own, if its answer is wrong
            looks += 1
            errors += rule.leaves(cue[0])
    assert looks > 200
    assert delta / 2 < errors / looks <= delta + 3 * math.sqrt(delta * (1 - delta) / looks)


def test_a_promise_for_single_cues_is_none_for_questions():
    """With several looks the published unit leaves more than twice as many questions at wrong answers."""
    probe = a_rule(fake(growing)).probe
    rules = (
        (ExitRule.calibrate("m", probe, seen, delta=0.1, unit="event"), new)
        for *seen, new in calibrated_streams()
    )
    assert sum(errs(rule, new) for rule, new in rules) / 1000 > 0.2


def test_without_its_threshold_the_promise_would_break():
    """The clipped quantile (largest score where it should be infinite) errs more than delta: not vacuous."""
    rng = np.random.default_rng(1)
    errors = 0
    for _ in range(2000):
        scores = rng.random(5)
        clipped = sorted(scores)[min(math.ceil(6 * 0.95), 5) - 1]
        errors += rng.random() > clipped
    assert errors / 2000 > 0.1
    assert conformal_quantile(scores.tolist(), 0.05) == math.inf


def test_cues_may_be_words():
    """A whole word in the step, whatever its case; the way out is before that step."""
    root = Path.root(PROMPT)
    first = root.child(Step((0,), "We add.\n", End.BOUNDARY))
    second = first.child(Step((0,), "Wait, no.\n", End.BOUNDARY))
    third = second.child(Step((0,), "The waiter waits.\n", End.BOUNDARY))
    cue = cue_of("wait|hmm")
    assert cue.at(second) is first
    assert cue.at(first) is None
    assert cue.at(third) is None
    assert cue_of("step").at(third) is third
    with pytest.raises(OptionError, match="empty word"):
        cue_of("wait||hmm")


def test_what_cannot_work_is_refused(tmp_path):
    """A rule of another model, a broken file or none, a model that shows too little."""
    file = tmp_path / "exit.json"
    with pytest.raises(CalibrationError, match="no calibration at"):
        EarlyExit(calibration=str(file))
    a_rule(fake(growing, name="other")).to_calibration({}).save(file)
    model = fake(growing)

    def run(method, asked=model):
        return asyncio.run(method.run(PROMPT, asked, None, Budget()))

    with pytest.raises(CalibrationError, match="belongs to model other"):
        run(EarlyExit(calibration=str(file)))
    with pytest.raises(OptionError, match="calibration=FILE"):
        run(EarlyExit())
    with pytest.raises(OptionError, match="leave out exit"):
        EarlyExit(exit="think")
    unseeing = fake(growing, name="other", capabilities=frozenset(Capability) - {Capability.HIDDEN})
    with pytest.raises(OptionError, match="needs hidden"):
        run(EarlyExit(calibration=str(file)), unseeing)
    file.write_text(file.read_text().replace('"bias"', '"bais"'))
    with pytest.raises(CalibrationError, match="broken"):
        EarlyExit(calibration=str(file))
    assert model.calls == 0


@pytest.mark.parametrize(("unit", "threshold"), [("question", 0.9), ("event", 0.1)])
def test_a_question_counts_by_its_largest_wrong_cue(unit, threshold):
    """Nine questions with wrong cues at 0.1 and 0.9: the quantile is of nine maxima, or of 18 cues."""
    questions = [[(0.1, False), (0.9, False)]] * 9
    rule = ExitRule.calibrate("m", a_rule(fake(growing)).probe, questions, delta=0.6, unit=unit)
    assert rule.q_wrong == threshold
