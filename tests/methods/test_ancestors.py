"""Ancestor sampling in particle Gibbs: the target is exactly invariant, and what the joins cost."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import OptionError
from itscale.events import Trace
from itscale.methods import ParticleGibbs, ancestors, particle_gibbs
from itscale.methods.filtering import TARGETS
from itscale.methods.particle_gibbs import conditional_sweep, drawn
from itscale.methods.session import Session
from itscale.models.base import Capability
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import all_paths, enumerate_law
from itscale.types import Sampling
from itscale.weights import Population
from tests.methods.trees import PROMPT

END = {"$": 1.0}
# Every end can follow every beginning, each with a probability of its own; some paths end early.
GRID = {
    (): {"a|": 0.6, "b|": 0.4},
    ("a|",): {"a|": 0.3, "b|": 0.5, "x": 0.2},
    ("b|",): {"a|": 0.6, "b|": 0.4},
    ("a|", "x"): END,
    **{(*way, end): END for way in itertools.product(["a|", "b|"], repeat=2) for end in ("x", "y")},
    **{
        way: {"x": p, "y": 1 - p}
        for way, p in zip(itertools.product(["a|", "b|"], repeat=2), (0.3, 0.8, 0.5, 0.4), strict=True)
    },
}

LITTLE = {
    (): {"a|": 0.6, "b|": 0.4},
    ("a|",): {"x": 0.3, "y": 0.7},
    ("b|",): {"x": 0.8, "y": 0.2},
    **{(first, last): END for first in ("a|", "b|") for last in ("x", "y")},
}


def judge(texts) -> float:
    """Good and bad by the whole prefix, so that joining changes it."""
    return 0.05 + 0.9 * (sum((i + 2) * ord(c) for i, c in enumerate("".join(texts))) % 17) / 17


def target_of(table: dict, target: str, power: float = 1.0) -> dict[tuple[int, ...], float]:
    """p * w_T^power over finished paths, normalised."""
    law = {}
    for path, p in all_paths(FakeModel(table), PROMPT):
        texts = tuple(step.text for step in path.steps)
        scores = [judge(texts[: i + 1]) for i in range(len(texts))]
        law[path.token_ids] = p * math.exp(power * TARGETS[target][1](scores))
    return {ids: w / sum(law.values()) for ids, w in law.items()}


def drift(table: dict, n: int = 2, *, target: str = "final", power: float = 1.0, **options) -> float:
    """How far one sweep with ancestor sampling moves the target."""
    law_of = target_of(table, target, power)
    model, scorer = FakeModel(table), FakeProcessScorer(judge)
    references = {path.token_ids: path for path, _ in all_paths(model, PROMPT)}

    async def sweep(rng) -> tuple[int, ...]:
        session = Session(PROMPT, model, scorer, Ledger(Budget()), rng, Trace(), Sampling(), 64)
        reference = references[list(law_of)[rng.child("start").choose(list(law_of.values()))]]
        texts = tuple(step.text for step in reference.steps)
        scores = {node: tuple(judge(texts[: i + 1]) for i in range(node.depth)) for node in reference.nodes()}
        scores[session.root] = ()
        population = await conditional_sweep(
            session,
            rng.child("sweep"),
            n,
            scores,
            reference,
            target=target,
            power=power,
            ancestors=True,
            **options,
        )
        return drawn(population, rng.child("next")).token_ids

    law = enumerate_law(sweep)
    return max(abs(law[ids] - p) for ids, p in law_of.items())


@pytest.mark.parametrize(("target", "ess_threshold"), [("final", 1.0), ("product", 0.9)])
def test_the_target_is_invariant(target, ess_threshold):
    """Three depths: a reference from the target gives one from it, whatever past was drawn on the way."""
    assert drift(GRID, target=target, ess_threshold=ess_threshold) < 1e-12


@pytest.mark.parametrize("target", ["product", "max", "sum"])
def test_the_target_is_invariant_on_two_depths(target):
    """The same for other targets."""
    assert drift(LITTLE, target=target, ess_threshold=1.0) < 1e-12


def test_a_tempered_target_is_invariant():
    """The same for p * w^0.4, as a chain of parallel tempering has it."""
    assert drift(LITTLE, power=0.4, ess_threshold=1.0) < 1e-12


def flat_likelihood(monkeypatch) -> None:
    """p(rest | x) left out, but for being possible."""
    honest = Session.logprobs

    async def planted(self, path, token_ids):
        return tuple(0.0 if p > -100 else p for p in await honest(self, path, token_ids))

    monkeypatch.setattr(Session, "logprobs", planted)


def flat_weights(monkeypatch) -> None:
    """W_i left out."""
    honest = ancestors.joined

    async def planted(session, population, *args, **options):
        return await honest(session, Population.start(population.items), *args, **options)

    monkeypatch.setattr(particle_gibbs, "joined", planted)


def flat_scores(monkeypatch) -> None:
    """w_T(joined) / w_t(x) left out."""
    monkeypatch.setattr(ancestors, "log_weight", lambda *_, **__: 0.0)


def without_the_prefix(monkeypatch) -> None:
    """w_T(joined) without dividing by w_t(x): the prefix's score counts twice."""
    honest = ancestors.log_weight
    monkeypatch.setattr(
        ancestors, "log_weight", lambda *args, last: honest(*args, last=True) if last else 0.0
    )


@pytest.mark.parametrize("plant", [flat_likelihood, flat_weights, flat_scores, without_the_prefix])
def test_an_incomplete_weight_of_an_ancestor_is_caught(monkeypatch, plant):
    """Each factor of the ancestor's law is needed."""
    plant(monkeypatch)
    assert drift(LITTLE, ess_threshold=1.0) > 1e-3


def run(method, model=None, n=8, seed=0):
    """A run to its end."""
    scorer = FakeProcessScorer(judge)
    return asyncio.run(method.run(PROMPT, model or FakeModel(GRID), scorer, Budget(generations=n), seed))


def test_joined_steps_are_forced_and_not_counted_as_generated():
    """What the reference keeps was generated once; in its new place it is put there, not drawn."""
    method = ParticleGibbs(ancestors=True, ess_threshold=1.0, iterations=4)
    found = 0
    for seed in range(6):
        model = FakeModel(GRID)
        result = run(method, model, n=8, seed=seed)
        assert result.usage.generated_tokens == model.tokens_generated
        grafted = [c.path for c in result.candidates if any(step.forced for step in c.path.steps)]
        found += len(grafted)
        assert all(path.finished for path in grafted)
    assert found


def test_one_seed_is_one_result():
    """Questions and judgements of many paths at once change nothing."""
    method = ParticleGibbs(ancestors=True, ess_threshold=1.0)
    first, again = (run(method, seed=3).trace.to_json() for _ in range(2))
    assert first == again


def test_what_it_needs_is_refused_before_any_token():
    """A model that tells nothing of given tokens: the sentence says what to do."""
    model = FakeModel(GRID, capabilities=frozenset({Capability.STEPS, Capability.LOGPROBS}))
    with pytest.raises(OptionError, match=r"given .*or options of particle-gibbs that do without"):
        run(ParticleGibbs(ancestors=True), model)
    assert model.calls == 0
    with pytest.raises(OptionError, match="temperature above 0"):
        ParticleGibbs(ancestors=True, temperature=0)
