"""The particle cascade: exact law by enumeration in every order of arrival, and what waits for what."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itscale.budget import Budget
from itscale.errors import OptionError
from itscale.events import Proposed, Weighed
from itscale.methods import ParticleCascade, particle_cascade
from itscale.methods.particle_cascade import Gate
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import enumerate_expectation
from itscale.types import StopReason
from itscale.weights import branch
from tests.methods.laws import deviation
from tests.methods.trees import JUDGEMENTS, PROMPT, SMALL, TREE, exact

CALM = {"a|": 0, "b|": 0, "x": 0, "y": 0}
SLOW_A = {"a|": 9, "b|": 0, "x": 3, "y": 1}
SLOW_B = {"a|": 0, "b|": 9, "x": 0, "y": 5}


class Uneven(FakeModel):
    """A fake model whose steps take as many turns of the event loop as their first token says."""

    def __init__(self, table: dict, turns: dict[str, int]) -> None:
        super().__init__(table)
        self._turns = turns

    async def extend(self, path, n, until, sampling, rng, ledger):
        children = await super().extend(path, n, until, sampling, rng, ledger)
        for _ in range(
            max(self._turns[self.vocabulary[child.token_ids[path.n_tokens]]] for child in children)
        ):
            await asyncio.sleep(0)
        return children


def off(method, table, n, turns=CALM) -> float:
    """Largest error of E[Zhat * weighted population] over all paths, and of E[Zhat]."""
    truth = exact(table, method.target)
    index = {ids: i for i, ids in enumerate(truth)}
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)

    async def estimate(rng) -> np.ndarray:
        result = await method.run(PROMPT, Uneven(table, turns), scorer, Budget(generations=n), rng)
        measure = np.zeros(len(index) + 1)
        for c in result.candidates:
            measure[index[c.path.token_ids]] += c.weight
        measure[-1] = 1.0
        return math.exp(result.log_evidence) * measure

    expected = np.array([*truth.values(), sum(truth.values())])
    return float(np.abs(enumerate_expectation(estimate) - expected).max())


@pytest.mark.parametrize("target", ["final", "product", "odds", "max", "sum"])
@pytest.mark.parametrize("window", [1.0, 2.0])
def test_law_is_exact_for_two_particles(target, window):
    """Three depths, every target: evidence times weighted population is unbiased."""
    assert deviation(ParticleCascade(target=target, window=window), TREE, 2) < 1e-12


def test_law_is_exact_for_three_particles():
    """Three particles, so that a mean of three decides, and a path has up to three copies."""
    assert deviation(ParticleCascade(window=1.0), SMALL, 3) < 1e-12


@pytest.mark.parametrize("races", [False, True])
@pytest.mark.parametrize("turns", [SLOW_A, SLOW_B], ids=["slow a", "slow b"])
def test_law_is_exact_whatever_arrives_first(races, turns):
    """What a step says decides how long it takes, so who is first depends on the draw: no bias."""
    assert off(ParticleCascade(races=races, window=1.0), TREE, 2, turns) < 1e-12


def run(method, table=TREE, n=8, seed=0, turns=CALM, **budget):
    """A run to its end."""
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)
    return asyncio.run(
        method.run(PROMPT, Uneven(table, turns), scorer, Budget(generations=n, **budget), seed)
    )


def told(result) -> list:
    """What a result says."""
    return [result.text, result.log_evidence, [(c.path.text, c.weight) for c in result.candidates]]


def test_one_seed_is_one_result_whatever_the_speed():
    """Arrivals are taken in the order they were begun in: timing changes nothing."""
    for seed in range(8):
        calm, *others = [told(run(ParticleCascade(), seed=seed, turns=t)) for t in (CALM, SLOW_A, SLOW_B)]
        assert all(other == calm for other in others)


def test_racing_results_depend_on_speed():
    """With `races` the first to arrive decides what the others are held against."""
    method = ParticleCascade(races=True, window=1.0)
    results = [[told(run(method, seed=seed, turns=t)) for seed in range(8)] for t in (SLOW_A, SLOW_B)]
    assert results[0] != results[1]
    assert method.races
    assert not ParticleCascade().races


def finished_before_the_slow_one(method) -> int:
    """How many paths were done while path 0's first step still ran (it never would have ended)."""
    slow = asyncio.Event()
    calls = 0

    class Stuck(FakeModel):
        async def extend(self, path, n, until, sampling, rng, ledger):
            nonlocal calls
            calls += 1
            if calls == 3:
                await slow.wait()
            return await super().extend(path, n, until, sampling, rng, ledger)

    async def scenario() -> int:
        scorer = FakeProcessScorer(lambda texts: 0.5)
        model = Stuck(
            {(): {"a|": 1.0}, ("a|",): {"b|": 1.0}, ("a|", "b|"): {"x": 1.0}, ("a|", "b|", "x"): {"$": 1.0}}
        )
        ended = []

        def observe(event) -> None:
            if type(event).__name__ == "Proposed" and event.end == "eos":
                ended.append(event.path)

        task = asyncio.ensure_future(method.run(PROMPT, model, scorer, Budget(generations=5), 0, observe))
        for _ in range(200):
            await asyncio.sleep(0)
        seen = len(ended)
        slow.set()
        result = await task
        assert len(result.candidates) == 5
        return seen

    return asyncio.run(scenario())


def test_a_slow_path_holds_up_only_those_begun_after_it():
    """The third of five is stuck: two end meanwhile in order, and all four others in a race."""
    assert finished_before_the_slow_one(ParticleCascade()) == 2
    assert finished_before_the_slow_one(ParticleCascade(races=True)) == 4


def planted(**changed):
    """`branch` with a bug."""
    honest = branch

    def broken(log_weight, log_mean, rng, **options):
        copies, each = honest(log_weight, log_mean, rng, **options)
        return changed["bug"](copies, each, log_weight, log_mean)

    return broken


@pytest.mark.parametrize(
    "bug",
    [
        lambda copies, each, weight, mean: (copies, weight),
        lambda copies, each, weight, mean: (copies, mean),
        lambda copies, each, weight, mean: (copies, each - math.log(max(copies, 1))),
    ],
    ids=["survivors keep their weight", "everybody gets the mean", "copies share twice"],
)
def test_wrong_weights_of_those_that_go_on_are_caught(monkeypatch, bug):
    """Each of the slips that leave a plausible population moves its law."""
    monkeypatch.setattr(particle_cascade, "branch", planted(bug=bug))
    assert deviation(ParticleCascade(window=1.0), TREE, 2) > 1e-3


def test_evidence_per_path_instead_of_per_start_is_caught(monkeypatch):
    """Dividing by how many paths ended, not by how many were begun, is biased."""

    def per_path(self, session, cascade):
        result = honest(self, session, cascade)
        scale = math.log(len(cascade.ended) / session.generations)
        return type(result)(result.candidates, result.chosen, result.log_evidence - scale, result.ess)

    honest = ParticleCascade._outcome
    monkeypatch.setattr(ParticleCascade, "_outcome", per_path)
    assert deviation(ParticleCascade(window=1.0), TREE, 2) > 1e-3


def test_an_ended_path_that_is_branched_for_nothing_is_caught(monkeypatch):
    """Dropping ended paths below the mean without raising the survivors' weight is biased."""
    honest = Gate.in_turn

    def drops(self, landed, *, races):
        for flight, judged in honest(self, landed, races=races):
            light = judged and judged[0].ended and flight.log_weight < self.arrived.log_total
            yield flight, None if light else judged

    monkeypatch.setattr(Gate, "in_turn", drops)
    assert deviation(ParticleCascade(window=1.0), TREE, 2) > 1e-3


@given(
    st.floats(-20, 20),
    st.floats(-20, 20),
    st.booleans(),
    st.integers(1, 9),
    st.floats(1, 8),
)
def test_branching_keeps_the_weight(log_weight, log_mean, more, most, window):
    """E[M V] = W for every weight, mean, rounding, cap and window."""

    def copies(rng) -> float:
        m, v = branch(log_weight, log_mean, rng, more=more, most=most, window=window)
        assert m <= most
        return m * math.exp(v)

    assert float(enumerate_expectation(copies)) == pytest.approx(math.exp(log_weight), rel=1e-9)


def test_the_population_stays_near_n():
    """Five steps of very uneven judgements: of 32 paths 8 to 64 are left, on each of six fixed seeds."""
    table = {}

    def grow(prefix) -> None:
        if len(prefix) == 5:
            table[prefix] = {"$": 1.0}
            return
        table[prefix] = {"a|": 0.5, "b|": 0.5}
        for token in table[prefix]:
            grow((*prefix, token))

    grow(())
    scorer = FakeProcessScorer(lambda texts: 0.9 if texts[-1] == "a|" else 0.1)
    for window in (1.0, 2.0):
        method = ParticleCascade(target="product", window=window)
        sizes = [
            len(
                asyncio.run(
                    method.run(PROMPT, FakeModel(table), scorer, Budget(generations=32), s)
                ).candidates
            )
            for s in range(6)
        ]
        assert 8 <= min(sizes) <= max(sizes) <= 64


@pytest.mark.parametrize("races", [False, True])
@pytest.mark.parametrize("turns", [CALM, SLOW_A, SLOW_B], ids=["calm", "slow a", "slow b"])
def test_every_step_is_weighed_once_all_have_arrived(races, turns):
    """One event a step: the paths that came there with what they weighed, and those that ended before.
    The last one holds the candidates and their weights, as where nothing waits for anything."""
    result = run(ParticleCascade(target="product", races=races), n=6, turns=turns)
    events = [e for e in result.trace.events if isinstance(e, Weighed)]
    steps = max(c.path.depth for c in result.candidates)
    assert len(events) == steps > 1
    first = [e for e in result.trace.events if isinstance(e, Proposed) and e.parent == 0]
    assert sorted(events[0].paths) == sorted(e.path for e in first)
    for event in events:
        assert math.fsum(event.weights) == pytest.approx(1)
        assert event.ess == pytest.approx(1 / math.fsum(w * w for w in event.weights))
    ended = sorted(zip(result.path_ids, (c.weight for c in result.candidates), strict=True))
    last = sorted(zip(events[-1].paths, events[-1].weights, strict=True))
    assert [path for path, _ in last] == [path for path, _ in ended]
    assert [weight for _, weight in last] == pytest.approx([weight for _, weight in ended])


def test_what_all_lost_is_not_weighed():
    """A call that failed leaves no weight; the step is told of those that came."""
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)
    model = FakeModel(TREE, fail=lambda call: call == 1)
    result = asyncio.run(ParticleCascade().run(PROMPT, model, scorer, Budget(generations=4), 0))
    first = next(e for e in result.trace.events if isinstance(e, Weighed))
    assert len(first.paths) == 3


def test_rounds_are_limited():
    """A path still open after `max_steps` steps has no answer, and the limit is the reason told."""
    result = run(ParticleCascade(max_steps=1))
    assert result.stop_reason is StopReason.STEPS
    assert all(c.answer is None for c in result.candidates if not c.path.finished)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target": "finel"}, "did you mean 'final'"),
        ({"window": 0.5}, "at least 1"),
        ({"window": math.inf}, "at least 1"),
        ({"max_steps": 0}, "at least 1"),
    ],
)
def test_impossible_options_are_refused(options, says):
    """At construction, with what to do instead."""
    with pytest.raises(OptionError, match=says):
        ParticleCascade(**options)
