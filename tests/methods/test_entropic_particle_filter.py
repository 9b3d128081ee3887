"""Entropic particle filtering: its law by enumeration, its limits, and what look-ahead costs."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest

from itscale.budget import Budget
from itscale.errors import OptionError
from itscale.events import Resampled
from itscale.methods import EntropicParticleFilter, ParticleFilter
from itscale.methods.entropic_particle_filter import annealing_temperature
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import enumerate_expectation, enumerate_law
from itscale.weights import Population
from tests.methods.trees import END, JUDGEMENTS, PROMPT, SMALL, TREE, exact

ALWAYS = {"ess_threshold": 1.0, "early_phase": 1.0, "max_steps": 4}


def run(method, table, n, seed, judge=JUDGEMENTS.__getitem__):
    """A run to its end."""
    return asyncio.run(
        method.run(PROMPT, FakeModel(table), FakeProcessScorer(judge), Budget(generations=n), seed)
    )


def deviation(method, table: dict, n: int) -> float:
    """Largest error of E[Zhat * weighted population] over all paths, by enumeration."""
    truth = exact(table, method.target)
    index = {ids: i for i, ids in enumerate(truth)}
    model, scorer = FakeModel(table), FakeProcessScorer(JUDGEMENTS.__getitem__)

    async def estimate(rng) -> np.ndarray:
        result = await method.run(PROMPT, model, scorer, Budget(generations=n), rng)
        measure = np.zeros(len(index))
        for c in result.candidates:
            measure[index[c.path.token_ids]] += c.weight
        return math.exp(result.log_evidence) * measure

    return float(np.abs(enumerate_expectation(estimate) - np.array(list(truth.values()))).max())


class DropsWhatIsLeft(EntropicParticleFilter):
    """Gives all slots the mean weight after a draw that was not by the weights."""

    async def _resampled(self, population, scores, session, step):
        again = await super()._resampled(population, scores, session, step)
        if again is population:
            return again
        return Population(again.items, np.full(len(again), population.log_evidence))


@pytest.mark.parametrize("annealing", ["ess", "entropy", "base"])
@pytest.mark.parametrize("target", ["final", "odds"])
def test_law_is_exact_for_two_particles(annealing, target):
    """Every rule, over three depths: flattening the draw leaves the target what it is."""
    method = EntropicParticleFilter(annealing=annealing, target=target, **ALWAYS)
    assert deviation(method, TREE, 2) < 1e-12


@pytest.mark.parametrize("annealing", ["ess", "entropy", "base"])
@pytest.mark.parametrize("look_ahead", [0.0, 0.5, 1.0])
def test_law_is_exact_for_three_particles_with_look_ahead(annealing, look_ahead):
    """Trial steps steer the draw and nothing else; finished paths are among the drawn."""
    method = EntropicParticleFilter(annealing=annealing, look_ahead=look_ahead, **ALWAYS)
    assert deviation(method, SMALL, 2 if look_ahead else 3) < 1e-12


@pytest.mark.parametrize("options", [{"annealing": "entropy"}, {"look_ahead": 1.0, "early_phase": 0.0}])
def test_dropping_what_the_draw_left_over_is_caught(options):
    """Both for annealing and for look-ahead, a planted reset of the weights moves the law."""
    assert deviation(DropsWhatIsLeft(**{**ALWAYS, **options}), SMALL, 2) > 1e-3


@pytest.mark.parametrize("off", [{"ess_threshold": 0.0}, {"early_phase": 0.0}])
@pytest.mark.parametrize("seed", range(5))
def test_without_annealing_it_is_the_particle_filter(off, seed):
    """Same seed, same paths, same weights as systematic resampling after every uneven step."""
    ours = run(EntropicParticleFilter(**off), TREE, 6, seed)
    plain = run(ParticleFilter(ess_threshold=1.0), TREE, 6, seed)
    assert [c.path.text for c in ours.candidates] == [c.path.text for c in plain.candidates]
    assert [c.weight for c in ours.candidates] == pytest.approx([c.weight for c in plain.candidates])
    assert ours.log_evidence == pytest.approx(plain.log_evidence)


def test_as_published_and_without_annealing_it_is_the_published_filter():
    """`correct=False` replaces weights as the code of the particle filter paper does."""
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)

    def law(method) -> dict[str, float]:
        async def answer(rng) -> str:
            return (await method.run(PROMPT, FakeModel(SMALL), scorer, Budget(generations=2), rng)).text

        return enumerate_law(answer)

    ours = EntropicParticleFilter(correct=False, early_phase=0.0, resampling="multinomial", choose="argmax")
    assert law(ours) == pytest.approx(law(ParticleFilter(compatibility="puri2025")))
    assert run(ours, TREE, 4, 0).log_evidence is None


def test_annealing_keeps_more_ancestors():
    """What it is for: with one path far ahead, more different paths outlive the first draw."""
    table = {(): {f"{i}|": 0.125 for i in range(8)}, **{(f"{i}|",): {"x": 1.0} for i in range(8)}}
    table |= {(f"{i}|", "x"): END for i in range(8)}

    def survivors(method) -> float:
        results = [run(method, table, 8, s, lambda t: 0.97 if t[0] == "0|" else 0.03) for s in range(40)]
        drawn = [next((e for e in r.trace.events if isinstance(e, Resampled)), None) for r in results]
        return float(np.mean([len(set(event.paths)) for event in drawn if event]))

    plain, annealed = (
        survivors(EntropicParticleFilter(early_phase=phase, ess_threshold=0.9)) for phase in (0.0, 1.0)
    )
    assert annealed > plain + 1


def test_full_look_ahead_over_a_certain_step_evens_the_weights():
    """gamma = 1, G = r and a next step that is certain: the draw already accounts for it."""
    table = {(): {"a|": 0.5, "b|": 0.5}, ("a|",): {"x": 1.0}, ("b|",): {"y": 1.0}}
    table |= {("a|", "x"): END, ("b|", "y"): END}
    judged = {("a|",): 0.6, ("b|",): 0.5, ("a|", "x"): 0.2, ("b|", "y"): 0.7}.__getitem__
    method = EntropicParticleFilter(look_ahead=1.0, target="product", early_phase=0.0)
    results = [run(method, table, 4, seed, judged) for seed in range(6)]
    assert any(isinstance(event, Resampled) for result in results for event in result.trace.events)
    for result in results:
        assert [c.weight for c in result.candidates] == pytest.approx([0.25] * 4)


def test_trial_steps_are_paid_for_and_discarded():
    """Four paths of one token and one of two: the trials generate the two again, and are dropped."""
    table = {(): {"a|": 0.5, "b|": 0.5}, ("a|",): {"x": 1.0}, ("b|",): {"x": 1.0}}
    table |= {("a|", "x"): END, ("b|", "x"): END}
    model, scorer = FakeModel(table), FakeProcessScorer(lambda texts: 0.5)
    method = EntropicParticleFilter(look_ahead=0.5)
    result = asyncio.run(method.run(PROMPT, model, scorer, Budget(generations=4), 1))
    assert result.usage.generated_tokens == model.tokens_generated == 4 * 1 + 4 * 2 + 4 * 2
    assert result.usage.discarded_tokens == 4 * 2
    assert scorer.calls == 12


def test_a_failed_trial_costs_nothing_but_its_foresight():
    """Every trial fails and the run goes on with all its paths."""
    model = FakeModel(SMALL, fail=lambda call: 4 <= call < 8)
    scorer = FakeProcessScorer(lambda texts: 0.5)
    # Seed 2 starts four paths of which some go on: those are tried.
    method = EntropicParticleFilter(look_ahead=1.0)
    result = asyncio.run(method.run(PROMPT, model, scorer, Budget(generations=4), 2))
    assert result.usage.failed_calls > 0
    assert len(result.candidates) == 4


def test_temperature_is_never_below_one():
    """On a grid of states no rule ever sharpens the draw."""
    grid = [0.01, 0.3, 0.7, 1.0]
    for rule in ("ess", "entropy", "base"):
        values = [annealing_temperature(rule, e, h, q) for e in grid for h in grid for q in grid]
        assert min(values) == 1.0
        assert max(values) > 1.0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"annealing": "es"}, "did you mean 'ess'"),
        ({"early_phase": 1.5}, "0 to 1"),
        ({"look_ahead": -0.1}, "0 to 1"),
        ({"max_steps": 0}, "at least 1"),
        ({"correct": False, "target": "odds"}, "leave out"),
        ({"correct": False, "look_ahead": 0.5}, "leave out"),
    ],
)
def test_impossible_options_are_refused(options, says):
    """At construction, with what to do instead."""
    with pytest.raises(OptionError, match=says):
        EntropicParticleFilter(**options)
