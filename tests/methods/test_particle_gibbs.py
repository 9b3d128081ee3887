"""Particle Gibbs: the conditional sweep leaves the target exactly invariant, by enumeration."""

from __future__ import annotations

import asyncio
import itertools
import math

import numpy as np
import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import OptionError
from itscale.events import Trace
from itscale.methods import ParticleFilter, ParticleGibbs, filtering, particle_gibbs
from itscale.methods.particle_gibbs import conditional_sweep, drawn
from itscale.methods.session import Session
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import all_paths, enumerate_law
from itscale.types import Sampling, StopReason
from itscale.weights import Population
from tests.methods.trees import JUDGEMENTS, PROMPT, SMALL, TREE, exact


def drift(table: dict, n: int, **options) -> float:
    """How far one sweep moves the target: the next reference's law less that of the reference."""
    weights = exact(table, options.get("target", "final"))
    target = {ids: w / sum(weights.values()) for ids, w in weights.items()}
    model, scorer = FakeModel(table), FakeProcessScorer(JUDGEMENTS.__getitem__)
    references = {path.token_ids: path for path, _ in all_paths(model, PROMPT)}

    async def sweep(rng) -> tuple[int, ...]:
        session = Session(PROMPT, model, scorer, Ledger(Budget()), rng, Trace(), Sampling(), 64)
        reference = references[list(target)[rng.child("start").choose(list(target.values()))]]
        scores = {session.root: ()}
        for node in reference.nodes():
            texts = tuple(step.text for step in node.steps)
            scores[node] = tuple(JUDGEMENTS[texts[: i + 1]] for i in range(len(texts)))
        population = await conditional_sweep(session, rng.child("sweep"), n, scores, reference, **options)
        return drawn(population, rng.child("next")).token_ids

    law = enumerate_law(sweep)
    return max(abs(law[ids] - p) for ids, p in target.items())


@pytest.mark.parametrize("target", ["final", "product", "max"])
@pytest.mark.parametrize("ess_threshold", [0.0, 0.8, 1.0])
def test_two_particles_leave_the_target_invariant(target, ess_threshold):
    """Three depths, with and without resampling: a reference from the target gives one from it."""
    assert drift(TREE, 2, target=target, ess_threshold=ess_threshold) < 1e-12


@pytest.mark.parametrize("target", ["final", "odds"])
@pytest.mark.parametrize("ess_threshold", [0.7, 1.0])
def test_three_particles_leave_the_target_invariant(target, ess_threshold):
    """Copies of the reference, finished paths and fresh ones together."""
    assert drift(SMALL, 3, target=target, ess_threshold=ess_threshold) < 1e-12


def test_a_reference_one_step_ahead_is_caught(monkeypatch):
    """The published kernel's slip: the others' step t is weighed against the reference's t + 1."""
    honest = filtering.reference_at
    monkeypatch.setattr(filtering, "reference_at", lambda reference, depth: honest(reference, depth + 1))
    assert drift(TREE, 2, ess_threshold=1.0) > 1e-3


def test_free_slots_that_are_not_drawn_independently_are_caught(monkeypatch):
    """Systematic resampling of the free slots ignores that one slot is given: another law."""

    def systematic(population, rng, reference):
        free, _ = population.resample("systematic", rng, len(population) - 1)
        return Population((population.items[0], *free.items), np.zeros(len(population)))

    monkeypatch.setattr(particle_gibbs, "_resampled", systematic)
    assert drift(SMALL, 3, ess_threshold=1.0) > 1e-4


def test_resampling_after_the_end_is_caught(monkeypatch):
    """Drawing once more at the end, then by the same weights again, counts them twice."""

    def draws_twice(population, rng):
        _, ancestors = population.resample("multinomial", rng.child("free"), len(population) - 1)
        slots = [0, *ancestors.tolist()]
        again = population.weights[slots] / population.weights[slots].sum()
        return population.items[slots[rng.choose(again)]]

    monkeypatch.setitem(globals(), "drawn", draws_twice)
    assert drift(SMALL, 2, ess_threshold=1.0) > 1e-3


def run(method, table=TREE, n=8, seed=0, **options):
    """A run to its end, and the model it ran on."""
    model = FakeModel(table, **options)
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)
    return asyncio.run(method.run(PROMPT, model, scorer, Budget(generations=n), seed)), model


def test_one_iteration_is_a_particle_filter():
    """With multinomial resampling its law of the answer is that of the unconditional sweep."""
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)

    def law(method) -> dict[str, float]:
        async def answer(rng) -> str:
            return (await method.run(PROMPT, FakeModel(SMALL), scorer, Budget(generations=2), rng)).text

        return enumerate_law(answer)

    gibbs = ParticleGibbs(iterations=1, choose="sample", ess_threshold=0.8)
    plain = ParticleFilter(resampling="multinomial", choose="sample", ess_threshold=0.8)
    assert law(gibbs) == pytest.approx(law(plain))


def test_every_sweep_but_the_first_keeps_a_path_of_the_one_before():
    """Slot 0 is the reference, the same object, and was a candidate of the sweep before."""
    result, _ = run(ParticleGibbs(iterations=4), n=12)
    sweeps = [[c.path for c in result.candidates[i : i + 3]] for i in range(0, 12, 3)]
    assert all(after[0] in before for before, after in itertools.pairwise(sweeps))
    assert math.fsum(c.weight for c in result.candidates) == pytest.approx(1.0)


def test_the_last_sweep_alone_may_answer():
    """`pool=last` is the paper's choice: candidates and weights of one sweep."""
    result, _ = run(ParticleGibbs(iterations=2, pool="last"), n=8)
    assert len(result.candidates) == 4
    assert math.fsum(c.weight for c in result.candidates) == pytest.approx(1.0)


@pytest.mark.parametrize(("n", "sweeps"), [(1, 1), (2, 1), (3, 1), (5, 2), (16, 4)])
def test_the_budget_is_shared_over_sweeps_of_at_least_two(n, sweeps):
    """N paths are started at most; the reference of a sweep costs no generation."""
    result, _ = run(ParticleGibbs(iterations=4), n=n)
    assert len(result.candidates) == sweeps * (n // sweeps)
    assert len({c.path for c in result.candidates}) <= n
    assert result.stop_reason is StopReason.DONE


def test_a_sweep_whose_free_paths_all_fail_keeps_the_reference():
    """A failure costs its candidate: the reference is still there, with all the weight."""
    result, model = run(ParticleGibbs(iterations=2), SMALL, 4, 1, fail=lambda call: call >= 4)
    last = result.candidates[2:]
    assert model.calls >= 5
    assert result.usage.failed_calls > 0
    assert [c.weight for c in last] == pytest.approx([0.5, 0.0])
    assert last[0].path.finished


def test_a_sweep_cut_short_is_left_out():
    """A token limit in the second sweep leaves the first one's candidates, whole."""
    model = FakeModel(TREE)
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)
    budget = Budget(generations=8, tokens=14)
    result = asyncio.run(ParticleGibbs(iterations=2).run(PROMPT, model, scorer, budget, 0))
    assert result.stop_reason is StopReason.TOKENS
    assert len(result.candidates) == 4
    assert all(c.path.finished for c in result.candidates)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pool": "al"}, "did you mean 'all'"),
        ({"target": "finel"}, "did you mean 'final'"),
        ({"ess_threshold": -0.1}, "0 to 1"),
        ({"iterations": 0}, "at least 1"),
    ],
)
def test_impossible_options_are_refused(options, says):
    """At construction, with what to do instead."""
    with pytest.raises(OptionError, match=says):
        ParticleGibbs(**options)
