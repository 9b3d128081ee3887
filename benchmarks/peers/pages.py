"""The tables of the comparison, put between their markers on the pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.running import Cell, Measured
from benchmarks.peers.served import ROOT
from itscale.bench import wilson_interval

__all__ = ["accuracy_table", "between", "speed_table", "write"]

PAGES = {"accuracy": ROOT / "docs" / "evidence.md", "speed": ROOT / "docs" / "performance.md"}


def accuracy_table(measured: Sequence[Measured]) -> list[str]:
    """A line for each method."""
    names = ["whose", "method", "N", "right", "95 % interval", "failed", "generated tokens", "prompt tokens"]
    lines = [*_head([*names, "requests"], words=2)]
    for one in measured:
        right, n = sum(one.correct), len(one.correct)
        low, high = wilson_interval(right, n)
        counts = one.counts
        each = [counts.generated_tokens / n, counts.prompt_tokens / n, counts.requests / n]
        told = " | ".join(f"{value:,.0f}" for value in each)
        shown = f"{right / n:.1%} of {n} | {low:.1%} to {high:.1%} | {one.failed}"
        lines.append(f"| {one.cell.who} | {one.cell.method} | {one.cell.n} | {shown} | {told} |")
    return lines


def speed_table(measured: Sequence[Measured]) -> list[str]:
    """A line for each run, and how many times as fast as the other ours is."""
    names = [
        "whose",
        "method",
        "N",
        "problems at once",
        "seconds",
        "times as fast",
        "generated tokens",
        "prompt tokens",
    ]
    lines = [*_head([*names, "of them computed", "requests", "connections", "right"], words=2)]
    seconds = {one.cell: one.seconds for one in measured}
    for one in measured:
        cell, counts = one.cell, one.counts
        other = Cell("its_hub", cell.method, cell.n, cell.problems, cell.at_once)
        ratio = f"{seconds[other] / one.seconds:.1f}" if other in seconds else ""
        numbers = [counts.generated_tokens, counts.prompt_tokens, counts.prompt_tokens - counts.cached_tokens]
        numbers += [counts.requests, counts.connections]
        told = " | ".join(f"{value:,}" for value in numbers)
        right = f"{sum(one.correct)} of {len(one.correct)}" if one.correct else ""
        lines.append(
            f"| {cell.who} | {cell.method} | {cell.n} | {cell.at_once} | {one.seconds:.1f} | {ratio} "
            f"| {told} | {right} |"
        )
    return lines


def _head(names: Sequence[str], *, words: int) -> list[str]:
    """Two lines; columns after the first few are numbers."""
    rules = ["---"] * words + ["---:"] * (len(names) - words)
    return [f"| {' | '.join(names)} |", f"|{'|'.join(rules)}|"]


def between(page: Path, name: str, lines: Sequence[str]) -> None:
    """Put lines between a page's markers of that name.

    Raises:
        ValueError: the page lacks the markers.
    """
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if not 0 <= text.find(begin) < text.find(end):
        raise ValueError(f"{page} has no section between {begin} and {end}; put both markers where it goes")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    inside = "\n".join(lines)
    page.write_text(f"{before}{begin}\n\n{inside}\n\n{end}{after}", encoding="utf-8")


def write(accuracy: Sequence[Measured], speed: Sequence[Measured]) -> None:
    """Print what there is, and put it on the pages."""
    for name, lines in (
        ("accuracy", accuracy_table(accuracy) if accuracy else []),
        ("speed", speed_table(speed) if speed else []),
    ):
        if lines:
            print("\n".join(lines))
            between(PAGES[name], f"peers-{name}", lines)
