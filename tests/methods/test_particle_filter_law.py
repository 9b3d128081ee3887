"""The particle filter's exact law: every draw enumerated, N >= 2, against brute force.

With Zhat = exp(log_evidence) and W the final normalised weights, E[Zhat * sum_i W_i delta(x_i)] is
p(x) * prod_t G_t(x) for every path x, whatever the scheme, the threshold and N.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from itscale.budget import Budget
from itscale.events import Resampled
from itscale.methods.filtering import TARGETS
from itscale.methods.particle_filter import ParticleFilter
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import enumerate_expectation
from itscale.types import Path
from itscale.weights import SCHEMES, Population
from itscale.weights import population as population_module
from tests.methods.trees import END, JUDGEMENTS, POTENTIALS, PROMPT, SMALL, TREE, exact


def deviation(method: ParticleFilter, table: dict, n: int, resampled: list[int] | None = None) -> float:
    """Largest error of E[Zhat * weighted population] and of E[Zhat], over all paths, by enumeration."""
    truth = exact(table, method.target)
    index = {ids: i for i, ids in enumerate(truth)}
    model, scorer = FakeModel(table), FakeProcessScorer(JUDGEMENTS.__getitem__)

    async def estimate(rng) -> np.ndarray:
        result = await method.run(PROMPT, model, scorer, Budget(generations=n), rng)
        assert result.log_evidence is not None
        measure = np.zeros(len(index) + 1)
        for c in result.candidates:
            measure[index[c.path.token_ids]] += c.weight
        measure[-1] = 1.0
        if resampled is not None:
            resampled.append(sum(isinstance(event, Resampled) for event in result.trace.events))
        return math.exp(result.log_evidence) * measure

    expected = np.array([*truth.values(), sum(truth.values())])
    return float(np.abs(enumerate_expectation(estimate) - expected).max())


@pytest.mark.parametrize(
    ("resampling", "target", "ess_threshold"),
    [
        *((scheme, target, 0.7) for scheme in sorted(SCHEMES) for target in sorted(POTENTIALS)),
        *((scheme, "final", 1.0) for scheme in sorted(SCHEMES)),
    ],
)
def test_law_is_exact_for_two_particles(resampling, target, ess_threshold):
    """Three depths, every scheme, every target, resampling always or only when uneven."""
    resampled: list[int] = []
    method = ParticleFilter(target=target, resampling=resampling, ess_threshold=ess_threshold)
    assert deviation(method, TREE, 2, resampled) < 1e-12
    assert len(set(resampled)) > 1, "both kinds of round must occur, or the test shows nothing"


@pytest.mark.parametrize(
    ("resampling", "target"),
    [
        *((scheme, "final") for scheme in sorted(SCHEMES)),
        *(("systematic", target) for target in sorted(POTENTIALS)),
    ],
)
def test_law_is_exact_for_three_particles(resampling, target):
    """Three particles on two depths, so that finished and growing ones are resampled together."""
    assert (
        deviation(ParticleFilter(target=target, resampling=resampling, ess_threshold=0.8), SMALL, 3) < 1e-12
    )


def test_a_sampled_answer_has_the_same_law():
    """With choose="sample" the evidence times the answer alone is unbiased for the target."""
    truth = exact(TREE, "final")
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)

    async def answer(rng) -> np.ndarray:
        method = ParticleFilter(choose="sample", ess_threshold=1.0)
        result = await method.run(PROMPT, FakeModel(TREE), scorer, Budget(generations=2), rng)
        chosen = result.candidates[result.chosen].path.token_ids
        return math.exp(result.log_evidence or 0.0) * np.array([chosen == x for x in truth], float)

    assert enumerate_expectation(answer) == pytest.approx(np.array(list(truth.values())), abs=1e-12)


def test_law_is_exact_without_any_resampling():
    """Threshold 0 is importance sampling: the weights are carried to the end."""
    resampled: list[int] = []
    assert deviation(ParticleFilter(target="product", ess_threshold=0), TREE, 2, resampled) < 1e-12
    assert set(resampled) == {0}


def test_law_holds_under_temperature():
    """The target is the tempered model's law times the potentials."""
    method = ParticleFilter(temperature=0.5, ess_threshold=1.0)
    squared = {
        prefix: {t: p**2 / sum(q**2 for q in row.values()) for t, p in row.items()}
        for prefix, row in SMALL.items()
    }
    truth = exact(squared, "final")
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)

    async def mass(rng) -> np.ndarray:
        result = await method.run(PROMPT, FakeModel(SMALL), scorer, Budget(generations=2), rng)
        weight = math.exp(result.log_evidence or 0.0)
        return np.array(
            [weight * sum(c.weight for c in result.candidates if c.path.token_ids == x) for x in truth]
        )

    assert enumerate_expectation(mass) == pytest.approx(np.array(list(truth.values())), abs=1e-12)


class DropsWeightsWhenNotResampling(ParticleFilter):
    """Keeps the evidence, yet forgets who earned it."""

    def _resampled(self, population, session, step):
        again = super()._resampled(population, session, step)
        return Population(again.items, np.full(len(again), again.log_evidence))


class ForgetsEvidence(ParticleFilter):
    """Starts from weight 1 after every resampling, as if it had cost nothing."""

    def _resampled(self, population, session, step):
        again = super()._resampled(population, session, step)
        return again if again is population else Population.start(again.items)


class FreezesFinishedOut(ParticleFilter):
    """Resamples growing paths among themselves and leaves finished ones their slot, not their weight."""

    def _resampled(self, population, session, step):
        if population.ess >= self.ess_threshold * len(population):
            return population
        growing = [i for i, path in enumerate(population.items) if not path.ended]
        part = Population(tuple(growing), population.log_weights[growing])
        chosen, _ = part.resample(self.resampling, session.rng.child("resample", step))
        items = list(population.items)
        for slot, source in zip(growing, chosen.items, strict=True):
            items[slot] = population.items[source]
        return Population(tuple(items), np.full(len(items), population.log_evidence))


class ReweightsFinished(ParticleFilter):
    """Multiplies a finished path's last potential in again, every round."""

    async def _extended(self, population, scores, session):
        again = await super()._extended(population, scores, session)
        frozen = [old is new for old, new in zip(population.items, again.items, strict=True)]
        return again.reweight(
            [math.log(scores[p][-1]) if f else 0.0 for p, f in zip(again.items, frozen, strict=True)]
        )


class ResamplesAfterTheEnd(ParticleFilter):
    """Resamples the finished population and takes the result for the weighted one."""

    def _outcome(self, population, scores, rng, stop):
        again, _ = population.resample(self.resampling, rng.child("end"))
        return super()._outcome(Population.start(again.items), scores, rng, stop)


def test_counting_the_score_of_a_prefix_twice_is_caught(monkeypatch):
    """Using r_t where the final target needs r_t / r_{t-1} is another law."""
    monkeypatch.setitem(TARGETS, "final", TARGETS["product"])
    assert deviation(ParticleFilter(ess_threshold=1.0), TREE, 2) > 1e-2


@pytest.mark.parametrize("target", ["max", "sum"])
def test_an_uncorrected_last_potential_is_caught(monkeypatch, target):
    """The targets `max` and `sum` are p * r_T only because of their last potential."""
    on_the_way, _ = TARGETS[target]
    monkeypatch.setitem(TARGETS, target, (on_the_way, on_the_way))
    assert deviation(ParticleFilter(target=target), TREE, 2) > 1e-2


@pytest.mark.parametrize(
    ("broken", "ess_threshold"),
    [
        (DropsWeightsWhenNotResampling, 0.7),
        (ForgetsEvidence, 1.0),
        (FreezesFinishedOut, 1.0),
        (ReweightsFinished, 1.0),
        (ResamplesAfterTheEnd, 1.0),
    ],
)
def test_planted_bug_is_caught(broken, ess_threshold):
    """Each of the field's usual mistakes moves the law by far more than rounding."""
    assert deviation(broken(ess_threshold=ess_threshold), TREE, 2) > 1e-3


def test_resampling_on_squared_weights_is_caught(monkeypatch):
    """Sharper weights look like better answers, and are the wrong law."""
    honest = SCHEMES["systematic"]

    def squared(p, n, rng):
        return honest(p**2 / np.sum(p**2), n, rng)

    monkeypatch.setitem(population_module.SCHEMES, "systematic", squared)
    assert deviation(ParticleFilter(ess_threshold=1.0), TREE, 2) > 1e-3


def test_one_particle_hides_what_two_show():
    """With N = 1 all these mistakes are invisible: test with N >= 2."""
    for broken in (DropsWeightsWhenNotResampling, ForgetsEvidence, FreezesFinishedOut):
        assert deviation(broken(ess_threshold=1.0), TREE, 1) < 1e-12


def test_copies_of_one_path_grow_apart():
    """Two slots that hold the same path object draw their next steps independently."""
    table = {(): {"a|": 1.0}, ("a|",): {"x": 0.5, "y": 0.5}, ("a|", "x"): END, ("a|", "y"): END}
    scorer = FakeProcessScorer(lambda texts: 0.5)

    async def both(rng) -> np.ndarray:
        start: dict[str, Path] = {}

        class Shared(ParticleFilter):
            async def _extended(self, population, scores, session):
                if population.items[0].depth:
                    start["same"] = population.items[0]
                    population = Population((population.items[0],) * 2, population.log_weights)
                return await super()._extended(population, scores, session)

        result = await Shared().run(PROMPT, FakeModel(table), scorer, Budget(generations=2), rng)
        first, second = (c.path for c in result.candidates)
        assert first.parent is second.parent is start["same"]
        return np.array([first.text == second.text, first.text == "a|x"], float)

    assert enumerate_expectation(both) == pytest.approx(np.array([0.5, 0.5]), abs=1e-12)
