"""`itscale plan`: what to run for an accuracy, and what it will cost, from a finished run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from itscale.bench.costs import priced, read_prices
from itscale.bench.economy import COSTS, Cost
from itscale.bench.laws import fit_coverage
from itscale.bench.plan import Option, plan_for
from itscale.bench.rows import Context, Row
from itscale.bench.store import read_run
from itscale.commands.sources import PricesOption, stdout
from itscale.errors import OptionError, did_you_mean

__all__ = ["plan"]


def plan(
    folder: Annotated[Path, typer.Option("--from", help="A run's folder.", metavar="DIR")],
    target: Annotated[float, typer.Option(help="Share of problems to be right, 0 to 1.")],
    cost: Annotated[str, typer.Option(help="tokens, calls, seconds or dollars.")] = "tokens",
    problems: Annotated[int, typer.Option(help="How many you will ask.")] = 1000,
    prices: PricesOption = None,
) -> None:
    """What should I run for this accuracy, and what will it cost?

    Reads accuracy and cost off a finished run of the same kind of problems, each with the uncertainty
    of having seen only those; says when nothing that was measured is enough.
    """
    if cost not in COSTS:
        raise OptionError(did_you_mean("cost", cost, COSTS))
    if not 0 < target <= 1:
        raise OptionError(f"target {target} is no share of problems; give a number above 0 and at most 1")
    if problems < 1:
        raise OptionError(f"{problems} problems cost nothing; give how many you will ask, from 1 up")
    run = read_run(folder)
    if not run.rows:
        raise OptionError(f"{folder} has no finished run yet; start it with itscale bench --resume")
    rows = priced(run.rows, read_prices(prices))
    if cost == "dollars" and not any(row.usage.dollars for row in rows):
        raise OptionError("nothing in this run has a price; add --prices FILE")
    console = stdout()
    by_context: dict[Context, list[Row]] = {}
    for row in rows:
        by_context.setdefault(row.context, []).append(row)
    for context, own in by_context.items():
        options = plan_for(own, target, cost)  # type: ignore[arg-type]  # checked above
        title = f"{target:.0%} right on {context.task}" + (
            "" if context.level is None else f", level {context.level}"
        )
        console.print(_table(options, title, cost))
        for line in _advice(options, own, target, cost, problems):
            console.print(Text(line), soft_wrap=True)


def _table(options: list[Option], title: str, cost: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("method", overflow="fold")
    for head in ("N", "expected", f"{cost} a problem", "95 % interval", "sure"):
        table.add_column(head, justify="right", no_wrap=True)
    for option in options:
        cells = [
            option.cell.method,
            str(option.cell.budget),
            f"{option.accuracy:.1%}",
            _amount(option.cost, cost),
        ]
        if option.reaches:
            cells += [
                f"{_amount(option.cost_low, cost)} to {_amount(option.cost_high, cost)}",
                f"{option.confidence:.0%}",
            ]
        else:
            cells += ["does not reach it", "-"]
        table.add_row(*cells, style="" if option.reaches else "dim")
    return table


def _advice(options: list[Option], rows: list[Row], target: float, cost: str, problems: int) -> list[str]:
    best = options[0]
    cell = best.cell
    if best.reaches:
        told = (
            f"Run {cell.method} at N = {cell.budget}: about {_amount(best.cost, cost)} {cost} a problem, "
            f"{_amount(best.cost * problems, cost)} for {problems:,}. On {best.confidence:.0%} of resampled "
            "sets of problems this N is enough; a larger one is safer."
        )
        return [told]
    told = (
        f"Nothing that was run reaches {target:.0%}: the best is {cell.method} at N = {cell.budget} "
        f"with {best.accuracy:.1%}."
    )
    ceiling = _ceiling(rows, target)
    return [told, *([ceiling] if ceiling else [])]


def _ceiling(rows: list[Row], target: float) -> str | None:
    """What a perfect choice among plain samples could do, from the fitted law of coverage."""
    largest = max((row.budget for row in rows if row.method in ("majority", "best-of-n")), default=0)
    counts = [
        (row.candidates, row.correct_candidates)
        for row in rows
        if row.method in ("majority", "best-of-n") and row.budget == largest and row.candidates == largest
    ]
    try:
        law = fit_coverage(counts)
    except ValueError:
        return None
    if target >= 1 or law.b.value >= 0:
        return None
    needed = law.samples_for(target)
    if needed <= largest:
        return (
            f"A perfect choice among samples would reach it with about {max(1, math.ceil(needed))} of them: "
            "a better scorer is what is missing."
        )
    return (
        f"Even a perfect choice would need about {needed:,.0f} samples, if coverage goes on as "
        f"exp({law.a.value:.2f} k^{law.b.value:.2f}): a better model is what is missing."
    )


def _amount(value: float, cost: Cost | str) -> str:
    if math.isinf(value):
        return "∞"
    if cost == "dollars":
        return f"${value:,.2f}" if value >= 1 else f"${value:.2g}"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"
