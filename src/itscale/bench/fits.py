"""The laws of a run as plain values for its page: what can be fitted to it, with intervals and residuals.

Each fit appears where the run has what it needs: coverage where a method keeps N independent samples,
saturation where one was run at three budgets, the choice by difficulty where every group has problems to
choose on and others to judge by, verifier curves where traces tell score and verdict of the samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from itscale.bench.laws import Interval, compute_optimal, fit_coverage, fit_saturation
from itscale.bench.paired import outcomes_of
from itscale.bench.rows import Row
from itscale.bench.statistics import CellSummary
from itscale.bench.verifiers import best_k, estimate_verifier, predicted_accuracy

__all__ = ["JUDGED", "fits", "largest_sampled"]

SAMPLERS = ("sample", "majority", "best-of-n", "weighted-best-of-n")
"""Methods whose candidates are N independent samples."""
JUDGED = ("best-of-n", "weighted-best-of-n")
"""Those among them that keep each sample's score."""
FEWEST_PROBLEMS = 20
GAIN = 0.001
"""Accuracy that one more sample must bring to be worth it: a tenth of a point."""
FEWEST_IN_A_GROUP = 10
APART = 1.1
"""How far limits on the cost are apart at least."""
STRICTNESS = (0.5, 0.25, 0.1)
"""Shares of all samples that verifiers of three thresholds accept."""
TRIES = tuple(int(k) for k in np.unique(np.geomspace(1, 256, 21).round()))


def fits(
    rows: Sequence[Row],
    summaries: Sequence[CellSummary],
    easiness: Mapping[str, float],
    traces: Mapping[Any, Mapping[str, Any]],
) -> dict[str, Any]:
    """What this context's rows allow, ready for JSON; what they do not allow is None or empty."""
    return {
        "coverage": _coverage(rows),
        "saturation": _saturation(rows, summaries),
        "choice": _choice(rows, summaries, easiness),
        "verifier": _verifier(rows, traces),
    }


def largest_sampled(rows: Sequence[Row], methods: Sequence[str]) -> list[Row]:
    """The rows of the first of `methods` that was run, at its largest budget above 1."""
    for method in methods:
        own = [row for row in rows if row.method == method and row.candidates > 1]
        if own:
            most = max(row.budget for row in own)
            return [row for row in own if row.budget == most]
    return []


def _coverage(rows: Sequence[Row]) -> dict[str, Any] | None:
    sampled = largest_sampled(rows, SAMPLERS)
    counts: dict[str, tuple[int, int]] = {}
    for row in sampled:
        n, right = counts.get(row.problem, (0, 0))
        counts[row.problem] = n + row.candidates, right + row.correct_candidates
    if len(counts) < FEWEST_PROBLEMS:
        return None
    try:
        law = fit_coverage(list(counts.values()))
    except ValueError:  # always or never solved
        return None
    points = zip(law.ks, law.measured, law.residuals, strict=True)
    further = [2 * law.ks[-1], 4 * law.ks[-1]]
    return {
        "method": sampled[0].method,
        "samples": law.ks[-1],
        "a": _plain(law.a),
        "b": _plain(law.b),
        "points": [[k, round(m, 4), round(m - r, 4)] for k, m, r in points],
        "further": [[k, round(law.coverage(k), 4)] for k in further],
    }


def _saturation(rows: Sequence[Row], summaries: Sequence[CellSummary]) -> list[dict[str, Any]]:
    outcomes = outcomes_of(rows)
    found = []
    for method in dict.fromkeys(s.method for s in summaries):
        cells = sorted((s.cell for s in summaries if s.method == method), key=lambda cell: cell.budget)
        if len(cells) < 3:
            continue
        common = sorted(set.intersection(*(set(outcomes.get(cell, {})) for cell in cells)))
        if len(common) < FEWEST_PROBLEMS:
            continue
        means = np.array([[float(np.mean(outcomes[cell][p])) for cell in cells] for p in common])
        budgets = [cell.budget for cell in cells]
        law = fit_saturation(budgets, means)
        measured = means.mean(axis=0)
        points = zip(budgets, measured, law.residuals, strict=True)
        found.append(
            {
                "method": method,
                "ceiling": _plain(law.ceiling),
                "rate": _plain(law.rate),
                "stops": law.saturated_at(GAIN),
                "points": [[n, round(float(m), 4), round(float(m) - r, 4)] for n, m, r in points],
            }
        )
    return found


def _choice(
    rows: Sequence[Row], summaries: Sequence[CellSummary], easiness: Mapping[str, float]
) -> dict[str, Any] | None:
    """At each limit that some cell of the run just keeps: one cell for all against one for each group."""
    groups = min(5, len(easiness) // FEWEST_IN_A_GROUP)
    if groups < 2 or len(summaries) < 2:
        return None
    limits: list[float] = []
    for cost in sorted(s.per_problem(s.generated_tokens) for s in summaries if s.problems):
        if limits and cost <= APART * limits[-1]:
            limits[-1] = cost  # cells of about one cost, all of which the limit should allow
        else:
            limits.append(cost)
    chosen = compute_optimal(rows, "tokens", easiness, limits=limits, bins=groups)
    index = {s.cell: i for i, s in enumerate(summaries)}
    return {
        "groups": groups,
        "limits": [
            {
                "limit": round(one.limit, 1),
                "by": round(one.by_difficulty, 4),
                "one": round(one.one_for_all, 4),
                "cells": [index[cell] for cell in one.choices],
            }
            for one in chosen
        ],
    }


def _verifier(rows: Sequence[Row], traces: Mapping[Any, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Resampling until the scorer accepts, at several thresholds: what its errors leave of more tries."""
    judged: dict[str, list[tuple[float, bool]]] = {}
    sampled = largest_sampled(rows, JUDGED)
    for row in sampled:
        for candidate in traces.get(row.key, {}).get("candidates", ()):
            if candidate["score"] is not None:
                judged.setdefault(row.problem, []).append((candidate["score"], candidate["correct"]))
    if len(judged) < FEWEST_PROBLEMS:
        return None
    scores = np.array([score for own in judged.values() for score, _ in own])
    curves = []
    for share in STRICTNESS:
        threshold = float(np.quantile(scores, 1 - share))
        problems = [
            estimate_verifier((right, score >= threshold) for score, right in own) for own in judged.values()
        ]
        best = best_k(problems, cost=1.0, most=TRIES[-1])
        wrong = [right for own in judged.values() for score, right in own if score >= threshold]
        curves.append(
            {
                "accepts": share,
                "threshold": round(threshold, 4),
                "false": round(1 - sum(wrong) / len(wrong), 4),
                "points": [[k, round(predicted_accuracy(problems, k), 4)] for k in TRIES],
                "best": best.k if best.utility > best.at_most + 1e-9 else None,
            }
        )
    return {
        "method": sampled[0].method,
        "samples": sampled[0].budget,
        "problems": len(judged),
        "curves": curves,
    }


def _plain(interval: Interval) -> list[float]:
    return [round(value, 5) for value in (interval.value, interval.low, interval.high)]
