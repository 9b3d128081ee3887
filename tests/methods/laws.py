"""How far a filter is from its law, by enumeration of all its draws."""

from __future__ import annotations

import math

import numpy as np

from itscale.budget import Budget
from itscale.methods.base import Method
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from itscale.testing import enumerate_expectation
from tests.methods.trees import JUDGEMENTS, PROMPT, exact


def deviation(
    method: Method, table: dict, n: int, truth: dict | None = None, judge=JUDGEMENTS.__getitem__
) -> float:
    """Largest error of E[Zhat * weighted population] over all paths, and of E[Zhat]."""
    truth = truth or exact(table, method.target)
    index = {ids: i for i, ids in enumerate(truth)}
    model, scorer = FakeModel(table), FakeProcessScorer(judge)

    async def estimate(rng) -> np.ndarray:
        result = await method.run(PROMPT, model, scorer, Budget(generations=n), rng)
        measure = np.zeros(len(index) + 1)
        for c in result.candidates:
            measure[index[c.path.token_ids]] += c.weight
        measure[-1] = 1.0
        return math.exp(result.log_evidence) * measure

    expected = np.array([*truth.values(), sum(truth.values())])
    return float(np.abs(enumerate_expectation(estimate) - expected).max())


def tempered(table: dict, temperature: float) -> dict:
    """The table at another temperature."""
    power = 1 / temperature
    return {
        prefix: {t: p**power / sum(q**power for q in row.values()) for t, p in row.items()}
        for prefix, row in table.items()
    }
