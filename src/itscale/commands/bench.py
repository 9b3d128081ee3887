"""`itscale bench`: a study from flags or a file, run into a folder, summed up at its end."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from itscale.bench.cluster import on_cluster
from itscale.bench.costs import Prices, priced, read_prices
from itscale.bench.live import LiveSweep
from itscale.bench.log import write_whole
from itscale.bench.modelled import Hardware, modelled_tables, on_hardware
from itscale.bench.plot import save_plots
from itscale.bench.report import report_of
from itscale.bench.rows import Row
from itscale.bench.statistics import summarise
from itscale.bench.store import DEFAULT_TRACE_MB, RunFolder, read_run
from itscale.bench.study import MAIN_METHODS, Study, read_study
from itscale.bench.sweep import DEFAULT_CONCURRENCY
from itscale.bench.table import by_context, comparison, markdown_table, results_table
from itscale.commands.ending import STOPPED_BY_USER, finished
from itscale.commands.sources import (
    HardwareOption,
    OfflineOption,
    PricesOption,
    RecordOption,
    Sources,
    room_for,
    said,
    stdout,
    whole_numbers,
)
from itscale.commands.sweeping import Cluster, run_study
from itscale.errors import OptionError, did_you_mean
from itscale.registry import split_methods

__all__ = ["bench"]

RUNNERS = ("local", "ray")
_OF_THE_RUN = {
    "out",
    "json_file",
    "resume",
    "record",
    "offline",
    "task",
    "runner",
    "workers",
    "hardware",
    "prices",
}
"""Options that say how a study is run, not what it is; they go with a file."""


def bench(
    context: typer.Context,
    task: Annotated[
        str, typer.Argument(help="What is solved (itscale list tasks), or FILE.toml: a whole study.")
    ],
    methods: Annotated[
        str, typer.Option(help="Methods, comma-separated; an option=value belongs to the one before it.")
    ] = ",".join(MAIN_METHODS),
    budgets: Annotated[str, typer.Option(help="N of each cell, comma-separated.")] = "1,4,16,64",
    problems: Annotated[int, typer.Option(help="How many held-out problems.")] = 200,
    level: Annotated[
        str | None, typer.Option(help="Difficulty, or several.", show_default="the task's own")
    ] = None,
    seed: Annotated[
        str, typer.Option(help="Of every draw; the first of several chooses the problems.")
    ] = "0",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="See: itscale list models; may be given again.", metavar="SPEC", show_default="embedded"
        ),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help="See: itscale list scorers; may be given again.",
            metavar="SPEC",
            show_default="embedded with the embedded model, else none",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run.", show_default="runs/TASK-TIME")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write one JSON object a cell to this file.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    concurrency: Annotated[int, typer.Option(help="Runs in flight.")] = DEFAULT_CONCURRENCY,
    trace_mb: Annotated[
        float, typer.Option("--trace-mb", help="Megabytes of traces to keep; 0 keeps none.")
    ] = DEFAULT_TRACE_MB,
    keep_calls: Annotated[
        bool, typer.Option("--keep-calls", help="Record every call in the run's folder.")
    ] = False,
    record: RecordOption = None,
    offline: OfflineOption = False,
    runner: Annotated[
        str, typer.Option(help="local, or ray: problems spread over a Ray cluster; keeps every call.")
    ] = "local",
    hardware: HardwareOption = None,
    prices: PricesOption = None,
    workers: Annotated[
        int | None, typer.Option(help="Of a cluster.", show_default="one a GPU, or one a node without any")
    ] = None,
) -> None:
    """Measure methods against budgets on a task: a table, a report, and every row kept.

    Tokens and calls in the JSON are sums over the problems; each cell is charged what it would cost
    alone, though samples are shared. Ctrl-C keeps every finished run; --resume goes on from there.
    """
    if task.endswith(".toml"):
        _refuse_doubled_options(context, task)
        study, name = read_study(Path(task)), Path(task).stem
    else:
        name = task.partition(":")[0]
        study = Study(
            tasks=(task,),
            levels=whole_numbers("level", level) if level else (),
            models=tuple(model or ["embedded"]),
            scorers=tuple(scorer or []),
            methods=tuple(split_methods(methods)),
            budgets=whole_numbers("budgets", budgets),
            problems=problems,
            seeds=whole_numbers("seed", seed),
            concurrency=concurrency,
            trace_mb=trace_mb,
            keep_calls=keep_calls,
        )
    if resume and out is None:
        raise OptionError("--resume needs the folder of the run; add --out DIR")
    folder = out or Path("runs") / f"{name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    _check_runner(runner, workers)
    known = read_prices(prices)
    machine = on_hardware(hardware, known)
    if machine is not None:
        for spec in study.models:
            machine.require(spec)
    if study.keep_calls or runner == "ray":
        record = record or folder / "calls.sqlite"
    sources = Sources(study.models[0], None, record, offline)
    room_for(json_file, "--json")
    extent = study.extent | {"runner": runner}
    with RunFolder(folder, study.swept, extent, resume=resume, trace_mb=study.trace_mb) as store:
        stopped, spent = False, ""
        try:
            with on_cluster() if runner == "ray" else nullcontext() as ray:
                spent = _run(study, store, sources, Cluster(ray, workers) if ray else None)
        except KeyboardInterrupt:
            stopped = True
        state = "so far" if stopped else ""
        _report(study, store, json_file, _Wanted(spent, state, known, machine))
        if stopped:
            _say_how_to_resume(store, out)
            raise typer.Exit(STOPPED_BY_USER)


def _run(study: Study, store: RunFolder, sources: Sources, cluster: Cluster | None) -> str:
    """Run what the folder lacks; a line on what that took, empty if nothing was lacking."""
    mine = set(study.keys)
    before = [row for row in store.rows if row.key in mine]
    if len(before) == len(mine):
        return ""
    for sweep in study.sweeps:
        store.keep_problems(sweep.task.name, sweep.problems)
    began, rows_before = datetime.now().astimezone(), len(store.rows)
    done = {row.key for row in before}

    errors = Console(stderr=True)
    errors.print(
        f"{study.what} in {len(study.cells)} cells, {len(mine) - len(before)} runs to do; "
        f"rows go to {store.path}",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    with LiveSweep(study.sweeps, errors) as live:
        live.resume(before)

        def keep(row: Row, trace: Mapping[str, Any] | None) -> None:
            store.append(row, trace)
            live.add(row)

        effort = finished(run_study(study, sources, on_row=keep, done=done, cluster=cluster))
    store.ended(effort.to_json())
    seconds = (datetime.now().astimezone() - began).total_seconds()
    charged = sum(row.usage.generated_tokens for row in store.rows[rows_before:])
    replayed = sum(row.usage.replayed_tokens for row in store.rows[rows_before:])
    made = charged - effort.shared_tokens - replayed
    busy = effort.model_busy
    freely = f"{effort.shared_tokens:,} of them shared, " + (f"{replayed:,} replayed, " if replayed else "")
    return (
        f"{len(store.rows) - rows_before:,} runs in {seconds:,.0f} s; {charged:,} tokens charged, "
        f"{freely}{made:,} generated ({made / seconds:,.0f} a second)"
        + ("" if busy is None else f"; the model computed {busy:.0%} of the time")
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the end of a run shows beside its rows."""

    spent: str
    state: str
    prices: Prices
    machine: Hardware | None


def _report(study: Study, store: RunFolder, json_file: Path | None, wanted: _Wanted) -> None:
    """Tables to stdout and table.md, plot beside it, one JSON object a cell; where everything is."""
    console = stdout()
    mine = set(study.keys)
    rows = priced([row for row in store.rows if row.key in mine], wanted.prices)
    summaries = summarise(rows, study.cells)
    title = f"{study.what} ({wanted.state})" if wanted.state else study.what
    tables = [(results_table(summaries, title), markdown_table(summaries, title))]
    if wanted.machine is not None and rows:
        tables += modelled_tables(rows, by_context(summaries), wanted.machine)
    write_whole(store.path / "table.md", "\n".join(text for _, text in tables))
    failures = [row.error for row in rows if row.error is not None]
    plots = save_plots(summaries, title, store.path)
    columns = store.export()
    missing = [
        *(["no plot: matplotlib"] if plots is None else []),
        *(["no Parquet: pyarrow"] if columns is None else []),
    ]
    lines = [
        comparison(summaries, rows),
        wanted.spent,
        f"{len(failures)} failed runs count as wrong; the last: {failures[-1]}" if failures else None,
        f"plot: {plots[0]}" if plots else None,
        f'{" and ".join(missing)} is not installed; pip install "itscale[bench]"' if missing else None,
        f"rows: {store.path / 'results.jsonl'}",
        f"report: {_page(store, wanted)}" if rows else None,
    ]
    if json_file is not None:
        text = "".join(json.dumps(summary.to_json()) + "\n" for summary in summaries)
        write_whole(json_file, text)
        lines.append(f"json: {json_file}")
    for table, _ in tables:  # once everything is kept, as whoever reads may have enough of it
        console.print(table)
    for line in filter(None, lines):
        console.print(Text(line), soft_wrap=True)


def _page(store: RunFolder, wanted: _Wanted) -> Path:
    run = read_run(store.path)
    run = replace(run, rows=priced(run.rows, wanted.prices))
    return report_of(run, wanted.machine).save(store.path / "report.html")


def _say_how_to_resume(store: RunFolder, out: Path | None) -> None:
    arguments = [*sys.argv[1:], *([] if out else ["--out", str(store.path)])]
    again = shlex.join(["itscale", *arguments, *([] if "--resume" in arguments else ["--resume"])])
    typer.echo(f"stopped; {len(store.rows)} finished runs are kept. Go on with: {again}", err=True)


def _check_runner(runner: str, workers: int | None) -> None:
    if runner not in RUNNERS:
        raise OptionError(did_you_mean("runner", runner, RUNNERS))
    if workers is not None and (runner == "local" or workers < 1):
        raise OptionError(
            "--workers says how many on a cluster; give at least 1, beside --runner ray"
            if runner == "ray"
            else "--workers is for a cluster; add --runner ray, or use --concurrency"
        )


def _refuse_doubled_options(context: typer.Context, file: str) -> None:
    """What a study is stands in its file or in the flags, never in both."""
    for name, written in said(context).items():
        if name not in _OF_THE_RUN:
            raise OptionError(f"{written} beside {file}; say it in the file")
