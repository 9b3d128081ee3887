"""The figures of a report as plain values: everything the page shows is computed here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from itscale.bench.economy import (
    COSTS,
    Cost,
    anytime_curve,
    cost_of_pass,
    effective_n,
    frontier_cost_of_pass,
    pareto_front,
)
from itscale.bench.fits import JUDGED, fits, largest_sampled
from itscale.bench.modelled import Hardware, modelled_figures
from itscale.bench.paired import Comparison, compare
from itscale.bench.rows import CellKey, Context, Row
from itscale.bench.statistics import CellSummary, cells_of, clustered_interval, summarise
from itscale.bench.store import Run
from itscale.bench.table import BASELINE

__all__ = ["easiness", "figures", "headline"]

DIFFICULTY_BINS = 5
SHOWN_PROBLEMS = 400
"""Problems in the grid of verdicts; the most disputed and slowest are among them."""
MOST_POINTS = 160
"""Corners of one anytime curve that are drawn."""


def figures(run: Run, hardware: Hardware | None = None) -> dict[str, Any]:
    """Contexts, cells, comparisons, difficulty, curves and problems of a run, ready for JSON; costs on
    `hardware` where one is named."""
    by_context: dict[Context, list[Row]] = {}
    for row in run.rows:
        by_context.setdefault(row.context, []).append(row)
    return {
        "what": run.manifest["swept"],
        "title": (run.manifest["starts"] or [{}])[-1].get("title", ""),
        "starts": len(run.manifest["starts"]),
        "machine": (run.manifest["starts"] or [{}])[-1].get("machine", {}),
        "command": (run.manifest["starts"] or [{}])[-1].get("command", []),
        "contexts": [_context(run, context, rows, hardware) for context, rows in by_context.items()],
        "levels": _levels(by_context),
    }


def headline(summaries: Sequence[CellSummary], rows: Sequence[Row]) -> dict[str, Any]:
    """The best cell, and the cheapest one that the run cannot tell apart from it."""
    ran = [s for s in summaries if s.problems]
    best = max(ran, key=lambda s: (s.accuracy, -_tokens(s)))
    cheaper = [s for s in ran if _tokens(s) < _tokens(best) and s is not best]
    tested = compare(rows, [(best.cell, s.cell) for s in cheaper])
    alike = {c.second for c in tested if c.p_holm > 0.05}
    cheapest = min((s for s in cheaper if s.cell in alike), key=_tokens, default=None)
    return {"best": best.cell, "cheapest": cheapest.cell if cheapest else None}


def _context(run: Run, context: Context, rows: Sequence[Row], hardware: Hardware | None) -> dict[str, Any]:
    summaries = summarise(rows, cells_of(rows))
    index = {summary.cell: i for i, summary in enumerate(summaries)}
    head = headline(summaries, rows)
    costs = _costs(rows)
    own: dict[CellKey, list[Row]] = {}
    for row in rows:
        own.setdefault(row.cell, []).append(row)
    baseline = [s for s in summaries if s.method == BASELINE]
    return {
        **context._asdict(),
        "costs": costs,
        "runs": len(rows),
        "problem_count": len({row.problem for row in rows}),
        "seeds": len({row.seed for row in rows}),
        "tokens": sum(row.usage.generated_tokens for row in rows),
        "failures": sum(row.error is not None for row in rows),
        "cells": [_cell(s, own[s.cell], baseline) for s in summaries],
        "best": index[head["best"]],
        "cheapest": index.get(head["cheapest"]),
        "front": {cost: _front(summaries, cost) for cost in costs},
        "pairs": [_pair(c, index) for c in _comparisons(summaries, rows)],
        "bins": _bins(rows, summaries),
        "anytime": {cost: _curves(rows, cost) for cost in costs},
        "frontier": _frontier(rows, costs),
        "modelled": modelled_figures(rows, summaries, hardware) if hardware else None,
        "fits": _fits(run, rows, summaries),
        **_problems(run, rows, index),
    }


def _fits(run: Run, rows: Sequence[Row], summaries: Sequence[CellSummary]) -> dict[str, Any]:
    judged = largest_sampled(rows, JUDGED)
    traces = run.traces(row.key for row in judged) if judged else {}
    return fits(rows, summaries, easiness(rows), traces)


def _costs(rows: Iterable[Row]) -> list[Cost]:
    """What was paid with: dollars only where anything had a price."""
    priced = any(row.usage.dollars for row in rows)
    return [cost for cost in COSTS if cost != "dollars" or priced]


def _cell(summary: CellSummary, rows: Sequence[Row], baseline: Sequence[CellSummary]) -> dict[str, Any]:
    passed = cost_of_pass(rows, "tokens")
    mean = summary.per_problem
    return {
        "method": summary.method,
        "n": summary.budget,
        "runs": summary.runs,
        "acc": _round(summary.accuracy),
        "lo": _round(summary.ci_low),
        "hi": _round(summary.ci_high),
        "cov": _round(summary.coverage),
        "failures": summary.failures,
        "tokens": _round(mean(summary.generated_tokens)),
        "calls": _round(mean(summary.model_calls)),
        "scorer": _round(mean(summary.scorer_calls)),
        "seconds": _round(mean(summary.seconds)),
        "dollars": _round(mean(summary.dollars), 7),
        "discarded": _round(summary.discarded_tokens / summary.generated_tokens)
        if summary.generated_tokens
        else 0,
        "ess": None if summary.ess is None else _round(summary.ess),
        "pass": [_round(passed.value), _round(passed.low), _round(passed.high)],
        "effective": _round(effective_n(summary, baseline)) if baseline else None,
    }


def _front(summaries: Sequence[CellSummary], cost: Cost) -> list[int]:
    total = {"tokens": "generated_tokens", "calls": "model_calls", "seconds": "seconds", "dollars": "dollars"}
    points = [(s.per_problem(getattr(s, total[cost])), s.accuracy) for s in summaries]
    return pareto_front(points)


def _comparisons(summaries: Sequence[CellSummary], rows: Sequence[Row]) -> list[Comparison]:
    """Each method against the baseline at every N they share, all as one family; against the first
    method where nobody voted."""
    methods = list(dict.fromkeys(s.method for s in summaries if s.problems))
    base = BASELINE if BASELINE in methods else methods[0]
    cells = {(s.method, s.budget): s.cell for s in summaries}
    largest = max(s.budget for s in summaries if s.method == base)
    pairs = [
        (cell, cells.get((base, n), cells[base, largest]))
        for (method, n), cell in cells.items()
        if method != base and ((base, n) in cells or n == 1)
    ]
    return compare(rows, pairs)


def _pair(one: Comparison, index: Mapping[CellKey, int]) -> dict[str, Any]:
    return {
        "a": index[one.first],
        "b": index[one.second],
        "n": one.paired.problems,
        "diff": _round(one.paired.difference),
        "lo": _round(one.ci_low),
        "hi": _round(one.ci_high),
        "only_a": one.paired.only_first,
        "only_b": one.paired.only_second,
        "p": _round(one.paired.p_value, 6),
        "holm": _round(one.p_holm, 6),
    }


def easiness(rows: Iterable[Row]) -> dict[str, float]:
    """For each problem the share of right candidates over all runs: 1 easy, 0 never solved."""
    right: dict[str, list[int]] = {}
    for row in rows:
        own = right.setdefault(row.problem, [0, 0])
        own[0] += row.correct_candidates if row.candidates else row.correct
        own[1] += row.candidates or 1
    return {problem: good / count for problem, (good, count) in right.items()}


def _bins(rows: Sequence[Row], summaries: Sequence[CellSummary]) -> list[dict[str, Any]]:
    """Problems by difficulty in groups of equal size, hardest last, each with every cell's accuracy."""
    shares = easiness(rows)
    order = sorted(shares, key=lambda problem: (-shares[problem], problem))
    count = min(DIFFICULTY_BINS, len(order) // 8)
    if count < 2:
        return []
    bins = []
    for i in range(count):
        members = order[i * len(order) // count : (i + 1) * len(order) // count]
        chosen = set(members)
        bins.append(
            {
                "easy": _round(shares[members[0]]),
                "hard": _round(shares[members[-1]]),
                "problems": len(members),
                "cells": _accuracies([row for row in rows if row.problem in chosen], summaries),
            }
        )
    return bins


def _levels(by_context: Mapping[Context, Sequence[Row]]) -> list[dict[str, Any]]:
    """Where one task was run at several levels: the same small multiples, by level."""
    groups: dict[tuple[str, str, str], list[Context]] = {}
    for context in by_context:
        groups.setdefault((context.task, context.model, context.scorer), []).append(context)
    found = []
    for contexts in groups.values():
        if len(contexts) > 1:
            members = list(by_context)
            found.append([members.index(context) for context in contexts])
    return [{"contexts": members} for members in found]


def _accuracies(rows: Sequence[Row], summaries: Sequence[CellSummary]) -> list[list[float | None]]:
    outcomes: dict[CellKey, dict[str, list[bool]]] = {s.cell: {} for s in summaries}
    for row in rows:
        outcomes[row.cell].setdefault(row.problem, []).append(row.correct)
    found = []
    for own in outcomes.values():
        runs = [right for each in own.values() for right in each]
        share = sum(runs) / len(runs) if runs else 0.0
        found.append([_round(share), *map(_round, clustered_interval(own))])
    return found


def _curves(rows: Sequence[Row], cost: Cost) -> list[dict[str, Any]]:
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    return [
        {"method": method, "points": [[_round(x), _round(y)] for x, y in _thinned(anytime_curve(own, cost))]}
        for method, own in by_method.items()
    ]


def _thinned(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` corners, the last among them."""
    step = max(1, math.ceil(len(curve) / MOST_POINTS))
    return [*curve[:-1:step], *curve[-1:]]


def _frontier(rows: Sequence[Row], costs: Sequence[Cost]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for cost in costs:
        whole, added = frontier_cost_of_pass(rows, cost)
        found[cost] = {"value": _round(whole), "added": {m: _round(v) for m, v in added.items()}}
    return found


def _problems(run: Run, rows: Sequence[Row], index: Mapping[CellKey, int]) -> dict[str, Any]:
    """Every problem with its verdict in every cell; which are the most disputed and which the slowest."""
    verdicts: dict[str, dict[int, list[bool]]] = {}
    seconds: dict[str, float] = {}
    answers: dict[str, dict[int, str | None]] = {}
    for row in rows:
        cell = index[row.cell]
        verdicts.setdefault(row.problem, {}).setdefault(cell, []).append(row.correct)
        seconds[row.problem] = seconds.get(row.problem, 0.0) + row.usage.seconds
        answers.setdefault(row.problem, {})[cell] = row.answer
    share = {p: _mean([_mean(own) for own in cells.values()]) for p, cells in verdicts.items()}
    disputed = sorted(share, key=lambda p: (abs(share[p] - 0.5), p))
    slowest = sorted(seconds, key=lambda p: -seconds[p])
    wanted = set(disputed[:20]) | set(slowest[:20])
    kept = sorted(verdicts, key=lambda p: (p not in wanted, -share[p]))[:SHOWN_PROBLEMS]
    kept.sort(key=lambda p: (-share[p], p))
    number = {problem: i for i, problem in enumerate(kept)}
    listed = []
    for problem in kept:
        known = run.problems.get(problem, {})
        marks = "".join(_mark(verdicts[problem].get(cell)) for cell in range(len(index)))
        listed.append(
            {
                "id": problem,
                "q": str(known.get("question", ""))[:1200],
                "ref": str(known.get("reference", ""))[:200],
                "share": _round(share[problem]),
                "seconds": _round(seconds[problem]),
                "marks": marks,
                "answers": [(answers[problem].get(cell) or "")[:60] for cell in range(len(index))],
            }
        )
    return {
        "problems": listed,
        "disputed": [number[p] for p in disputed[:12] if p in number],
        "slowest": [number[p] for p in slowest[:12] if p in number],
    }


def _mark(own: Sequence[bool] | None) -> str:
    """A digit: 0 always wrong to 9 always right; a dot where nothing was run."""
    return "." if not own else str(round(9 * _mean(own)))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _tokens(summary: CellSummary) -> float:
    return summary.per_problem(summary.generated_tokens)


def _round(value: float | None, digits: int = 4) -> float | None:
    """A number that JSON can hold; None for infinity, which the page writes as such."""
    if value is None or not math.isfinite(value):
        return None
    return round(value, digits)
