"""Forecasts of resampling against measurements of it, and the command that shows both."""

from __future__ import annotations

import itertools
import json
import math
import random
from statistics import fmean

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from itscale import cli
from itscale.bench.resampling import Forecast, resampled_accuracy, resampled_utility
from itscale.bench.verifiers import ImperfectVerifier
from itscale.commands import verifier as command
from itscale.errors import OptionError
from tests.bench.worlds import Coins, play_coins

KINDS = [(True, True), (True, False), (False, True), (False, False)]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_a_measurement_is_the_mean_over_all_orders(k):
    """Of four samples, first accepted of the first k, over all their permutations: brute force."""
    for samples in itertools.combinations_with_replacement(KINDS, 4):
        accurate, valued = [], []
        for order in itertools.permutations(samples):
            first = next((right for right, accepted in order[:k] if accepted), None)
            accurate.append(first is True)
            valued.append({True: 1.0, False: -2.0, None: 0.0}[first])
        assert resampled_accuracy(samples, k) == pytest.approx(fmean(accurate))
        assert resampled_utility(samples, k, cost=2) == pytest.approx(fmean(valued))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_measurement_is_unbiased(k):
    """Its mean over all outcomes of five samples is the closed form at the true rates."""
    one = ImperfectVerifier(right=0.3, false_positive=0.2, true_positive=0.8)
    law = dict(zip(KINDS, (0.24, 0.06, 0.14, 0.56), strict=True))
    mean = math.fsum(
        math.prod(law[s] for s in samples) * resampled_accuracy(samples, k)
        for samples in itertools.product(KINDS, repeat=5)
    )
    assert mean == pytest.approx(one.accuracy(k), abs=1e-12)


def mixed(problems, samples, seed=0):
    """Labelled samples of easy problems with a careful verifier and of hard ones with a careless one."""
    rng = random.Random(seed)
    rates = [(0.35, 0.01), (0.02, 0.05)]
    labelled = []
    for q in range(problems):
        p, f = rates[q % 2]
        right = [rng.random() < p for _ in range(samples)]
        labelled.append([(ok, ok or rng.random() < f) for ok in right])
    return labelled


def test_a_forecast_meets_what_is_measured():
    """Predicted from one half and measured on the other: the interval of their difference holds zero.

    The seed is fixed; of others each interval would miss once in twenty. A forecast from m samples is
    too low by some K (K - 1) / m times the variance of one sample, so K is small against m here.
    """
    forecast = Forecast(mixed(200, 256), cost=2)
    for k in (1, 2, 4, 8):
        low, high = forecast.error(k)
        assert low < 0 < high
        assert forecast.interval(k)[0] < forecast.measured(k).mean() < forecast.interval(k)[1]
    # Past a few tries the hard problems only add wrong answers; both halves see that.
    assert 2 <= forecast.best.k < 20
    assert 2 <= forecast.measured_best < 20
    assert forecast.best.at_most < forecast.best.utility
    assert forecast.ceiling > forecast.predicted(32)


def test_the_halves_share_no_sample():
    """A verifier that is perfect on the first half and blind on the second is believed and found out."""
    forecast = Forecast([[(True, True), (False, False), (True, False), (False, True)]] * 3)
    assert forecast.predicted(2) == pytest.approx(0.75)
    assert forecast.measured(2).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(OptionError, match="at least two samples"):
        Forecast([[(True, True)]])


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, ["verifier", *map(str, words)])


@pytest.fixture
def coins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scorer gives 0.7 to right answers and 0.4 to wrong ones."""
    play_coins(monkeypatch.setattr)
    monkeypatch.setattr(command, "load_task", lambda name: Coins())


@pytest.mark.usefixtures("coins")
@pytest.mark.parametrize(
    ("threshold", "cost", "said"),
    [
        (0.5, 1, "at a cost of 1 for a wrong answer more tries do not hurt up to N = 4"),
        (0.3, 2, "at a cost of 2 for a wrong answer no number of tries is worth it"),
    ],
)
def test_the_command_says_how_wrong_the_scorer_is(threshold, cost, said, tmp_path):
    """A threshold between the two scores makes a perfect verifier, one below both accepts everything."""
    file = tmp_path / "verifier.json"
    done = run(
        "coins",
        "--problems",
        20,
        "--samples",
        8,
        "--threshold",
        threshold,
        "--cost",
        cost,
        "--scorer",
        "x",
        "--json",
        file,
    )
    assert done.exit_code == 0, done.output
    assert said in done.stdout
    figures = json.loads(file.read_text())
    assert figures["true_positive"] == 1
    assert figures["false_positive"] == (0 if threshold == 0.5 else 1)
    assert [point["n"] for point in figures["curve"]] == [1, 2, 4]
    measured = np.array([point["measured"] for point in figures["curve"]])
    assert (np.diff(measured) > 0.05).all() if threshold == 0.5 else np.ptp(measured) < 1e-12


@pytest.mark.usefixtures("coins")
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--cost", -1), "cost is -1"),
        (("--samples", 1), "2 samples"),
        (("--aggregate", "lst"), "did you mean 'last'"),
        (("--scorer", "none"), "give one with --scorer"),
    ],
)
def test_what_cannot_be_forecast_is_refused(words, why):
    """One sentence with the fix, before any token."""
    done = run("coins", *words)
    assert done.exit_code == 2
    assert why in done.stderr
