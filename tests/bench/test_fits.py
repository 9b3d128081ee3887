from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from itscale.bench.figures import easiness
from itscale.bench.fits import fits
from itscale.bench.rows import Row, RowKey
from itscale.bench.statistics import cells_of, summarise
from itscale.bench.verifiers import estimate_verifier, predicted_accuracy
from itscale.budget import Usage


def sampled(problems: int, budgets: tuple[int, ...], seed: int = 0) -> list[Row]:
    """best-of-n on problems of every difficulty: right as often as any of N samples is."""
    rng = np.random.default_rng(seed)
    rates = rng.beta(0.5, 1.0, problems)
    rows = []
    for n in budgets:
        for i, rate in enumerate(rates):
            right = int(rng.binomial(n, rate))
            rows.append(
                Row(
                    task="t", problem=f"p{i}", level=1, method="best-of-n", budget=n, seed=0,
                    correct=right > 0, any_correct=right > 0, candidates=n, correct_candidates=right,
                    answer=None, stop_reason="done", error=None, usage=Usage(generated_tokens=10 * n),
                )
            )  # fmt: skip
    return rows


def traces_of(rows: list[Row], noise: float, seed: int = 1) -> dict[RowKey, dict[str, Any]]:
    """Scores that tell right from wrong, but for noise."""
    rng = np.random.default_rng(seed)
    return {
        row.key: {
            "candidates": [
                {
                    "correct": i < row.correct_candidates,
                    "score": float((i < row.correct_candidates) + noise * rng.normal()),
                }
                for i in range(row.candidates)
            ]
        }
        for row in rows
    }


def fitted(rows: list[Row], traces: dict[RowKey, dict[str, Any]] | None = None) -> dict[str, Any]:
    return fits(rows, summarise(rows, cells_of(rows)), easiness(rows), traces or {})


def test_what_is_drawn_is_what_was_measured_and_fitted():
    """Coverage at N is the share of problems any sample solved; each fit is measured less its residual."""
    rows = sampled(60, (1, 4, 16))
    found = fitted(rows, traces_of(rows, 0.5))
    k, measured, fit = found["coverage"]["points"][-1]
    assert k == 16
    assert measured == pytest.approx(np.mean([r.any_correct for r in rows if r.budget == 16]), abs=1e-4)
    assert abs(measured - fit) < 0.1
    assert found["coverage"]["a"][1] <= found["coverage"]["a"][0] <= found["coverage"]["a"][2]
    [law] = found["saturation"]
    assert [point[0] for point in law["points"]] == [1, 4, 16]
    for n, accuracy, fit in law["points"]:
        assert accuracy == pytest.approx(np.mean([r.correct for r in rows if r.budget == n]), abs=1e-4)
        assert fit == pytest.approx(law["ceiling"][0] * (1 - (1 - law["rate"][0]) ** n), abs=2e-3)
    assert [one["limit"] for one in found["choice"]["limits"]] == [10, 40, 160]
    assert found["choice"]["groups"] == 5


def test_verifier_curves_follow_the_scores_of_the_largest_cell():
    """Each curve is the prediction from the verdicts at its threshold; a perfect scorer never turns."""
    rows = sampled(40, (1, 32))
    own = [row for row in rows if row.budget == 32]
    noisy = fitted(rows, traces := traces_of(own, 0.7))["verifier"]
    assert (noisy["samples"], noisy["problems"]) == (32, 40)
    for curve in noisy["curves"]:
        problems = [
            estimate_verifier(
                (c["correct"], c["score"] >= curve["threshold"] - 5e-5) for c in traces[row.key]["candidates"]
            )
            for row in own
        ]
        k, accuracy = curve["points"][-1]
        assert accuracy == pytest.approx(predicted_accuracy(problems, k), abs=5e-3)
    assert noisy["curves"][0]["false"] > noisy["curves"][-1]["false"]
    perfect = fitted(rows, traces_of(own, 0.0))["verifier"]
    assert perfect["curves"][-1]["false"] == 0
    assert perfect["curves"][-1]["best"] is None


def test_a_run_that_allows_no_fit_shows_none():
    """Few problems, one budget, no traces: nothing is made up."""
    assert fitted(sampled(5, (1, 4, 16))) == {
        "coverage": None, "saturation": [], "choice": None, "verifier": None,
    }  # fmt: skip
    found = fitted(sampled(60, (1,)))
    assert (found["coverage"], found["saturation"], found["verifier"]) == (None, [], None)
    solved = [Row.from_json(row.to_json() | {"correct_candidates": 4}) for row in sampled(40, (4,))]
    assert fitted(solved)["coverage"] is None


def test_limits_of_about_one_cost_are_one():
    """Cells whose costs differ by a hair share the limit that allows them all."""
    rows = sampled(60, (1, 4))
    other = [
        Row.from_json(row.to_json() | {"method": "beam", "generated_tokens": 10 * row.budget + 1})
        for row in rows
        if row.budget == 4
    ]
    assert [one["limit"] for one in fitted(rows + other)["choice"]["limits"]] == [10, 41]
