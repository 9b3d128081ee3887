"""The particle filter's compatibility mode, against the published loop written out by itself."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter

import pytest

from itscale.budget import Budget
from itscale.errors import OptionError
from itscale.events import Resampled
from itscale.methods import ParticleFilter
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import enumerate_law
from tests.methods.trees import JUDGEMENTS, PROMPT, SMALL, TREE, best_finished, draws, finished, joint


def published(table: dict, particles: tuple, p: float, law: Counter) -> None:
    """Propagate what is active; while something is, draw all N by softmax(logit r); else the best."""
    for grown, chance in joint([list(draws(table, prefix, 1)) for prefix in particles]):
        prefixes = [children[0] for children in grown]
        if all(map(finished, prefixes)):
            law[best_finished(prefixes)] += p * chance
            continue
        odds = [JUDGEMENTS[prefix] / (1 - JUDGEMENTS[prefix]) for prefix in prefixes]
        for drawn in itertools.product(range(len(prefixes)), repeat=len(prefixes)):
            share = math.prod(odds[i] / sum(odds) for i in drawn)
            published(table, tuple(prefixes[i] for i in drawn), p * chance * share, law)


def law_of(method, table: dict, n: int) -> dict[str, float]:
    """The exact law of the returned text."""

    async def run(rng) -> str:
        scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)
        return (await method.run(PROMPT, FakeModel(table), scorer, Budget(generations=n), rng)).text

    return enumerate_law(run)


@pytest.mark.parametrize(("table", "n"), [(SMALL, 2), (SMALL, 3), (TREE, 2)])
def test_law_is_that_of_the_published_loop(table, n):
    """Weights replaced, multinomial every round, finished ones drawn again by their score, argmax."""
    expected: Counter = Counter()
    published(table, ((),) * n, 1.0, expected)
    assert law_of(ParticleFilter(compatibility="puri2025"), table, n) == pytest.approx(dict(expected))


def test_it_is_not_the_law_of_the_default():
    """The comparison would be empty if both modes were the same."""
    ours, theirs = (law_of(ParticleFilter(compatibility=mode), TREE, 2) for mode in (None, "puri2025"))
    assert max(abs(ours[text] - theirs[text]) for text in ours) > 0.01


def test_no_evidence_is_claimed_and_weights_are_the_last_odds():
    """Replaced weights estimate no normalising constant, so none is told."""
    scorer = FakeProcessScorer(JUDGEMENTS.__getitem__)
    method = ParticleFilter(compatibility="puri2025")
    result = asyncio.run(method.run(PROMPT, FakeModel(TREE), scorer, Budget(generations=6), 4))
    odds = [c.score / (1 - c.score) for c in result.candidates]
    assert result.log_evidence is None
    assert [c.weight for c in result.candidates] == pytest.approx([o / sum(odds) for o in odds])
    assert any(isinstance(event, Resampled) for event in result.trace.events)


@pytest.mark.parametrize(
    "options", [{"target": "odds"}, {"resampling": "residual"}, {"ess_threshold": 1.0}, {"choose": "argmax"}]
)
def test_options_it_would_not_honour_are_refused(options):
    """The published code has no such choices."""
    with pytest.raises(OptionError, match=f"leave out {next(iter(options))}"):
        ParticleFilter(compatibility="puri2025", **options)
    with pytest.raises(OptionError, match="did you mean 'puri2025'"):
        ParticleFilter(compatibility="puri2024")
