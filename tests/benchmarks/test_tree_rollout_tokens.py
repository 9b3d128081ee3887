"""The verdict on rollout trees, from outcomes made up for it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.claims import tree_rollout_tokens
from benchmarks.claims.runs import Runs


@pytest.mark.parametrize(
    ("right", "tokens", "verdict"),
    [
        (60, 60.0, "holds"),
        (59, 60.0, "holds"),
        (60, 80.0, "holds partly"),
        (60, 100.0, "does not hold"),
        (40, 50.0, "does not hold"),
    ],
)
def test_the_verdict_weighs_tokens_against_accuracy(right, tokens, verdict, monkeypatch):
    """Equal accuracy for 35 % fewer tokens holds, for fewer partly, and a loss of accuracy does not."""

    def run(task: str, method: str, n: int) -> Runs:
        count, cost = (60, 100.0) if method == "majority" else (right, tokens)
        outcomes = np.array([1.0] * count + [0.0] * (100 - count))
        return Runs(method, n, outcomes, np.full(100, cost), np.zeros(100))

    monkeypatch.setattr(tree_rollout_tokens, "run", run)
    assert tree_rollout_tokens.on("countdown").verdict == verdict
