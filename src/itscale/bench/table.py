"""The table of a sweep, for a terminal and for Markdown; the sentence that compares two methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table

from itscale.bench.paired import compare
from itscale.bench.rows import Context, Row
from itscale.bench.statistics import CellSummary

__all__ = ["by_context", "comparison", "markdown_table", "results_table"]

BASELINE = "majority"
"""What others are compared with: the best one can do without a scorer."""

_HEADERS = ("method", "N", "accuracy", "95 % interval", "tokens", "model calls", "scorer calls", "seconds")


def results_table(summaries: Sequence[CellSummary], title: str) -> Table:
    """One line a cell, a block a method; costs are means per problem; the best accuracy is bold."""
    table = Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", caption_justify="left"
    )
    varying = _varying(summaries)
    for name in (*varying, "method"):
        table.add_column(name, overflow="fold")
    for header in _headers(summaries)[len(varying) + 1 :]:
        table.add_column(
            header.replace(" calls", "\ncalls"), justify="right", vertical="middle", no_wrap=True
        )
    table.caption = "tokens, calls and seconds per problem; seconds overlap with other runs"
    best: dict[Context, float] = {}
    for summary in summaries:
        if summary.problems:
            best[summary.context] = max(best.get(summary.context, 0.0), summary.accuracy)
    previous = None
    for summary in summaries:
        block = (summary.context, summary.method)
        if previous is not None and block != previous:
            table.add_section()
        cells = _cells(summary, varying, with_failures="failed" in _headers(summaries))
        if block == previous:
            cells[: len(varying) + 1] = [""] * (len(varying) + 1)
        if summary.problems and summary.accuracy == best[summary.context]:
            cells[len(varying) + 2] = f"[bold green]{cells[len(varying) + 2]}[/]"
        table.add_row(*cells)
        previous = block
    return table


def markdown_table(summaries: Sequence[CellSummary], title: str) -> str:
    """The same table as Markdown, ending in a newline."""
    headers, varying = _headers(summaries), _varying(summaries)
    lines = [
        f"**{title}**",
        "",
        "| " + " | ".join(headers) + " |",
        "|" + ":---|" * (len(varying) + 1) + "---:|" * (len(headers) - len(varying) - 1),
        *(
            "| " + " | ".join(_cells(summary, varying, with_failures="failed" in headers)) + " |"
            for summary in summaries
        ),
        "",
        "Tokens (generated), calls and seconds are means per problem; seconds are of runs that overlap.",
    ]
    return "\n".join(lines) + "\n"


def by_context(summaries: Iterable[CellSummary]) -> list[list[CellSummary]]:
    """Those that can be compared together, contexts as they first appear."""
    groups: dict[Context, list[CellSummary]] = {}
    for summary in summaries:
        groups.setdefault(summary.context, []).append(summary)
    return list(groups.values())


def comparison(summaries: Sequence[CellSummary], rows: Iterable[Row]) -> str | None:
    """How the best method at the largest N does against plain voting there, on the same problems."""
    votes = [s for s in summaries if s.method == BASELINE and s.problems]
    if not votes:
        return None
    vote = max((s for s in votes if s.context == votes[0].context), key=lambda s: s.budget)
    others = [
        s for s in summaries
        if (s.context, s.budget) == (vote.context, vote.budget) and s.method != BASELINE and s.problems
    ]  # fmt: skip
    if not others:
        return None
    best = max(others, key=lambda s: s.accuracy)
    found = compare(rows, [(best.cell, vote.cell)])
    if not found:
        return None
    paired = found[0].paired
    p_value = "p < 0.001" if paired.p_value < 0.001 else f"p = {paired.p_value:.2g}"
    test = "exact McNemar" if vote.runs <= vote.problems else "sign flips by problem,"
    return (
        f"{best.method} {paired.difference * 100:+.1f} points against {BASELINE} at N = {vote.budget} on the "
        f"same {paired.problems} problems: {paired.only_first} only it solved, {paired.only_second} only "
        f"{BASELINE} did ({test} {p_value})"
    )


def _varying(summaries: Sequence[CellSummary]) -> list[str]:
    """The parts of the context in which cells differ."""
    return [name for name in Context._fields if len({getattr(s.context, name) for s in summaries}) > 1]


def _headers(summaries: Sequence[CellSummary]) -> tuple[str, ...]:
    failed = any(summary.failures for summary in summaries)
    return (*_varying(summaries), *_HEADERS, *(["failed"] if failed else []))


def _cells(summary: CellSummary, varying: Sequence[str], *, with_failures: bool) -> list[str]:
    named = [str(getattr(summary.context, name)) for name in varying]
    named += [summary.method, str(summary.budget)]
    if not summary.problems:
        return [*named, *["-"] * (5 + with_failures), "-"]
    mean = summary.per_problem
    return [
        *named,
        f"{summary.accuracy * 100:.1f} %",
        f"{summary.ci_low * 100:.1f} to {summary.ci_high * 100:.1f}",
        f"{mean(summary.generated_tokens):,.0f}",
        f"{mean(summary.model_calls):,.1f}",
        f"{mean(summary.scorer_calls):,.1f}",
        f"{mean(summary.seconds):.2f}",
        *([str(summary.failures)] if with_failures else []),
    ]
