"""Every scheme is unbiased, exactly; none ever picks what has no weight."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itscale.randomness import Randomness, Seeded
from itscale.testing import enumerate_expectation, enumerate_law
from itscale.weights import SCHEMES, optimal
from itscale.weights.resampling import _checked

NAMES = sorted(SCHEMES)
EXACT = [[1.0], [0.5, 0.5], [0.7, 0.2, 0.1], [0.0, 0.25, 0.0, 0.75, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.6, 0.4]]

weights = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-300, 1e-12), st.floats(1e-3, 1.0)), min_size=1, max_size=12
).filter(lambda w: max(w) > 1e-3)
seeds = st.integers(0, 2**63 - 1)


def distribution(raw: list[float]) -> np.ndarray:
    """Weights as probabilities."""
    return np.array(raw) / np.sum(raw)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("p", EXACT, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_expected_copies_are_exact(name, p, n):
    """E[copies of i] = n p_i, over every outcome of every draw."""
    p = np.array(p)
    copies = enumerate_expectation(lambda rng: np.bincount(SCHEMES[name](p, n, rng), minlength=len(p)))
    assert copies == pytest.approx(n * p, abs=1e-12)


def test_a_biased_scheme_is_caught():
    """The same expectation exposes a systematic scheme whose offset is always the middle."""
    p = np.array([0.7, 0.2, 0.1])

    def rounded(rng: Randomness) -> np.ndarray:
        return np.bincount(np.searchsorted(np.cumsum(p), (np.arange(2) + 0.5) / 2, side="right"), minlength=3)

    assert abs(enumerate_expectation(rounded) - 2 * p).max() > 0.1


@given(raw=weights, n=st.integers(1, 30), seed=seeds)
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("name", NAMES)
def test_result_is_sorted_of_length_n_and_never_weightless(name, raw, n, seed):
    """For any weights, tiny and zero ones included."""
    p = distribution(raw)
    ancestors = SCHEMES[name](p, n, Seeded(seed))
    assert ancestors.shape == (n,)
    assert np.all(np.diff(ancestors) >= 0)
    assert np.all(p[ancestors] > 0)


@given(raw=weights, n=st.integers(1, 30), seed=seeds)
@settings(max_examples=80, deadline=None)
@pytest.mark.parametrize("name", ["residual", "stratified", "systematic"])
def test_copies_stay_near_their_expectation(name, raw, n, seed):
    """Systematic copies are floor or ceil of n p_i; residual at least floor; stratified within 2 of it."""
    p = distribution(raw)
    copies = np.bincount(SCHEMES[name](p, n, Seeded(seed)), minlength=len(p))
    if name == "systematic":
        assert np.all(np.abs(copies - n * p) < 1 + 1e-9)
    if name == "residual":
        assert np.all(copies >= np.floor(n * p - 1e-9))
    if name == "stratified":
        assert np.all(np.abs(copies - n * p) < 2)


@pytest.mark.parametrize("name", NAMES)
def test_one_weight_of_one_is_always_taken(name):
    """A degenerate distribution has one outcome, whatever the draws."""
    law = enumerate_law(lambda rng: tuple(SCHEMES[name](np.array([0.0, 1.0, 0.0]), 3, rng)))
    assert law == {(1, 1, 1): 1.0}


@pytest.mark.parametrize("name", ["residual", "stratified", "systematic"])
def test_equal_weights_are_kept_as_they_are(name):
    """N equal weights to N slots leaves nothing to chance, thirds and their rounding included."""
    for n in (2, 3, 7, 49, 1000):
        law = enumerate_law(lambda rng, n=n: tuple(SCHEMES[name](np.full(n, 1 / n), n, rng)))
        assert list(law) == [tuple(range(n))]


@pytest.mark.parametrize("name", NAMES)
def test_a_sum_just_short_of_one_loses_nobody(name):
    """The last index owns what rounding left of the top of the scale."""

    class Last(Randomness):
        seed = 0

        def choose(self, probabilities):
            return int(np.flatnonzero(probabilities)[-1])

        def child(self, *labels):
            return self

    p = np.array([0.1] * 10)
    assert np.cumsum(p)[-1] < 1
    assert SCHEMES[name](np.append(p, 0.0), 4, Last())[-1] == 9


def test_systematic_takes_one_choice_for_thousands():
    """4096 slots share one offset, chosen among at most N + 1 intervals."""
    asked = []

    class Counting(Seeded):
        def choose(self, probabilities):
            asked.append(len(probabilities))
            return super().choose(probabilities)

    SCHEMES["systematic"](distribution(list(np.arange(1.0, 4097.0))), 4096, Counting(0))
    assert len(asked) == 1
    assert asked[0] <= 4097


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "p",
    [[], [0.5, 0.6], [-0.5, 1.5], [float("nan"), 1.0], [[1.0]]],
    ids=["empty", "sum", "sign", "nan", "2d"],
)
def test_what_is_no_distribution_is_refused(name, p):
    """A ValueError, not a silent guess."""
    with pytest.raises(ValueError, match="sum to 1"):
        SCHEMES[name](np.array(p), 2, Seeded(0))


def test_no_slots_are_refused():
    """Resampling to nothing would lose the population."""
    with pytest.raises(ValueError, match="at least 1"):
        _checked(np.array([1.0]), 0)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("p", [*EXACT, [0.5, 0.3, 0.1, 0.06, 0.04]], ids=str)
def test_optimal_weights_are_exact_in_expectation(p, n):
    """E[new weight of i] = p_i, over every outcome; each index once, no more than n of them."""
    p = np.array(p)

    def weights(rng: Randomness) -> np.ndarray:
        picked, given = optimal(p, n, rng)
        assert len(set(picked.tolist())) == len(picked) == min(n, np.count_nonzero(p))
        return np.bincount(picked, weights=given, minlength=len(p))

    assert enumerate_expectation(weights) == pytest.approx(p, abs=1e-12)


@given(raw=weights, n=st.integers(1, 12), seed=seeds)
@settings(max_examples=80, deadline=None)
def test_optimal_threshold_solves_its_equation(raw, n, seed):
    """Whoever is above c keeps its weight, everybody else that is left has c, and sum min(p/c, 1) = n."""
    p = distribution(raw)
    picked, given = optimal(p, n, Seeded(seed))
    assert len(set(picked.tolist())) == len(picked)
    assert given.sum() == pytest.approx(1.0)
    if np.count_nonzero(p) > n:
        changed = given[given != p[picked]]
        c = changed.min() if len(changed) else given.min()
        assert np.minimum(p / c, 1).sum() == pytest.approx(n, rel=1e-6)


def test_optimal_has_less_error_than_resampling():
    """E sum (new - old)^2 is below that of systematic resampling to as many slots."""
    p, n = np.array([0.5, 0.3, 0.1, 0.06, 0.04]), 3

    def error(rng: Randomness, new) -> float:
        return float(np.sum((new(rng) - p) ** 2))

    def chosen(rng: Randomness) -> np.ndarray:
        picked, given = optimal(p, n, rng)
        return np.bincount(picked, weights=given, minlength=len(p))

    def resampled(rng: Randomness) -> np.ndarray:
        return np.bincount(SCHEMES["systematic"](p, n, rng), minlength=len(p)) / n

    assert enumerate_expectation(lambda rng: error(rng, chosen)) < enumerate_expectation(
        lambda rng: error(rng, resampled)
    )
