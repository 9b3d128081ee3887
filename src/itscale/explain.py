"""How an answer came about, for a person at a terminal: candidates, votes, what happened, the choice.

Knows no method by name: everything said is read off the result and its trace.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from itscale.budget import Usage
from itscale.events import Compared, Exchanged, Failed, Pruned, Resampled, Trace
from itscale.methods.base import Result
from itscale.scorers.answers import Cluster, tally
from itscale.types import Candidate, StopReason

__all__ = ["account", "explanation"]

SHOWN = 8
"""Distinct candidates, answers or resamplings listed; the rest is counted."""


def account(usage: Usage, stop_reason: StopReason) -> str:
    """What a run cost, in one line."""
    parts = [
        f"{usage.generated_tokens:,} tokens generated{_replayed(usage)}",
        f"{_count(usage.model_calls, 'model call')}",
        f"{_count(usage.scorer_calls, 'scorer call')}" if usage.scorer_calls else "",
        f"{_count(usage.failed_calls, 'failed call')}" if usage.failed_calls else "",
        f"${usage.dollars:.4f}" if usage.dollars else "",
        f"{usage.seconds:.2f} s",
    ]
    ended = "" if stop_reason is StopReason.DONE else f" (stopped by the limit on {stop_reason.value})"
    return ", ".join(part for part in parts if part) + ended


def _replayed(usage: Usage) -> str:
    """How much of it came from a recording."""
    if not usage.replayed_calls and not usage.replayed_scorer_calls:
        return ""
    calls = _count(usage.replayed_calls + usage.replayed_scorer_calls, "recorded call")
    return f" ({usage.replayed_tokens:,} replayed from {calls})"


def explanation(result: Result) -> RenderableType:
    """Candidates, votes, events and the choice, one under the other."""
    votes = _votes(result)
    sections: list[RenderableType] = [_candidate_table(result)]
    if votes:
        sections.append(_vote_table(result, votes))
    happened = "\n".join(_events(result.trace))
    if happened:
        sections.append(Text(happened + "\n"))
    sections.append(Text(_choice(result, votes)))
    return Group(*sections)


@dataclass(frozen=True, slots=True)
class _Alike:
    """Candidates of the same text: how many, their weight together, one of them to show."""

    count: int
    weight: float | None
    shown: Candidate
    chosen: bool


def _alike(result: Result) -> list[_Alike]:
    """Candidates by text: the heaviest first, then the best scored, then the earliest."""
    groups: dict[str, list[int]] = {}
    for i, candidate in enumerate(result.candidates):
        groups.setdefault(candidate.path.text, []).append(i)
    rows = []
    for members in groups.values():
        own = [result.candidates[i] for i in members]
        weights = [c.weight for c in own if c.weight is not None]
        best = max(own, key=lambda c: _known(c.score))
        rows.append(_Alike(len(own), sum(weights) if weights else None, best, result.chosen in members))
    return sorted(rows, key=lambda row: (-(row.weight or 0.0), -_known(row.shown.score)))


def _candidate_table(result: Result) -> Table:
    rows = _alike(result)
    scored = any(row.shown.score is not None for row in rows)
    weighted = any(row.weight is not None for row in rows)
    table = Table(
        title=f"{_count(len(result.candidates), 'candidate')}, {len(rows)} different",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("", min_width=1)
    columns = ["times", *["weight"] * weighted, *["score", "step scores"] * scored, "answer"]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    table.add_column("text", overflow="ellipsis", no_wrap=True, ratio=1)
    listed = [row for i, row in enumerate(rows) if i < SHOWN or row.chosen]
    for row in listed:
        cells = [">" if row.chosen else "", str(row.count)]
        if weighted:
            cells.append(_number(row.weight))
        if scored:
            cells += [_number(row.shown.score), " ".join(f"{s:.2f}" for s in row.shown.step_scores[-6:])]
        cells += [escape(_answer(row.shown)), escape(row.shown.path.text.strip().replace("\n", " | "))]
        table.add_row(*cells, style="bold" if row.chosen else "")
    if len(listed) < len(rows):
        rest = sum(row.count for row in rows) - sum(row.count for row in listed)
        table.caption = f"and {rest} more, {len(rows) - len(listed)} different"
        table.caption_justify = "left"
    return table


def _votes(result: Result) -> list[Cluster]:
    """Answers by what stands behind them: weights where the method gives them, else scores, else heads."""
    candidates = result.candidates
    scores = [c.score for c in candidates]
    weights = [c.weight for c in candidates]
    if any(w is not None for w in weights):
        backing = [w or 0.0 for w in weights]
    elif any(s is not None for s in scores) and all(s is None or s >= 0 for s in scores):
        backing = [s or 0.0 for s in scores]
    else:
        backing = [1.0] * len(candidates)
    return tally([c.answer for c in candidates], backing, scores, kind=result.answer_kind)


def _vote_table(result: Result, votes: Sequence[Cluster]) -> Table:
    table = Table(title="answers", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("", min_width=1)
    table.add_column("answer", justify="right")
    table.add_column("candidates", justify="right")
    table.add_column("share", justify="right")
    table.add_column("best score", justify="right")
    total = sum(cluster.votes for cluster in votes) or 1.0
    for cluster in votes[:SHOWN]:
        best = result.candidates[cluster.representative].score
        table.add_row(
            ">" if result.chosen in cluster.members else "",
            escape(cluster.answer),
            str(len(cluster.members)),
            f"{100 * cluster.votes / total:.0f} %",
            _number(best),
        )
    silent = sum(candidate.answer is None for candidate in result.candidates)
    notes = [
        f"{len(votes) - SHOWN} more answers" if len(votes) > SHOWN else "",
        f"{_count(silent, 'candidate')} without an answer did not vote" if silent else "",
    ]
    table.caption = "; ".join(note for note in notes if note) or None
    table.caption_justify = "left"
    return table


def _events(trace: Trace) -> Iterator[str]:
    resamplings = [event for event in trace.events if isinstance(event, Resampled)]
    for i, event in enumerate(resamplings[:SHOWN], start=1):
        n = len(event.paths)
        yield (
            f"resampling {i}: {n} paths continue {len(set(event.paths))} of them "
            f"(effective sample size {event.ess:.1f} of {n})"
        )
    if len(resamplings) > SHOWN:
        yield f"and {len(resamplings) - SHOWN} more resamplings"
    yield from _exchanges([event for event in trace.events if isinstance(event, Exchanged)])
    rounds = [event for event in trace.events if isinstance(event, Pruned)]
    if rounds:
        dropped = sum(len(event.paths) for event in rounds)
        yield f"pruned {_count(dropped, 'path')} in {_count(len(rounds), 'round')}"
    yield from _comparisons([event for event in trace.events if isinstance(event, Compared)])
    failures = [event.error for event in trace.events if isinstance(event, Failed)]
    if failures:
        yield f"{_count(len(failures), 'call')} failed, the last with: {failures[-1]}"


def _exchanges(events: Sequence[Exchanged]) -> Iterator[str]:
    """How often neighbouring chains exchanged their paths."""
    for powers in dict.fromkeys(event.powers for event in events):
        offers = [event.accepted for event in events if event.powers == powers]
        low, high = (f"{power:.3g}" for power in powers)
        yield f"chains of weight^{low} and ^{high} exchanged paths in {sum(offers)} of {len(offers)} rounds"


def _comparisons(events: Sequence[Compared]) -> Iterator[str]:
    """How often a judge compared, and how many of its verdicts on pairs did not survive the swap."""
    if not events:
        return
    pairwise = {event.paths: event.ranks for event in events if len(event.paths) == 2}
    better = {(a, b): (ranks[0] < ranks[1], ranks[0] > ranks[1]) for (a, b), ranks in pairwise.items()}
    pairs = [pair for pair in better if pair[0] < pair[1] and pair[::-1] in better]
    upset = sum(better[pair] != better[pair[::-1]][::-1] for pair in pairs)
    swap = f"; the swap upset the verdict on {upset} of {_count(len(pairs), 'pair')}" if pairs else ""
    yield f"{_count(len(events), 'comparison')}{swap}"


def _choice(result: Result, votes: Sequence[Cluster]) -> str:
    """Why this one, as far as figures say it."""
    chosen = result.candidates[result.chosen]
    if len(result.candidates) == 1:
        return "The only candidate is the answer."
    facts = []
    rank = next((i for i, cluster in enumerate(votes) if result.chosen in cluster.members), None)
    if rank is not None:
        total = sum(cluster.votes for cluster in votes) or 1.0
        place = "the largest share" if rank == 0 else f"share number {rank + 1}"
        facts.append(f"its answer {chosen.answer} has {place} ({100 * votes[rank].votes / total:.0f} %)")
    else:
        facts.append("it states no answer")
    scores = [c.score for c in result.candidates if c.score is not None]
    if chosen.score is not None:
        better = sum(score > chosen.score for score in scores)
        place = "the best" if better == 0 else f"number {better + 1} of {len(scores)}"
        facts.append(f"its score {chosen.score:.3f} is {place}")
    return f"Chosen by {result.method}: candidate {result.chosen + 1}; {' and '.join(facts)}."


def _answer(candidate: Candidate) -> str:
    if candidate.answer is not None:
        return candidate.answer
    return "cut off" if candidate.path.truncated else "none"


def _known(score: float | None) -> float:
    """A score to order by: what was not judged comes last, after scores below 0 too."""
    return -math.inf if score is None else score


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
