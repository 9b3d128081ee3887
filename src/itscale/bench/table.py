"""The table of a sweep, for a terminal and for Markdown; the sentence that compares two methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table

from itscale.bench.statistics import CellSummary, paired_difference
from itscale.bench.store import Row

__all__ = ["comparison", "markdown_table", "results_table"]

BASELINE = "majority"
"""What others are compared with: the best one can do without a scorer."""

_HEADERS = ("method", "N", "accuracy", "95 % interval", "tokens", "model calls", "scorer calls", "seconds")


def results_table(summaries: Sequence[CellSummary], title: str) -> Table:
    """One line a cell, a block a method; costs are means per problem; the best accuracy is bold."""
    table = Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", caption_justify="left"
    )
    table.add_column("method", overflow="fold")
    for header in _headers(summaries)[1:]:
        table.add_column(
            header.replace(" calls", "\ncalls"), justify="right", vertical="middle", no_wrap=True
        )
    table.caption = "tokens, calls and seconds per problem; seconds overlap with other runs"
    best = max((s.accuracy for s in summaries if s.problems), default=None)
    previous = None
    for summary in summaries:
        if previous is not None and summary.method != previous:
            table.add_section()
        cells = _cells(summary, with_failures="failed" in _headers(summaries))
        if summary.method == previous:
            cells[0] = ""
        if summary.problems and summary.accuracy == best:
            cells[2] = f"[bold green]{cells[2]}[/]"
        table.add_row(*cells)
        previous = summary.method
    return table


def markdown_table(summaries: Sequence[CellSummary], title: str) -> str:
    """The same table as Markdown, ending in a newline."""
    headers = _headers(summaries)
    lines = [
        f"**{title}**",
        "",
        "| " + " | ".join(headers) + " |",
        "|:---|" + "---:|" * (len(headers) - 1),
        *(
            "| " + " | ".join(_cells(summary, with_failures="failed" in headers)) + " |"
            for summary in summaries
        ),
        "",
        "Tokens (generated), calls and seconds are means per problem; seconds are of runs that overlap.",
    ]
    return "\n".join(lines) + "\n"


def comparison(summaries: Sequence[CellSummary], rows: Iterable[Row]) -> str | None:
    """How the best method at the largest N does against plain voting there, on the same problems."""
    largest = max((s.budget for s in summaries if s.method == BASELINE and s.problems), default=None)
    others = [s for s in summaries if s.budget == largest and s.method != BASELINE and s.problems]
    if largest is None or not others:
        return None
    best = max(others, key=lambda s: s.accuracy).method
    correct: dict[str, dict[str, bool]] = {best: {}, BASELINE: {}}
    for row in rows:
        if row.budget == largest and row.method in correct:
            correct[row.method][row.problem] = row.correct
    paired = paired_difference(correct[best], correct[BASELINE])
    if not paired.problems:
        return None
    p_value = "p < 0.001" if paired.p_value < 0.001 else f"p = {paired.p_value:.2g}"
    return (
        f"{best} {paired.difference * 100:+.1f} points against {BASELINE} at N = {largest} on the same "
        f"{paired.problems} problems: {paired.only_first} only it solved, {paired.only_second} only "
        f"{BASELINE} did (exact McNemar {p_value})"
    )


def _headers(summaries: Sequence[CellSummary]) -> tuple[str, ...]:
    failed = any(summary.failures for summary in summaries)
    return (*_HEADERS, "failed") if failed else _HEADERS


def _cells(summary: CellSummary, *, with_failures: bool) -> list[str]:
    if not summary.problems:
        return [summary.method, str(summary.budget), *["-"] * (5 + with_failures), "-"]
    mean = summary.per_problem
    return [
        summary.method,
        str(summary.budget),
        f"{summary.accuracy * 100:.1f} %",
        f"{summary.ci_low * 100:.1f} to {summary.ci_high * 100:.1f}",
        f"{mean(summary.generated_tokens):,.0f}",
        f"{mean(summary.model_calls):,.1f}",
        f"{mean(summary.scorer_calls):,.1f}",
        f"{mean(summary.seconds):.2f}",
        *([str(summary.failures)] if with_failures else []),
    ]
