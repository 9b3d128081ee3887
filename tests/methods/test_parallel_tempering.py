"""Parallel tempering: the chains' joint law is exactly invariant, and offers are told."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import OptionError
from itscale.events import Exchanged, Trace
from itscale.explain import explanation
from itscale.methods import ParallelTempering, ParticleGibbs, parallel_tempering
from itscale.methods.filtering import TARGETS
from itscale.methods.parallel_tempering import exchanged
from itscale.methods.particle_gibbs import drawn
from itscale.methods.session import Session
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import all_paths, enumerate_law
from itscale.types import Path, Sampling, StopReason
from tests.methods.trees import END, JUDGEMENTS, PROMPT, SMALL, TREE

POWERS = (0.3, 1.0)
TINY = {(): {"a|": 0.6, "x": 0.4}, ("x",): END, ("a|",): {"x": 1.0}, ("a|", "x"): END}


def step_scores(path: Path) -> tuple[float, ...]:
    """Of a path, by the table."""
    texts = tuple(step.text for step in path.steps)
    return tuple(JUDGEMENTS[texts[: i + 1]] for i in range(len(texts)))


def tempered(table: dict, target: str, power: float) -> dict[Path, float]:
    """p * w_T^power over the finished paths of a table, normalised."""
    law = {
        path: p * math.exp(power * TARGETS[target][1](step_scores(path)))
        for path, p in all_paths(FakeModel(table), PROMPT)
    }
    return {path: w / sum(law.values()) for path, w in law.items()}


def session_on(table: dict, rng) -> Session:
    """A run about to begin."""
    model, scorer = FakeModel(table), FakeProcessScorer(JUDGEMENTS.__getitem__)
    return Session(PROMPT, model, scorer, Ledger(Budget()), rng, Trace(), Sampling(), 64)


def known(session: Session, *paths: Path) -> dict:
    """The scores of paths and their prefixes."""
    return {session.root: ()} | {node: step_scores(node) for path in paths for node in path.nodes()}


def drift_of_offers(table: dict, target: str, powers) -> float:
    """How far the offers alone move the joint law of chains that have their targets."""
    laws = [tempered(table, target, power) for power in powers]

    async def offers(rng) -> tuple:
        session = session_on(table, rng)
        paths = [list(law)[rng.child("start", k).choose(list(law.values()))] for k, law in enumerate(laws)]
        scores = known(session, *paths)
        after = exchanged(session, paths, powers, scores, rng.child("offers"), target=target)
        return tuple(path.token_ids for path in after)

    law = enumerate_law(offers)
    joint = {
        tuple(path.token_ids for path in paths): math.prod(laws[k][path] for k, path in enumerate(paths))
        for paths in itertools.product(*laws)
    }
    return max(abs(law.get(ids, 0.0) - p) for ids, p in joint.items())


@pytest.mark.parametrize("target", ["final", "product", "max"])
@pytest.mark.parametrize("powers", [(0.3, 1.0), (0.2, 0.5, 1.0)])
def test_offers_leave_the_joint_law_invariant(target, powers):
    """Independent chains with their targets have them, independently, after all offers."""
    assert drift_of_offers(TREE, target, powers) < 1e-12


def drift_of_rounds(table: dict, n: int = 2) -> float:
    """How far a whole round, sweeps and offers, moves the joint law of two chains."""
    laws = [tempered(table, "final", power) for power in POWERS]
    method = ParallelTempering(ess_threshold=1.0)

    async def one_round(rng) -> tuple:
        session = session_on(table, rng)
        paths = [list(law)[rng.child("start", k).choose(list(law.values()))] for k, law in enumerate(laws)]
        scores = known(session, *paths)
        populations = await method._swept(session, 1, n, POWERS, paths, scores)
        after = [drawn(p, rng.child("next", k)) for k, p in enumerate(populations)]
        after = exchanged(session, after, POWERS, scores, rng.child("offers"))
        return tuple(path.token_ids for path in after)

    law = enumerate_law(one_round)
    return max(
        abs(law.get((one.token_ids, two.token_ids), 0.0) - p * q)
        for one, p in laws[0].items()
        for two, q in laws[1].items()
    )


def test_a_round_leaves_the_joint_law_invariant():
    """Two chains of two particles: sweeps of tempered targets, then an offer."""
    assert drift_of_rounds(SMALL) < 1e-12


@pytest.mark.parametrize(
    "ratio",
    [
        lambda low, high, lower, upper: (high - low) * (upper - lower),
        lambda low, high, lower, upper: 0.0,
        lambda low, high, lower, upper: upper - lower,
    ],
    ids=["the wrong way round", "always", "without the powers"],
)
def test_a_wrong_probability_is_caught(monkeypatch, ratio):
    """The formula in circulation has all terms cancel, which exchanges always: another law."""
    monkeypatch.setattr(parallel_tempering, "log_ratio", ratio)
    assert drift_of_offers(TREE, "final", POWERS) > 1e-3


def test_a_sweep_at_the_wrong_power_is_caught(monkeypatch):
    """Chains that all have the full weight, and exchange as if they had not."""
    honest = parallel_tempering.conditional_sweep
    monkeypatch.setattr(
        parallel_tempering, "conditional_sweep", lambda *a, power, **options: honest(*a, power=1.0, **options)
    )
    assert drift_of_rounds(TINY) > 1e-3


def run(method, n=16, seed=0, **budget):
    """A run to its end."""
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)
    return asyncio.run(method.run(PROMPT, FakeModel(TREE), scorer, Budget(generations=n, **budget), seed))


def test_one_chain_is_particle_gibbs():
    """The same sweeps of the same size; their draws have other names."""
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)

    def law(method) -> dict[str, float]:
        async def answer(rng) -> str:
            return (await method.run(PROMPT, FakeModel(SMALL), scorer, Budget(generations=2), rng)).text

        return enumerate_law(answer)

    tempering = ParallelTempering(chains=1, iterations=1, choose="sample")
    assert law(tempering) == pytest.approx(law(ParticleGibbs(iterations=1, choose="sample")))


def test_every_offer_is_told():
    """Rounds times neighbours, each with its probability; the explanation counts those taken."""
    result = run(ParallelTempering(chains=3, iterations=2), n=24)
    offers = [event for event in result.trace.events if isinstance(event, Exchanged)]
    assert len(offers) == 4
    assert {event.powers for event in offers} == {(0.25, 0.5), (0.5, 1.0)}
    assert all(0 < event.probability <= 1 for event in offers)
    said = " ".join(str(part) for part in explanation(result).renderables)
    assert "of 2 rounds" in said


@pytest.mark.parametrize(("n", "chains", "sweeps"), [(1, 1, 1), (3, 1, 1), (4, 2, 1), (12, 3, 2), (64, 3, 4)])
def test_the_budget_is_shared(n, chains, sweeps):
    """Sweeps of at least two particles: fewer rounds first, then fewer chains."""
    result = run(ParallelTempering(), n=n)
    assert len(result.candidates) == sweeps * (n // (chains * sweeps))
    assert result.stop_reason is StopReason.DONE
    assert math.fsum(c.weight for c in result.candidates) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pool": "al"}, "did you mean 'all'"),
        ({"lowest": 0}, "above 0"),
        ({"lowest": 1.5}, "0 to 1"),
        ({"chains": 0}, "at least 1"),
    ],
)
def test_impossible_options_are_refused(options, says):
    """At construction, with what to do instead."""
    with pytest.raises(OptionError, match=says):
        ParallelTempering(**options)
