"""Imperfect verifiers and coverage: the closed forms against simulation by enumeration, and the pins."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itscale.bench.statistics import coverage, pass_at_k
from itscale.bench.verifiers import (
    ImperfectVerifier,
    best_k,
    estimate_verifier,
    predicted_accuracy,
    predicted_utility,
)

RATES = st.floats(0, 1)


def test_the_ceiling_of_the_card():
    """p = .2, f = .3: 0.4545, whatever the number of tries."""
    one = ImperfectVerifier(right=0.2, false_positive=0.3)
    assert one.ceiling == pytest.approx(0.2 / 0.44)
    assert one.accuracy(1) == pytest.approx(0.2)
    assert one.accuracy(1000) == pytest.approx(one.ceiling)


def test_a_mix_of_problems_has_a_best_k():
    """The card's mix at cost 2: best K = 8 with 0.392, against 0.159 at 1 and 0.253 at 59."""
    mix = [ImperfectVerifier(right=p, false_positive=f) for p, f in ((0.35, 0.01), (0.02, 0.02))]
    best = best_k(mix, cost=2, most=59)
    assert best.k == 8
    assert (best.utility, best.at_one, best.at_most) == pytest.approx((0.392, 0.159, 0.253), abs=5e-4)


@given(RATES, RATES, RATES, st.integers(1, 5))
def test_the_closed_forms_are_those_of_every_outcome(right, false_positive, true_positive, k):
    """Against the sum over all sequences of k samples, each right or not, accepted or not."""
    one = ImperfectVerifier(right=right, false_positive=false_positive, true_positive=true_positive)
    law = {
        (True, True): right * true_positive,
        (True, False): right * (1 - true_positive),
        (False, True): (1 - right) * false_positive,
        (False, False): (1 - right) * (1 - false_positive),
    }
    returned = accurate = drawn = wrong = 0.0
    for tries in itertools.product(law, repeat=k):
        probability = math.prod(law[t] for t in tries)
        first = next((i for i, (_, accepted) in enumerate(tries) if accepted), None)
        drawn += probability * (k if first is None else first + 1)
        if first is not None:
            returned += probability
            accurate += probability * tries[first][0]
            wrong += probability * (not tries[first][0])
    assert one.returned(k) == pytest.approx(returned, abs=1e-9)
    assert one.accuracy(k) == pytest.approx(accurate, abs=1e-9)
    assert one.samples(k) == pytest.approx(drawn, abs=1e-6)
    assert one.utility(k, cost=2) == pytest.approx(accurate - 2 * wrong, abs=1e-9)


@given(RATES, RATES, st.floats(0, 5))
def test_one_problem_alone_has_no_best_k_in_between(right, false_positive, cost):
    """Utility is monotone in K: the best of 1..20 is at an end."""
    one = ImperfectVerifier(right=right, false_positive=false_positive)
    utilities = [one.utility(k, cost=cost) for k in range(1, 21)]
    assert max(utilities) <= max(utilities[0], utilities[-1]) + 1e-12


def test_a_perfect_verifier_gives_coverage():
    """f = 0, t = 1: accuracy is 1 - (1 - p)^K and utility is the same at any cost."""
    problems = [ImperfectVerifier(right=p, false_positive=0) for p in (0.1, 0.6)]
    expected = (2 - 0.9**5 - 0.4**5) / 2
    assert predicted_accuracy(problems, 5) == pytest.approx(expected)
    assert predicted_utility(problems, 5, cost=9) == pytest.approx(expected)


def test_rates_are_estimated_from_labels():
    """Two of five right, one of them accepted; one of three wrong accepted; missing classes are harmless."""
    labelled = [(True, True), (True, False), (False, True), (False, False), (False, False)]
    one = estimate_verifier(labelled)
    assert (one.right, one.true_positive, one.false_positive) == pytest.approx((0.4, 0.5, 1 / 3))
    assert estimate_verifier([(True, True)]).accuracy(3) == 1
    assert estimate_verifier([(False, False)]).accuracy(3) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: estimate_verifier([]),
        lambda: predicted_accuracy([], 1),
        lambda: ImperfectVerifier(right=1.1, false_positive=0),
        lambda: ImperfectVerifier(right=0.1, false_positive=0.1).accuracy(0),
        lambda: best_k([ImperfectVerifier(right=0.1, false_positive=0.1)], cost=1, most=0),
        lambda: pass_at_k(3, 1, 4),
        lambda: pass_at_k(3, 4, 1),
        lambda: pass_at_k(3, 1, 0),
        lambda: coverage([], 1),
    ],
)
def test_impossible_figures_are_refused(wrong):
    """Nothing is estimated from nothing, and pass@k never from fewer than k samples."""
    with pytest.raises(ValueError, match=r"give|pass@"):
        wrong()


@pytest.mark.parametrize(("q", "n", "k"), [(0.23, 12, 4), (0.5, 5, 5), (0.01, 30, 1), (0.9, 8, 3)])
def test_pass_at_k_is_unbiased(q, n, k):
    """Its mean over Binomial(n, q) is 1 - (1 - q)^k; the plug-in estimate is low."""
    law = [math.comb(n, c) * q**c * (1 - q) ** (n - c) for c in range(n + 1)]
    mean = math.fsum(p * pass_at_k(n, c, k) for c, p in enumerate(law))
    assert mean == pytest.approx(1 - (1 - q) ** k, abs=1e-12)
    plug_in = math.fsum(p * (1 - (1 - c / n) ** k) for c, p in enumerate(law))
    assert plug_in <= mean + 1e-12


def test_pass_at_k_ends_and_grows():
    """k = 1 is the share, k = n is whether any is right, and it grows with k."""
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert [pass_at_k(10, c, 10) for c in (0, 1, 10)] == [0, 1, 1]
    values = [pass_at_k(10, 3, k) for k in range(1, 11)]
    assert values == sorted(values)
    assert coverage([(10, 3), (4, 0)], 1) == pytest.approx(0.15)
