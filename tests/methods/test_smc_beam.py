"""SMC beam: its law by enumeration, no duplicates, and what it asks of model and scorer."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest

from itscale.budget import Budget
from itscale.errors import OptionError
from itscale.methods import SMCBeam, smc_beam
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from itscale.types import StopReason
from itscale.weights import Population
from tests.methods.laws import deviation
from tests.methods.trees import JUDGEMENTS, PROMPT, SMALL, TREE


@pytest.mark.parametrize(("n", "width"), [(2, 1), (2, 2)])
def test_law_is_exact(n, width):
    """Three depths, kept and drawn prefixes, merged children, finished paths among them."""
    assert deviation(SMCBeam(width=width), TREE, n) < 1e-12


@pytest.mark.parametrize("target", ["product", "odds", "max", "sum"])
def test_law_is_exact_for_every_target(target):
    """As for the particle filter."""
    assert deviation(SMCBeam(width=2, target=target), SMALL, 4) < 1e-12


def test_survivors_that_keep_their_small_weight_are_caught(monkeypatch):
    """What survives below the threshold weighs as much as the threshold."""

    def careless(self, n, rng):
        kept = Population.reduce_honestly(self, n, rng)
        own = [self.log_weights[self.items.index(item)] for item in kept.items]
        return Population(kept.items, np.array(own) + math.log(len(kept) / len(self)))

    monkeypatch.setattr(Population, "reduce_honestly", Population.reduce, raising=False)
    monkeypatch.setattr(Population, "reduce", careless)
    assert deviation(SMCBeam(width=2), TREE, 2) > 1e-3


def test_keeping_the_best_only_is_caught(monkeypatch):
    """Beam search's cut is another law."""

    def best(self, n, rng):
        order = np.argsort(-self.log_weights, kind="stable")[:n]
        scale = math.log(len(order) / len(self))
        return Population(tuple(self.items[i] for i in order), self.log_weights[order] + scale)

    monkeypatch.setattr(Population, "reduce", best)
    assert deviation(SMCBeam(width=2), TREE, 2) > 1e-3


def test_forgetting_how_often_a_child_came_is_caught(monkeypatch):
    """Children that say the same are one with the sum of their weights."""
    honest = smc_beam._merged

    def even(family):
        kinds = honest(family)
        return dict.fromkeys(kinds, 1 / len(kinds))

    monkeypatch.setattr(smc_beam, "_merged", even)
    assert deviation(SMCBeam(width=2), SMALL, 4) > 1e-3


def run(method, n=8, seed=0, **options):
    """A run to its end, its model and its scorer."""
    model, scorer = FakeModel(TREE, **options), FakeProcessScorer(JUDGEMENTS.__getitem__)
    return asyncio.run(method.run(PROMPT, model, scorer, Budget(generations=n), seed)), model, scorer


@pytest.mark.parametrize("seed", range(4))
def test_no_candidate_comes_twice_and_none_is_judged_twice(seed):
    """Different texts only; the scorer is asked once for each prefix that is a path of its own."""
    result, _, scorer = run(SMCBeam(), seed=seed)
    texts = [c.path.text for c in result.candidates]
    assert len(set(texts)) == len(texts)
    assert scorer.calls == result.usage.scorer_calls <= len(JUDGEMENTS)
    assert math.fsum(c.weight for c in result.candidates) == pytest.approx(1.0)


def test_a_limit_on_steps_leaves_open_paths_without_an_answer():
    """The reason is named and the candidates are what there was."""
    result, _, _ = run(SMCBeam(max_steps=1))
    assert result.stop_reason is StopReason.STEPS
    assert all(c.path.depth == 1 for c in result.candidates)


def test_a_failed_call_costs_its_path_alone():
    """The others go on; the failed one is in no candidate."""
    result, model, _ = run(SMCBeam(), fail=lambda call: call == 1, seed=1)
    assert model.calls > 2
    assert result.usage.failed_calls == 1
    assert result.candidates


def test_impossible_options_are_refused():
    """At construction."""
    for options in ({"width": 0}, {"max_steps": 0}, {"target": "finel"}, {"choose": "best"}):
        with pytest.raises(OptionError):
            SMCBeam(**options)
