"""Cut and regrow: the kernel's exact law, resample-move and SMC over revisions by enumeration."""

from __future__ import annotations

import asyncio
import math

import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import OptionError
from itscale.events import Trace
from itscale.methods import ParticleFilter, ResampleMove, RevisionSMC, regrowing, resample_move
from itscale.methods.filtering import TARGETS
from itscale.methods.regrowing import moved
from itscale.methods.session import Session
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import all_paths, enumerate_law
from itscale.types import Path, Sampling, StopReason
from itscale.weights import Population
from tests.methods.laws import deviation
from tests.methods.trees import END, JUDGEMENTS, PROMPT, SMALL, TREE

# One way begins, rests of one to three steps follow: every revision may change the length.
WAYS = {
    (): {"b|": 0.7, "x": 0.3},
    ("x",): END,
    ("b|",): {"a|": 0.5, "d|": 0.2, "y": 0.3},
    ("b|", "y"): END,
    ("b|", "d|"): {"c|": 1.0},
    ("b|", "d|", "c|"): {"y": 1.0},
    ("b|", "d|", "c|", "y"): END,
    ("b|", "a|"): {"x": 0.5, "y": 0.2, "c|": 0.3},
    ("b|", "a|", "x"): END,
    ("b|", "a|", "y"): END,
    ("b|", "a|", "c|"): {"y": 1.0},
    ("b|", "a|", "c|", "y"): END,
}
JUDGED = JUDGEMENTS | {("b|", "a|", "c|"): 0.7, ("b|", "a|", "c|", "y"): 0.5}
JUDGED |= {("b|", "d|"): 0.8, ("b|", "d|", "c|"): 0.2, ("b|", "d|", "c|", "y"): 0.35}
# Two open ways of two steps under one beginning.
FORKED = {
    (): {"b|": 0.7, "x": 0.3},
    ("x",): END,
    ("b|",): {"a|": 0.5, "d|": 0.3, "y": 0.2},
    ("b|", "y"): END,
    **{("b|", way): {"x": 1.0} for way in ("a|", "d|")},
    **{("b|", way, "x"): END for way in ("a|", "d|")},
}
JUDGED |= {("b|", "d|", "x"): 0.15}


def step_scores(path: Path) -> tuple[float, ...]:
    """Of a path, by the table."""
    texts = tuple(step.text for step in path.steps)
    return tuple(JUDGED[texts[: i + 1]] for i in range(len(texts)))


def drift(target: str = "final", power: float = 1.0, depth: int | None = None) -> float:
    """How far one revision moves p * w^power, over whole paths or over those of `depth` steps at most."""
    model, scorer = FakeModel(WAYS), FakeProcessScorer(JUDGED.__getitem__)
    law: dict[Path, float] = {}
    for path, p in all_paths(model, PROMPT):
        cut = next(node for node in path.nodes() if depth is None or node.depth <= depth)
        known = next((other for other in law if other.token_ids == cut.token_ids), cut)
        law[known] = law.get(known, 0.0) + p
    for path in law:
        law[path] *= math.exp(power * TARGETS[target][path.ended](step_scores(path)))
    law = {path: w / sum(law.values()) for path, w in law.items()}

    async def revision(rng) -> tuple[int, ...]:
        session = Session(PROMPT, model, scorer, Ledger(Budget()), rng, Trace(), Sampling(), 64)
        start = list(law)[rng.child("start").choose(list(law.values()))]
        scores = {node: step_scores(node) for node in start.nodes()}
        after = await moved(
            session,
            Population.start([start]),
            scores,
            rng.child("move"),
            target=target,
            power=power,
            depth=depth,
        )
        new = after.items[0]
        changed.add((start.token_ids, new.token_ids))
        return new.token_ids

    changed: set[tuple] = set()
    after = enumerate_law(revision)
    assert any(one != two for one, two in changed)
    return max(abs(after[path.token_ids] - p) for path, p in law.items())


@pytest.mark.parametrize("target", ["final", "product", "max"])
@pytest.mark.parametrize("power", [0.3, 1.0])
def test_a_revision_leaves_the_target_invariant(target, power):
    """Whole answers of one to four steps, so that cuts differ in number."""
    assert drift(target, power) < 1e-12


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("target", ["final", "sum"])
def test_a_revision_on_the_way_leaves_that_steps_target_invariant(depth, target):
    """Open paths of so many steps beside ended ones, which stay, as in the middle of a filter."""
    assert drift(target, depth=depth) < 1e-12


@pytest.mark.parametrize(
    "planted",
    [
        lambda odds, old, new: odds - math.log(old.depth - 1) + math.log(new.depth - 1),
        lambda odds, old, new: odds - 2 * (math.log(old.depth - 1) - math.log(new.depth - 1)),
        lambda odds, old, new: math.log(old.depth - 1) - math.log(new.depth - 1),
        lambda odds, old, new: (
            odds - math.log(old.depth - 1) + math.log(new.depth - 1) + math.log(old.depth / new.depth)
        ),
    ],
    ids=["cuts left out", "cuts the wrong way round", "weights left out", "d instead of d - 1"],
)
def test_wrong_odds_are_caught(monkeypatch, planted):
    """The proposal's own probability counts: a long answer has more cuts."""
    honest = regrowing.log_odds

    def broken(session, target, scores, old, new, power):
        return planted(honest(session, target, scores, old, new, power), old, new)

    monkeypatch.setattr(regrowing, "log_odds", broken)
    assert drift() > 1e-3


def off(method, table, n=2) -> float:
    """How far a method is from its law, with these judgements."""
    truth = {
        path.token_ids: p * math.exp(TARGETS[method.target][1](step_scores(path)))
        for path, p in all_paths(FakeModel(table), PROMPT)
    }
    return deviation(method, table, n, truth, JUDGED.__getitem__)


@pytest.mark.parametrize(
    ("method", "table"),
    [
        (ResampleMove(ess_threshold=1.0), FORKED),
        (ResampleMove(ess_threshold=0.8, target="product"), FORKED),
        (ResampleMove(ess_threshold=1.0, moves=2), SMALL),
        (ResampleMove(ess_threshold=1.0, moves=0, last_moves=1), SMALL),
        (RevisionSMC(levels=1), SMALL),
        (RevisionSMC(levels=2, ess_threshold=1.0), SMALL),
        (RevisionSMC(levels=2, moves=0, target="max"), SMALL),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_law_is_exact_for_two_particles(method, table):
    """Evidence times weighted population is unbiased for the target of the particle filter."""
    assert off(method, table) < 1e-12


def test_moving_only_what_was_resampled_is_caught():
    """The kernel is right and the choice of when is not: uneven weights say something of the paths."""

    class WhereResampled(ResampleMove):
        async def _moved(self, session, population, scores, rng, moves, depth):
            even = len(set(population.log_weights.tolist())) == 1
            return await super()._moved(session, population, scores, rng, moves if even else 0, depth)

    assert off(WhereResampled(ess_threshold=0.9), FORKED) > 1e-4


def test_revising_for_another_power_is_caught(monkeypatch):
    """Drafts at half the way that are revised for the whole target no longer have their law."""
    honest = regrowing.log_odds

    def whole(session, target, scores, old, new, power):
        return honest(session, target, scores, old, new, 1.0)

    monkeypatch.setattr(regrowing, "log_odds", whole)
    assert off(RevisionSMC(levels=2, ess_threshold=0.0), SMALL) > 1e-4


def test_reweighting_the_revised_is_caught(monkeypatch):
    """Giving an accepted revision the weight of its answer, which it has had by being accepted."""
    honest = resample_move.moved

    async def planted(session, population, scores, rng, **options):
        again = await honest(session, population, scores, rng, **options)
        gains = [
            math.log(scores[new][-1] / scores[old][-1]) if new is not old else 0.0
            for old, new in zip(population.items, again.items, strict=True)
        ]
        return again.reweight(gains)

    monkeypatch.setattr(resample_move, "moved", planted)
    assert off(ResampleMove(ess_threshold=1.0), FORKED) > 1e-3


def run(method, table=TREE, n=8, seed=0, **options):
    """A run to its end, and its model."""
    model, scorer = FakeModel(table, **options), FakeProcessScorer(JUDGEMENTS.__getitem__)
    return asyncio.run(method.run(PROMPT, model, scorer, Budget(generations=n), seed)), model


def test_without_moves_it_is_the_particle_filter():
    """The same draws under the same names."""
    for seed in range(4):
        plain, _ = run(ParticleFilter(ess_threshold=1.0), seed=seed)
        still, _ = run(ResampleMove(ess_threshold=1.0, moves=0), seed=seed)
        assert [c.path.text for c in plain.candidates] == [c.path.text for c in still.candidates]
        assert plain.log_evidence == still.log_evidence


def test_copies_are_revised_apart():
    """Copies of few prefixes differ more after their revisions; what was tried in vain is paid for."""

    def different(moves: int) -> int:
        found = 0
        for seed in range(10):
            method = ResampleMove(ess_threshold=1.0, moves=moves)
            model, scorer = FakeModel(FORKED), FakeProcessScorer(JUDGED.__getitem__)
            result = asyncio.run(method.run(PROMPT, model, scorer, Budget(generations=16), seed))
            assert result.usage.generated_tokens == model.tokens_generated
            found += len({node for c in result.candidates for node in c.path.nodes() if node.depth == 2})
        return found

    assert different(2) > different(0)


def test_a_failed_revision_leaves_the_path():
    """Whichever call fails, eight answers are there and the one call is counted."""
    for failing in range(8, 20):
        result, model = run(RevisionSMC(moves=2), SMALL, fail=lambda call, failing=failing: call == failing)
        assert len(result.candidates) == 8
        assert all(c.path.finished for c in result.candidates)
        assert result.usage.failed_calls == (model.calls > failing)


def test_a_limit_leaves_what_there_is():
    """A token limit within the revisions: all drafts with all of their weight."""
    model, scorer = FakeModel(TREE), FakeProcessScorer(JUDGEMENTS.__getitem__)
    budget = Budget(generations=4, tokens=14)
    result = asyncio.run(RevisionSMC(moves=3).run(PROMPT, model, scorer, budget, 1))
    assert result.stop_reason is StopReason.TOKENS
    assert model.tokens_generated <= 14
    weights = [c.score for c in result.candidates if c.score is not None]
    assert len(weights) == 4


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ResampleMove(moves=-1), "0 or more"),
        (lambda: ResampleMove(resampling="sistematic"), "did you mean 'systematic'"),
        (lambda: RevisionSMC(levels=0), "at least 1"),
        (lambda: RevisionSMC(target="finel"), "did you mean 'final'"),
    ],
)
def test_impossible_options_are_refused(make, says):
    """At construction, with what to do instead."""
    with pytest.raises(OptionError, match=says):
        make()
