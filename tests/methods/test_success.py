"""Probes of success and the methods that use them: self-evaluation and pruned majority."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter

import numpy as np
import pytest

from itscale.budget import Budget
from itscale.errors import CalibrationError, ModelError, OptionError
from itscale.methods import Majority, PrunedMajority, SelfEvaluation
from itscale.methods.probes import Probe, logprob_features
from itscale.methods.success import SuccessPredictor
from itscale.models.base import Capability
from itscale.models.fake import FakeModel
from itscale.testing import enumerate_law
from itscale.types import End, Path, Prompt, Step

PROMPT = Prompt.user("count")
ANSWERS = {"Answer: 1": 0.4, "Answer: 2": 0.3, "Answer: 3": 0.2, "nothing": 0.1}
CONTENT = {"Answer: 1": 0.3, "Answer: 2": 0.8, "Answer: 3": 0.6, "nothing": 0.95}
VOCABULARY = [*ANSWERS, "?", "Yes", "No", "good\n", "bad\n", "$"]


def critic(prefix):
    """Answers at once; asked, says No with the probability that it is content with what it said."""
    if not prefix:
        return ANSWERS
    if prefix[-1] == "?":
        p = CONTENT[prefix[0]] / 2
        return {"No": p, "Yes": 0.5 - p, "$": 0.5}
    return {"$": 1.0}


class Critic(FakeModel):
    def __init__(self, law=critic, **options):
        super().__init__(law, vocabulary=VOCABULARY, boundary="\n", **options)


ASKING = {"question": "?", "yes": "Yes", "no": "No"}


def law_of(method, n, read=lambda result: result.text, law=critic):
    async def run(rng):
        return read(await method.run(PROMPT, Critic(law), None, Budget(generations=n), rng))

    return enumerate_law(run)


def finished(prefix):
    """`critic`, but the end of an answer is no part of the question: it is put after it."""
    return critic(tuple(token for token in prefix if token != "$"))


@pytest.mark.parametrize("threshold", [0.0, 0.55, 0.7, 1.1])
def test_self_evaluation_law(threshold):
    """Draw until one scores the threshold, N at most; return the best scored of those drawn."""
    expected: Counter = Counter()
    for drawn in itertools.product(ANSWERS, repeat=3):
        used = next((k for k in (1, 2) if max(CONTENT[t] for t in drawn[:k]) >= threshold), 3)
        chosen = max(drawn[:used], key=lambda t: (CONTENT[t], -drawn.index(t)))
        expected[chosen, used] += math.prod(ANSWERS[t] for t in drawn)
    method = SelfEvaluation(threshold=threshold, **ASKING)
    law = law_of(method, 3, read=lambda r: (r.text, len(r.candidates)), law=finished)
    assert law == pytest.approx(dict(expected), abs=1e-12)


def test_an_evaluation_generates_nothing():
    """Usage: the tokens of the samples alone; two reads of one token a sample are calls."""
    model = Critic(finished)
    method = SelfEvaluation(threshold=2, at_once=2, **ASKING)
    result = asyncio.run(method.run(PROMPT, model, None, Budget(generations=4), 0))
    assert result.usage.generated_tokens == model.tokens_generated == 8
    assert result.usage.model_calls == model.calls == 4 * 3
    for candidate in result.candidates:
        assert candidate.score == pytest.approx(CONTENT[candidate.path.text])


def steps(prefix):
    """A good or a bad first step decides the answer; asked after either, it knows."""
    prefix = tuple(token for token in prefix if token != "$")
    if not prefix:
        return {"good\n": 0.5, "bad\n": 0.5}
    if prefix[-1] == "?":
        p = 0.9 if prefix[0] == "good\n" else 0.2
        return {"No": p, "Yes": 1 - p}
    if prefix[-1] == "good\n":
        return {"Answer: 1": 1.0}
    if prefix[-1] == "bad\n":
        return {"Answer: 2": 1.0}
    return {"$": 1.0}


def test_bad_prefixes_are_stopped_and_paid_for():
    """Of two at once the worse is left unfinished; only two bad ones give the bad answer."""
    method = SelfEvaluation(threshold=0.1, at_once=2, prune_after=1, keep=0.5, **ASKING)
    law = law_of(method, 2, read=lambda r: (r.answer, r.usage.generated_tokens), law=steps)
    assert law == pytest.approx({("1", 4): 0.75, ("2", 4): 0.25})


def sure(x):
    """A probe on the fake model's hidden states (its next-token law): weight on the good answer."""
    weights = [0.0] * len(VOCABULARY)
    weights[VOCABULARY.index(x)] = 4.0
    return Probe("hidden", (0.0,) * len(VOCABULARY), (1.0,) * len(VOCABULARY), tuple(weights), -2.0)


def saved(tmp_path, model="fake", **options):
    flat = Probe("hidden", (0.0,) * len(VOCABULARY), (1.0,) * len(VOCABULARY), (0.0,) * len(VOCABULARY), 0.0)
    predictor = SuccessPredictor(
        model, options.get("prefix", sure("Answer: 1")), options.get("whole", flat), 1
    )
    file = tmp_path / "success.json"
    predictor.to_calibration({"questions": 9}).save(file)
    assert SuccessPredictor.load(file) == predictor
    return str(file)


def open_ended(prefix):
    """`steps`, with a law after the end too: the probe looks at whole answers."""
    return {"$": 1.0} if "$" in prefix else steps(prefix)


def test_pruned_majority_law(tmp_path):
    """Of N = 3 prefixes the two most promising go on: bad wins only where at most one is good."""
    file = saved(tmp_path)
    method = PrunedMajority(calibration=file, keep=0.5)
    law = law_of(method, 3, read=lambda r: r.answer, law=open_ended)
    expected: Counter = Counter()
    for drawn in itertools.product(("1", "2"), repeat=3):
        kept = sorted(sorted(range(3), key=lambda i: (drawn[i], i))[:2])
        votes = Counter(drawn[i] for i in kept)
        expected[max(votes, key=lambda a: (votes[a], -[drawn[i] for i in kept].index(a)))] += 1 / 8
    assert law == pytest.approx(dict(expected))
    model = Critic(open_ended)
    result = asyncio.run(method.run(PROMPT, model, None, Budget(generations=8), 0))
    # Eight prefixes of one token, four rests of two; the probe reads and generates nothing.
    assert result.usage.generated_tokens == model.tokens_generated == 8 + 4 * 2
    assert len(result.candidates) == 4


def test_keeping_all_is_majority(tmp_path):
    """keep = 1 with a vote each has the law of plain majority."""
    law = law_of(
        PrunedMajority(calibration=saved(tmp_path), keep=1, weighted=False), 3, lambda r: r.answer, open_ended
    )
    assert law == pytest.approx(law_of(Majority(), 3, lambda r: r.answer, open_ended))


def telling(prefix):
    """`steps`, and the probe sees after the end of an answer whether it is a good one."""
    if "$" in prefix:
        return {"good\n" if "Answer: 1" in prefix else "bad\n": 1.0}
    return steps(prefix)


@pytest.mark.parametrize("share", [0.0, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("weighted", [True, False])
def test_pruned_majority_abstains_below_its_share_of_the_votes(tmp_path, weighted, share):
    """The law of the answer by brute force: votes and their sum weigh promise, or one each."""
    promise = {"1": 1 / (1 + math.exp(-2)), "2": 1 / (1 + math.exp(2))} if weighted else {"1": 1.0, "2": 1.0}
    expected: Counter = Counter()
    for drawn in itertools.product("12", repeat=3):
        votes = {answer: drawn.count(answer) * promise[answer] for answer in "12"}
        winner = max(votes, key=lambda a: votes[a])
        enough = votes[winner] / math.fsum(votes.values()) >= share
        expected[winner if enough else None, not enough] += 1 / 8
    file = saved(tmp_path, whole=sure("good\n"))
    method = PrunedMajority(calibration=file, keep=1, weighted=weighted, abstain_below=share)
    assert law_of(method, 3, lambda r: (r.answer, r.abstained), telling) == pytest.approx(dict(expected))


def test_self_evaluation_takes_a_probe_for_its_question(tmp_path):
    """Prefixes scored by the file's probe: no question is asked, and GIVEN is not needed."""
    file = saved(tmp_path)
    capabilities = frozenset({Capability.STEPS, Capability.HIDDEN})
    method = SelfEvaluation(threshold=0.4, at_once=2, prune_after=1, calibration=file)
    model = Critic(open_ended, capabilities=capabilities)
    result = asyncio.run(method.run(PROMPT, model, None, Budget(generations=2), 3))
    assert result.usage.generated_tokens == 4
    with pytest.raises(OptionError, match=r"needs forcing .*, given "):
        asyncio.run(SelfEvaluation(**ASKING).run(PROMPT, model, None, Budget(generations=2), 3))


def test_answers_whose_tokens_nobody_tells_are_refused_before_the_first_sample():
    """A server that is told texts says nothing of their tokens, and the probe is named instead."""

    class Texts(Critic):
        def forced(self, path, text):
            return path.child(Step((), text, End.BOUNDARY, counted=0, forced=True))

    model = Texts()
    with pytest.raises(
        OptionError, match=r"does not tell the token of an answer; .* or give calibration=FILE"
    ):
        asyncio.run(SelfEvaluation(**ASKING).run(PROMPT, model, None, Budget(generations=2), 3))
    assert model.calls == 0


def test_a_probe_finds_what_is_there():
    """Logistic data: weights in the right direction, AUC near the truth's, probabilities monotone."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(3000, 4)) * [1, 10, 1, 0] + [5, 0, 0, 7]
    truth = 1.5 * (x[:, 0] - 5) - 0.1 * x[:, 1]
    y = rng.random(3000) < 1 / (1 + np.exp(-truth))
    probe = Probe.fit("hidden", x, y)
    told = probe.success(x)
    assert np.corrcoef(np.log(told / (1 - told)), truth)[0, 1] > 0.99
    assert probe.weights[3] == 0  # a constant feature says nothing
    assert Probe.from_json(probe.to_json()) == probe
    separable = Probe.fit("hidden", x[:, :1], x[:, 0] > 5)
    assert np.mean((separable.success(x[:, :1]) > 0.5) == (x[:, 0] > 5)) > 0.99


def test_the_features_are_what_they_say():
    """Statistics of all drawn tokens and of the last step's; forced steps do not count."""
    root = Path.root(PROMPT)
    assert logprob_features(root) == pytest.approx(np.zeros(6))
    first = root.child(
        Step((1, 2), "ab", End.BOUNDARY, token_logprobs=(-1.0, -3.0), token_entropies=(0.5, 1.5))
    )
    forced = first.child(Step((9,), "!", End.BOUNDARY, forced=True))
    second = forced.child(Step((3,), "c", End.EOS, token_logprobs=(-2.0,), token_entropies=(0.25,)))
    expected = [-2, -3, 0.75, 1.5, -2, -2, 0.25, 0.25, math.log(5), math.log(4)]
    assert logprob_features(second, entropies=True) == pytest.approx(expected)
    assert logprob_features(second) == pytest.approx([-2, -3, -2, -2, math.log(5), math.log(4)])
    with pytest.raises(ModelError, match="statistics of its tokens"):
        logprob_features(root.child(Step((1,), "a", End.BOUNDARY)))


def test_what_cannot_work_is_refused(tmp_path):
    """Options out of range, files of other models or purposes, words the model cannot tell apart."""
    for method, options, why in (
        (SelfEvaluation, {"threshold": -1}, "threshold"),
        (SelfEvaluation, {"at_once": 0}, "at_once"),
        (SelfEvaluation, {"prune_after": -1}, "prune_after"),
        (SelfEvaluation, {"keep": 0}, "keep"),
        (PrunedMajority, {"keep": 1.5}, "keep"),
    ):
        with pytest.raises(OptionError, match=why):
            method(**options)
    model = Critic(finished)

    def run(method):
        return asyncio.run(method.run(PROMPT, model, None, Budget(generations=2)))

    with pytest.raises(OptionError, match="calibration=FILE"):
        run(PrunedMajority())
    file = saved(tmp_path, model="other")
    for method in (PrunedMajority(calibration=file), SelfEvaluation(calibration=file)):
        with pytest.raises(CalibrationError, match="belongs to model other"):
            run(method)
    with pytest.raises(
        OptionError, match=r"same token .* as do words that its vocabulary lacks; give two that"
    ):
        run(SelfEvaluation(**{**ASKING, "no": "Yes"}))
    assert model.calls == 0
    with pytest.raises(CalibrationError, match="needs both kinds"):
        Probe.fit("hidden", np.zeros((3, 2)), np.array([True] * 3))
    with pytest.raises(CalibrationError, match="the model shows 3"):
        sure("Yes").success(np.zeros(3))
    with pytest.raises(CalibrationError, match="broken probe"):
        Probe.from_json({"features": "hidden", "mean": [0], "scale": [1], "weights": [1, 2], "bias": 0})
