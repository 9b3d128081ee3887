"""Methods for which it matters who finishes first, in a sweep whose samples are otherwise shared."""

from __future__ import annotations

import asyncio

import pytest

from itscale.models.fake import FakeModel
from tests.bench.worlds import RIGHT, WRONG, coin_sweep, rows_of


def _long_or_short(prefix: tuple[str, ...]) -> dict[str, float]:
    """A right answer at once, or a wrong one after thirty thoughts."""
    if not prefix:
        return {RIGHT: 0.5, "t": 0.5}
    if prefix[-1] in (RIGHT, WRONG):
        return {"$": 1.0}
    return {"t": 1.0} if len(prefix) < 30 else {WRONG: 1.0}


@pytest.mark.parametrize("racing", ["short-m-at-k:m=1", "majority:early_stop=true"])
def test_a_race_is_run_by_ones_own_samples(racing):
    """After `majority` all samples exist; a race must not be given them, finished as they are.

    Shared, it would be charged for all of them, as much as majority.
    """
    vocabulary = [RIGHT, WRONG, "t", "$"]
    model = FakeModel(_long_or_short, vocabulary=vocabulary, latency_s=0.0005)
    sweep = coin_sweep(["majority", racing], [8], count=4)
    rows = asyncio.run(rows_of(sweep, model, concurrency=1))
    tokens = dict.fromkeys(sweep_labels(sweep), 0)
    for row in rows:
        tokens[row.method] += row.usage.generated_tokens
    majority, own = tokens.values()
    assert own < majority
    assert model.tokens_generated == majority + own


def sweep_labels(sweep) -> list[str]:
    """The labels of the methods, in order."""
    return [cell.label for cell in sweep.cells]
