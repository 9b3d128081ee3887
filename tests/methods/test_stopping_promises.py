"""Rules that stop early against the majority of all N, over a thousand simulated streams of samples each.

A stream is a law of answers, drawn uniformly, and N samples of it. The methods run unchanged on a model
that says the samples in turn. Where a rule promises the very same answer it is compared stream by
stream; where it promises a loss, the share of streams that differ is, with three standard errors of
room: such a test raises a false alarm once in 700 seeds at the worst, and its seed is fixed.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import numpy as np
import pytest

from itscale.budget import Budget
from itscale.methods import AdaptiveConsistency, Majority, PrunedMajority, ShortMAtK
from itscale.methods.probes import Probe
from itscale.methods.success import SuccessPredictor
from itscale.models.fake import FakeModel
from itscale.types import End, Prompt, Step

PROMPT = Prompt.user("count")
STREAMS, N = 1000, 16


class Stream(FakeModel):
    """Sample i answers `answers[i]` after `turns[i]` turns of the event loop, in `lengths[i]` tokens.

    A sample may also be made in two steps; between them the model holds `quality[i]`.
    """

    def __init__(self, answers, *, turns=None, lengths=None, quality=None):
        super().__init__({(): {"$": 1.0}})
        self.answers, self.turns, self.lengths, self.quality = answers, turns, lengths, quality
        self.begun = 0

    async def extend(self, path, n, until, sampling, rng, ledger):
        i = path.token_ids[0] if path.depth else self.begun
        self.begun += not path.depth
        for _ in range(0 if self.turns is None else self.turns[i]):
            await asyncio.sleep(0)
        answer = f"Answer: {self.answers[i]}"
        if until.what == "end":
            ids = (i,) * (1 if self.lengths is None else self.lengths[i])
            step = Step(ids, answer, End.EOS)
        else:
            step = Step((i,), answer, End.EOS) if path.depth else Step((i,), "so\n", End.BOUNDARY)
        ledger.charge_model(prompt=1, cached=0, generated=step.n_tokens)
        return [path.child(step)]

    async def hidden_states(self, path, ledger):
        ledger.charge_model(prompt=0, cached=0, generated=0)
        return (float(self.quality[path.token_ids[0]]),)


def streams(kinds, seed=5, count=STREAMS, n=N):
    """The answers of each stream, (count, n), from laws uniform on the simplex of `kinds` answers."""
    rng = np.random.default_rng(seed)
    laws = rng.dirichlet([1.0] * kinds, count)
    return [rng.choice(kinds, n, p=law).tolist() for law in laws], laws


def voted(answers):
    """The most frequent, ties to the earliest."""
    votes = Counter(answers)
    return max(votes, key=lambda answer: (votes[answer], -answers.index(answer)))


def every(method, models, n=N):
    """The result of a method on each model."""

    async def run():
        return [await method.run(PROMPT, model, None, Budget(generations=n), 0) for model in models]

    return asyncio.run(run())


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_lead_that_cannot_be_overtaken_changes_no_answer(share):
    """Stream by stream the answer of all N, ties and abstentions included, however samples arrive."""
    drawn, _ = streams(3)
    rng = np.random.default_rng(1)
    models = [Stream(answers, turns=rng.integers(0, 12, N).tolist()) for answers in drawn]
    results = every(Majority(early_stop=True, abstain_below=share), models)
    expected = []
    for answers in drawn:
        winner = voted(answers)
        expected.append(str(winner) if answers.count(winner) >= share * N else None)
    assert [result.answer for result in results] == expected
    assert sum(len(result.candidates) < N for result in results) > STREAMS / 2
    assert (None in expected) is (share > 0)


@pytest.mark.parametrize(
    ("rule", "kinds", "confidence"), [("beta", 2, 0.95), ("beta", 2, 0.9), ("dirichlet", 3, 0.95)]
)
def test_adaptive_consistency_loses_no_more_than_it_says(rule, kinds, confidence):
    """It answers as all N would, and with the law's mode, in all but 1 - confidence of the streams.

    Laws are drawn from the prior that the rule assumes, so the promise on the mode holds however often
    it looks; on a law that is fixed it would not. Not vacuous: after one sample it errs more than that.
    """
    drawn, laws = streams(kinds)
    room = 3 * math.sqrt(confidence * (1 - confidence) / STREAMS)
    results = every(AdaptiveConsistency(rule=rule, confidence=confidence), map(Stream, drawn))
    whole = [str(voted(answers)) for answers in drawn]
    differ = sum(r.answer != answer for r, answer in zip(results, whole, strict=True))
    assert differ / STREAMS <= 1 - confidence + room
    stopped = [i for i, r in enumerate(results) if len(r.candidates) < N]
    assert len(stopped) > 0.4 * STREAMS
    missed = sum(results[i].answer != str(int(np.argmax(laws[i]))) for i in stopped)
    assert missed / len(stopped) <= 1 - confidence + room * math.sqrt(STREAMS / len(stopped))
    hasty = sum(answers[0] != voted(answers) for answers in drawn)
    assert hasty / STREAMS > 1 - confidence + room


def test_the_first_m_of_k_are_the_majority_of_the_m_shortest():
    """Stream by stream: m = 3 votes of the three that end first, m = k is majority but for its ties."""
    drawn, _ = streams(3, n=8)
    rng = np.random.default_rng(2)
    lengths = [rng.permutation(8).tolist() for _ in drawn]  # turns of the loop: distinct, so no ties in time
    spaced = [[8 * turn + 1 for turn in own] for own in lengths]
    few, all_ = (
        every(ShortMAtK(m=m), [Stream(a, turns=s, lengths=s) for a, s in zip(drawn, spaced, strict=True)], 8)
        for m in (3, 8)
    )
    strict = 0
    for answers, own, three, eight in zip(drawn, lengths, few, all_, strict=True):
        first = [answers[i] for i in sorted(range(8), key=own.__getitem__)[:3]]
        assert three.answer == str(voted(first))  # ties to the shortest, which comes first in `first`
        votes = sorted(Counter(answers).values(), reverse=True)
        if len(votes) == 1 or votes[0] > votes[1]:
            strict += 1
            assert eight.answer == str(voted(answers))
    assert strict > 600


def predictor(tmp_path, slope):
    """A file whose probe believes in what the model holds, the more the larger `slope` is."""
    probe = Probe("hidden", (0.0,), (1.0,), (slope,), 0.0)
    SuccessPredictor("fake", probe, probe, 1).to_calibration({}).save(tmp_path / "success.json")
    return str(tmp_path / "success.json")


def test_pruning_nothing_is_majority(tmp_path):
    """Stream by stream, keep = 1 with a vote each."""
    drawn, _ = streams(3, n=8)
    method = PrunedMajority(calibration=predictor(tmp_path, 1.0), keep=1, weighted=False)
    rng = np.random.default_rng(3)
    results = every(method, [Stream(answers, quality=rng.normal(size=8)) for answers in drawn], 8)
    assert [result.answer for result in results] == [str(voted(answers)) for answers in drawn]


def test_pruning_half_by_a_predictor_that_tells_loses_nothing(tmp_path):
    """Answer 0 is right; quality is one standard deviation higher where a sample is right.

    Accuracy of half of the samples is that of all of them at least, less three standard errors of the
    paired difference. Not vacuous: a predictor that knows nothing is behind by more than that.
    """
    drawn, _ = streams(3, n=8)
    rng = np.random.default_rng(4)
    quality = [rng.normal(size=8) + (np.array(answers) == 0) for answers in drawn]
    whole = np.array([voted(answers) == 0 for answers in drawn], float)
    losses = {}
    for slope in (1.0, 0.0):
        method = PrunedMajority(calibration=predictor(tmp_path, slope), keep=0.5)
        models = [Stream(a, quality=q) for a, q in zip(drawn, quality, strict=True)]
        results = every(method, models, 8)
        assert {len(result.candidates) for result in results} == {4}
        losses[slope] = whole - np.array([result.answer == "0" for result in results], float)
    room = 3 * losses[1.0].std() / math.sqrt(STREAMS)
    assert losses[1.0].mean() <= room
    assert losses[0.0].mean() > losses[1.0].mean() + room
