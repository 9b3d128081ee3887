"""`itscale report`: the page, pictures, columns and Markdown table of a run, made again from its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from itscale.bench.parquet import write_parquet
from itscale.bench.plot import save_plots
from itscale.bench.report import question, report_of
from itscale.bench.statistics import cells_of, summarise
from itscale.bench.store import read_run
from itscale.bench.table import markdown_table

__all__ = ["report"]


def report(
    folder: Annotated[Path, typer.Argument(help="The --out folder of itscale bench.", metavar="DIR")],
) -> None:
    """Write DIR/report.html, one page that needs nothing else, and the plots, Parquet and Markdown beside it.

    Made from the rows alone, so it may be asked for while the bench still runs.
    """
    run = read_run(folder)
    made = report_of(run)
    page = made.save(folder / "report.html")
    summaries = summarise(run.rows, cells_of(run.rows))
    title = question(
        {"title": (run.manifest["starts"] or [{}])[-1].get("title", ""), "what": run.manifest["swept"]}
    )
    (folder / "table.md").write_text(markdown_table(summaries, title), encoding="utf-8")
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
