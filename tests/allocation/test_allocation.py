"""Many prompts under one budget: shares, laws, plans, and what is refused."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itscale.allocation import OnlinePlan, PetsOffline, PetsOnline, Uniform
from itscale.allocation.consistency import consistency_curve, probit_fit
from itscale.allocation.pets_offline import optimistic_gain
from itscale.allocation.pets_online import PATTERNS, Bucket
from itscale.budget import Budget
from itscale.errors import AllFailedError, CalibrationError, OptionError, PromptError
from itscale.methods import Majority
from itscale.methods.adaptive_consistency import dirichlet_lead
from itscale.models.fake import FakeModel
from itscale.testing import enumerate_law
from itscale.types import Prompt, StopReason

LAWS = {"coin": {"1": 0.5, "2": 0.5}, "sure": {"1": 0.9, "2": 0.1}, "die": dict.fromkeys("1234", 0.25)}


class Laws(FakeModel):
    """Answers a prompt by the law it is called for."""

    def __init__(self, laws=LAWS, **options):
        super().__init__({(): {"$": 1.0}}, **options)
        self.laws, self.options, self.most_running = laws, options, 0

    async def extend(self, path, n, until, sampling, rng, ledger):
        if path.prompt.question not in self.laws:
            raise PromptError("ask for a law")
        law = {f"Answer: {a}" if a != "-" else "none": p for a, p in self.laws[path.prompt.question].items()}
        table = {(): law, **{(text,): {"$": 1.0} for text in law}}
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await FakeModel(table, **self.options).extend(path, n, until, sampling, rng, ledger)
        finally:
            self.running -= 1


def allocated(rule, prompts, samples, seed=0, model=None, **limits):
    return asyncio.run(rule.run(prompts, model or Laws(), Budget(generations=samples, **limits), seed))


def shares(result):
    return [answered.started for answered in result.answers]


@lru_cache
def lead(counts):
    """P(the first is the largest) for theta_i ~ Gamma(c_i + 1), by a fine trapezoid."""
    x = np.linspace(0, 60, 20_001)
    first, *rest = counts
    density = x**first * np.exp(-x) / math.factorial(first)
    for c in rest:
        density = density * (1 - sum(x**k * np.exp(-x) / math.factorial(k) for k in range(c + 1)))
    return float(np.trapezoid(density, x))


def by_hand(drawn, samples):
    """PETS on prompts whose answers will be `drawn[q][i]`: how many each gets, and the votes."""
    taken = [0] * len(drawn)
    for _ in range(samples):
        gains = []
        for q, answers in enumerate(drawn):
            first, *rest = sorted(Counter(answers[: taken[q]]).values(), reverse=True) or [0]
            gains.append(lead((first + 1, *rest, 0)) - lead((first, *rest, 0)))
        taken[max(range(len(drawn)), key=lambda q: (round(gains[q], 6), -q))] += 1
    return tuple(taken)


def test_offline_law_is_that_of_the_papers_loop():
    """Shares of two prompts have the law of the loop written out, over all draws, one at a time."""
    law = enumerate_law(
        lambda rng: _shares_of(PetsOffline(in_flight=1), ["coin", "sure"], 5, rng), max_replays=5000
    )
    expected: Counter = Counter()
    for coin in itertools.product("12", repeat=4):
        for sure in itertools.product("12", repeat=4):
            p = 0.5**4 * math.prod(LAWS["sure"][a] for a in sure)
            expected[by_hand([coin, sure], 5)] += p
    assert law == pytest.approx(dict(expected), abs=1e-9)


async def _shares_of(rule, prompts, samples, rng):
    return tuple(shares(await rule.run(prompts, Laws(), Budget(generations=samples), rng)))


@pytest.mark.parametrize("in_flight", [1, 5, 64])
def test_equal_prompts_get_equal_shares(in_flight):
    """Within one sample, however many are under way."""
    model = Laws({"a": {"1": 1.0}})
    for rule in (PetsOffline(in_flight=in_flight), Uniform(in_flight=in_flight)):
        got = shares(allocated(rule, ["a"] * 6, 20, model=model))
        assert sum(got) == 20
        assert max(got) - min(got) <= 1


def test_the_gain_prefers_the_undecided():
    """1 : 1 comes before 10 : 0, and the leader is where an optimistic vote counts most."""
    assert optimistic_gain((1, 1)) > optimistic_gain((10, 0))
    for counts in itertools.combinations_with_replacement(range(4, -1, -1), 3):
        one_more = [
            dirichlet_lead(
                tuple(sorted((c + (i == k) for i, c in enumerate((*counts, 0))), reverse=True)[:4])
            )
            for k in range(4)
        ]
        assert max(one_more) == pytest.approx(one_more[0], abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_undecided_get_more(seed):
    """A die takes more than a sure thing; three sure prompts are left at a few samples."""
    got = shares(allocated(PetsOffline(), ["die", "sure", "sure", "sure"], 60, seed))
    assert sum(got) == 60
    assert got[0] > max(got[1:])


def test_a_prompt_without_answers_does_not_take_everything():
    """Samples that state nothing count as one answer: knowing that is knowing enough."""
    model = Laws({"mute": {"-": 1.0}, "coin": {"1": 0.5, "2": 0.5}})
    result = allocated(PetsOffline(), ["mute", "coin"], 40, model=model)
    assert shares(result)[0] < 20
    assert result.answers[0].answer is None


def test_samples_are_those_of_majority():
    """Sample i of a prompt is sample i of majority under the prompt's seed, and so is the answer."""
    model = Laws()
    run = Uniform().run(["die", "coin"], model, Budget(generations=10), seeds=[7, 8])
    result = asyncio.run(run)
    for answered, seed in zip(result.answers, (7, 8), strict=True):
        alone = asyncio.run(Majority().run(answered.prompt, model, None, Budget(generations=5), seed))
        assert [c.answer for c in answered.candidates] == [c.answer for c in alone.candidates]
        assert answered.answer == alone.answer


def test_the_result_does_not_depend_on_speed():
    """With latencies the same shares and answers come back; as many samples as allowed are under way."""
    fast, slow = Laws(), Laws(latency_s=0.001)
    prompts = ["die", "coin", "sure"] * 3
    results = [allocated(PetsOffline(in_flight=4), prompts, 40, model=model) for model in (fast, slow)]
    assert shares(results[0]) == shares(results[1])
    assert [a.answer for a in results[0].answers] == [a.answer for a in results[1].answers]
    assert slow.most_running == 4


def test_every_limit_binds_and_every_token_is_counted():
    """A token limit ends the run with what there is; usage is what the model made."""
    result = allocated(Uniform(in_flight=2), ["coin", "die"], 100, tokens=20)
    assert result.stop_reason is StopReason.TOKENS
    assert result.usage.generated_tokens <= 20
    kept = sum(c.path.n_tokens for a in result.answers for c in a.candidates)
    assert result.usage.generated_tokens == kept + result.usage.discarded_tokens


def test_a_refused_prompt_costs_only_itself():
    """The others get the budget, and the refusal is said."""
    for rule in (PetsOffline(), Uniform()):
        result = allocated(rule, ["coin", "what?"], 8)
        assert result.answers[1].refused == "ask for a law"
        assert result.answers[1].text == ""
        assert result.answers[0].started == 8 - result.answers[1].started


def test_with_nothing_left_the_error_is_typed():
    """Every call failing is an error; half of them failing costs those samples."""
    with pytest.raises(AllFailedError, match="every sample failed"):
        allocated(Uniform(), ["coin"], 3, model=Laws(fail=lambda call: True))


def test_the_exact_consistency_curve():
    """The pins of four answers; brute force with ties; a certain answer is always found."""
    assert consistency_curve([0.4, 0.3, 0.2, 0.1], 9)[[0, 1, 2, 4, 8]] == pytest.approx(
        [0.4, 0.4, 0.44, 0.49, 0.5562], abs=5e-4
    )
    assert consistency_curve([1.0], 5) == pytest.approx(np.ones(5))
    law = [0.5, 0.2, 0.2, 0.1]
    for k in (2, 4, 6):
        total = 0.0
        for drawn in itertools.product(range(4), repeat=k):
            votes = Counter(drawn)
            if votes[0] == max(votes.values()):
                winners = sum(v == votes[0] for v in votes.values())
                total += math.prod(law[i] for i in drawn) / winners
        assert consistency_curve(law, k)[-1] == pytest.approx(total)
    a, b = probit_fit(consistency_curve([0.4, 0.3, 0.2, 0.1], 12))
    assert (a, b) == pytest.approx((0.218, -0.515), abs=1e-3)


def a_plan(model="fake"):
    easy, hard = [60, 4], [24, 20, 12, 8]
    return OnlinePlan.fit([easy, easy, hard], model)


def test_shares_of_the_buckets_are_those_of_four_draws():
    """Of one law, by enumeration; they sum to one over any questions."""
    law = LAWS["sure"]
    expected: Counter = Counter()
    for drawn in itertools.product(law, repeat=4):
        expected[tuple(sorted(Counter(drawn).values(), reverse=True))] += math.prod(law[a] for a in drawn)
    plan = OnlinePlan.fit([[9, 1]], "m")
    assert {b.pattern: b.share for b in plan.buckets} == pytest.approx(dict(expected))
    assert sum(b.share for b in a_plan().buckets) == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(st.floats(4, 40), st.integers(4, 64))
def test_a_plan_keeps_its_mean(mean, most):
    """sum pi_t B_t is at most the mean, no B_t above the most, none below the first four."""
    plan = a_plan()
    totals = plan.totals(mean, most)
    assert sum(b.share * totals[b.pattern] for b in plan.buckets) <= mean + 1e-9
    assert all(4 <= total <= most for total in totals.values())


def test_a_plan_gives_more_where_the_curve_rises():
    """Agreement of four is left at four; a falling curve gets nothing more."""
    totals = a_plan().totals(12, 64)
    assert totals[(4,)] < totals[(2, 2)]
    falling = OnlinePlan("m", (Bucket((4,), 0.5, 1.0, 0.0), Bucket((1, 1, 1, 1), 0.5, -0.1, 0.0)))
    assert falling.totals(30, 64)[(1, 1, 1, 1)] == 4


@pytest.mark.parametrize("in_flight", [1, 8])
def test_online_shares_follow_the_first_four_answers(in_flight):
    """Each prompt gets its bucket's total; the global budget always leaves four for those to come."""
    model = Laws()
    plan = a_plan(model.identity)
    prompts = ["sure", "die", "coin"] * 4
    result = allocated(PetsOnline(plan=plan, in_flight=in_flight), prompts, 120, model=model)
    totals = plan.totals(10, 64)
    for answered in result.answers:
        four = tuple(sorted(Counter(c.answer for c in answered.candidates[:4]).values(), reverse=True))
        assert answered.started <= totals.get(four, 4)
    assert sum(shares(result)) <= 120
    assert min(shares(result)) >= 4
    tight = shares(allocated(PetsOnline(plan=plan), ["die"] * 10, 45, model=model))
    assert sum(tight) <= 45
    assert min(tight) == 4


def test_online_law():
    """Two prompts, all draws: a share is 4 or the bucket's total, with the bucket's probability."""
    plan = OnlinePlan("fake", tuple(Bucket(p, 0.2, 1.0 if p == (2, 2) else -1.0, 0.0) for p in PATTERNS))
    total = plan.totals(4.4, 6)[(2, 2)]
    assert total == 6

    async def run(rng):
        rule = PetsOnline(plan=plan, most=6, in_flight=1)
        return tuple(shares(await rule.run(["coin", "coin"], Laws(), Budget(generations=9), rng)))

    law = enumerate_law(run, max_replays=5000)
    # With 9 in all, one more than eight: the first 2+2 takes what is left.
    p = 6 / 16
    assert law == pytest.approx({(5, 4): p, (4, 5): (1 - p) * p, (4, 4): (1 - p) ** 2})


def test_a_plan_survives_its_file(tmp_path):
    """What was saved is loaded; the file is readable JSON with version, model and evidence."""
    plan = a_plan("local:abc")
    file = tmp_path / "plan.json"
    plan.to_calibration({"questions": 3}).save(file)
    assert OnlinePlan.load(file) == plan
    content = json.loads(file.read_text())
    assert content["model"] == "local:abc"
    assert content["evidence"] == {"questions": 3}
    assert content["itscale"]


def test_what_cannot_work_is_refused(tmp_path):
    """Before any token, with what would do instead."""
    model = Laws()
    with pytest.raises(CalibrationError, match="belongs to model other"):
        allocated(PetsOnline(plan=a_plan("other")), ["coin"], 10, model=model)
    with pytest.raises(OptionError, match="looks at 4 samples"):
        allocated(PetsOnline(plan=a_plan("fake")), ["coin"] * 3, 10, model=model)
    with pytest.raises(OptionError, match="set budget generations"):
        asyncio.run(Uniform().run(["coin"], model, Budget()))
    with pytest.raises(OptionError, match="at least one prompt"):
        allocated(Uniform(), [], 10, model=model)
    with pytest.raises(OptionError, match="seeds"):
        asyncio.run(Uniform().run([Prompt.user("coin")], model, Budget(generations=2), seeds=[1, 2]))
    for options in ({"in_flight": 0}, {"options": 1}):
        with pytest.raises(OptionError, match="at least"):
            PetsOffline(**options)
    assert model.calls == 0
    broken = tmp_path / "broken.json"
    for text, what in (("{", "no calibration file"), ('{"calibration": "x"}', "no calibration file")):
        broken.write_text(text)
        with pytest.raises(CalibrationError, match=what):
            OnlinePlan.load(broken)
    with pytest.raises(CalibrationError, match="no calibration at"):
        OnlinePlan.load(tmp_path / "absent.json")
    a_plan().to_calibration({}).save(broken)
    content = json.loads(broken.read_text())
    for change, what in (
        ({"calibration": "early-exit"}, "not 'pets-online'"),
        ({"format": 9}, "format 9"),
        ({"values": {"buckets": [{}]}}, "broken plan"),
    ):
        broken.write_text(json.dumps(content | change))
        with pytest.raises(CalibrationError, match=what):
            OnlinePlan.load(broken)
    with pytest.raises(CalibrationError, match="at least 4 samples"):
        OnlinePlan.fit([[1, 1]], "m")
