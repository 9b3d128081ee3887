"""`itscale report`: the page, pictures, columns and Markdown table of a run, made again from its rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from itscale.bench.costs import priced, read_prices
from itscale.bench.log import write_whole
from itscale.bench.modelled import modelled_tables, on_hardware
from itscale.bench.parquet import write_parquet
from itscale.bench.plot import save_plots
from itscale.bench.report import question, report_of
from itscale.bench.statistics import cells_of, summarise
from itscale.bench.store import read_run
from itscale.bench.table import by_context, markdown_table
from itscale.commands.sources import HardwareOption, PricesOption, stdout

__all__ = ["report"]


def report(
    folder: Annotated[Path, typer.Argument(help="The --out folder of itscale bench.", metavar="DIR")],
    hardware: HardwareOption = None,
    prices: PricesOption = None,
) -> None:
    """Write DIR/report.html, one page that needs nothing else, and the plots, Parquet and Markdown beside it.

    Made from the rows alone, so it may be asked for while the bench still runs.
    """
    known = read_prices(prices)
    machine = on_hardware(hardware, known)
    run = read_run(folder)
    run = replace(run, rows=priced(run.rows, known))
    made = report_of(run, machine)
    page = made.save(folder / "report.html")
    summaries = summarise(run.rows, cells_of(run.rows))
    title = question(
        {"title": (run.manifest["starts"] or [{}])[-1].get("title", ""), "what": run.manifest["swept"]}
    )
    tables = [markdown_table(summaries, title)]
    if machine is not None:
        for table, markdown in modelled_tables(run.rows, by_context(summaries), machine):
            tables.append(markdown)
            stdout().print(table)
    write_whole(folder / "table.md", "\n".join(tables))
    plots = save_plots(summaries, title, folder)
    columns = write_parquet(run.rows, folder / "results.parquet")
    typer.echo(
        f"report: {page} ({page.stat().st_size / 1e6:.1f} MB, {len(run.rows)} runs, {made.traced} traces)"
    )
    if plots:
        typer.echo(f"plot: {plots[0]}")
    if columns:
        typer.echo(f"columns: {columns}")
    if plots is None or columns is None:
        typer.echo('plots need matplotlib, columns pyarrow: pip install "itscale[bench]"')
