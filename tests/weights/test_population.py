"""Populations: the formulas, and that evidence survives every verb."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itscale.errors import AllFailedError
from itscale.randomness import Seeded
from itscale.testing import enumerate_expectation
from itscale.weights import SCHEMES, Population

finite_or_lost = st.one_of(st.just(-math.inf), st.floats(-700, 700))
log_weights = st.lists(finite_or_lost, min_size=1, max_size=8).filter(lambda w: max(w) > -math.inf)


def population(values: list[float]) -> Population[int]:
    """Slots 0, 1, ... with these log weights."""
    return Population.start(range(len(values))).reweight(values)


@given(log_weights)
@settings(max_examples=60, deadline=None)
def test_formulas_agree_with_exact_arithmetic(values):
    """Weights, ESS and evidence as defined, against sums of the largest-scaled weights in math.fsum."""
    p = population(values)
    top = max(values)
    w = [math.exp(v - top) for v in values]
    total = math.fsum(w)
    assert p.weights == pytest.approx([x / total for x in w], rel=1e-12)
    assert p.ess == pytest.approx(total**2 / math.fsum(x * x for x in w), rel=1e-12)
    assert p.log_evidence == pytest.approx(top + math.log(total / len(w)), rel=1e-12, abs=1e-12)
    assert 1 - 1e-12 <= p.ess <= len(w) + 1e-9


@given(log_weights, st.floats(-500, 500))
@settings(max_examples=60, deadline=None)
def test_a_constant_factor_moves_the_evidence_alone(values, shift):
    """Scaling all weights changes neither shares nor ESS."""
    p, q = population(values), population([v + shift for v in values])
    assert q.weights == pytest.approx(p.weights, abs=1e-9)
    assert q.ess == pytest.approx(p.ess, rel=1e-9)
    assert q.log_evidence == pytest.approx(p.log_evidence + shift, abs=1e-9)


@given(log_weights, st.sampled_from(sorted(SCHEMES)), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_resampling_keeps_the_evidence(values, scheme, n):
    """Afterwards every log weight is the log evidence before, to whatever number of slots."""
    p = population(values)
    again, ancestors = p.resample(scheme, Seeded(1), n)
    assert len(again) == len(ancestors) == n
    assert again.items == tuple(p.items[a] for a in ancestors)
    assert np.all(again.log_weights == p.log_evidence)
    assert again.log_evidence == pytest.approx(p.log_evidence, abs=1e-12)
    assert again.ess == pytest.approx(n)


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_resampling_is_unbiased_for_weighted_sums(scheme):
    """The evidence times the weighted mean of any function keeps its expectation, exactly."""
    p = population([math.log(0.2), -math.inf, math.log(1.5), math.log(0.4)])
    f = np.array([3.0, 100.0, -1.0, 7.0])

    def estimate(rng):
        again, _ = p.resample(scheme, rng, n=3)
        return math.exp(again.log_evidence) * float(again.weights @ f[list(again.items)])

    assert enumerate_expectation(estimate) == pytest.approx((0.2 * 3 - 1.5 + 0.4 * 7) / 4, abs=1e-12)


def test_reweighting_multiplies():
    """Two steps of increments are one step of their sum; the first population is untouched."""
    start = Population.start("xyz")
    once, twice = start.reweight([1.0, 2.0, -math.inf]), start.reweight([0.5] * 3)
    assert twice.reweight([0.5, 1.5, -math.inf]).log_weights.tolist() == once.log_weights.tolist()
    assert start.log_weights.tolist() == [0.0, 0.0, 0.0]
    assert start.ess == 3.0


def test_weights_cannot_be_written_to():
    """A population is a value; its array is its own and read-only."""
    mine = np.zeros(2)
    p = Population((1, 2), mine)
    mine[0] = 5.0
    assert p.log_weights.tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="read-only"):
        p.log_weights[0] = 1.0


def test_all_lost_is_an_error_that_says_what_to_do():
    """No weight anywhere: typed, with the fix."""
    with pytest.raises(AllFailedError, match="check that the model answers"):
        Population.start("ab").reweight([-math.inf, -math.inf])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_weight_is_refused(bad):
    """NaN and +inf come from a broken potential and must not spread."""
    with pytest.raises(ValueError, match="finite or -inf"):
        Population.start("ab").reweight([0.0, bad])
    with pytest.raises(ValueError, match="finite or -inf"):
        Population(("a", "b"), np.array([0.0, bad]))


def test_counts_must_agree():
    """One increment for each item, one weight for each item, at least one item."""
    with pytest.raises(ValueError, match="exactly one each"):
        Population.start("ab").reweight([0.0])
    with pytest.raises(ValueError, match="as many weights"):
        Population(("a", "b"), np.zeros(3))
    with pytest.raises(ValueError, match="at least one"):
        Population.start("")


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("by", [[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]])
def test_drawing_by_other_weights_is_unbiased(scheme, by):
    """E[sum of new weights of i, over n] is w_i over N, whatever the items were drawn by."""
    p = population([0.3, -1.0, 1.2])

    def measure(rng):
        again, ancestors = p.resample(scheme, rng, 2, by=by)
        held = np.zeros(3)
        np.add.at(held, ancestors, np.exp(again.log_weights) / 2)
        return held

    assert enumerate_expectation(measure) == pytest.approx(np.exp(p.log_weights) / 3, abs=1e-12)


def test_an_item_that_could_never_be_drawn_is_refused():
    """Weight that no draw can reach would be lost, and the estimate with it."""
    with pytest.raises(ValueError, match="never be drawn"):
        population([0.0, 0.0]).resample("systematic", Seeded(0), by=[0.0, -math.inf])
    again, ancestors = population([0.0, -math.inf]).resample("systematic", Seeded(0), by=[0.0, -math.inf])
    assert ancestors.tolist() == [0, 0]
    assert again.log_evidence == pytest.approx(math.log(0.5))
