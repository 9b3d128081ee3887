"""The command line: parses, calls, prints. Results go to stdout, progress and errors to stderr.

Exit codes: 0 done, 1 a broken law, 2 a request that cannot be met (one sentence why), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from itscale.bench.live import LiveSweep
from itscale.bench.plot import save_plot
from itscale.bench.statistics import summarise
from itscale.bench.store import Row, RunFolder
from itscale.bench.sweep import DEFAULT_CONCURRENCY, Sweep, run_sweep
from itscale.bench.table import comparison, markdown_table, results_table
from itscale.budget import Budget
from itscale.commands.sources import (
    ModelOption,
    OfflineOption,
    RecordOption,
    ScorerOption,
    Sources,
    loaded,
    stdout,
    whole_numbers,
)
from itscale.doctor import diagnose, probing, spec_of
from itscale.errors import ItscaleError, OptionError, PromptError
from itscale.explain import account, explanation
from itscale.listing import listing
from itscale.methods.base import Result
from itscale.registry import (
    load_model,
    load_task,
    method_label,
    parse_method,
    split_methods,
)
from itscale.version import __version__

__all__ = ["app", "main"]

STOPPED_BY_USER = 130
MAIN_METHODS = "greedy,majority,best-of-n,weighted-best-of-n,beam,particle-filter"


class _ErrorsAreSentences(typer.core.TyperGroup):
    """Errors raised on purpose, and those of the file system, end in one sentence, not a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read our output has enough
        except (ItscaleError, OSError) as error:
            if ctx.params["debug"]:
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_ErrorsAreSentences,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Inference-time scaling: better answers from a frozen model, a scorer and a budget.",
    epilog='Start with: itscale solve "Make 45 from 3, 7, 12, 23." --explain',
)


def main() -> None:
    """The `itscale` command."""
    app(prog_name="itscale")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"itscale {__version__}")
        raise typer.Exit


@app.callback()
def _options_of_all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="ITSCALE_DEBUG", help="Show tracebacks of errors.")
    ] = False,
) -> None:
    del version, debug  # handled before a command runs


@app.command(
    epilog='Example: itscale solve "Make 45 from 3, 7, 12, 23." --method beam:width=4 --budget 16 --explain'
)
def solve(
    prompt: Annotated[str, typer.Argument(help="What is asked; - reads it from standard input.")],
    model: ModelOption = "embedded",
    scorer: ScorerOption = None,
    method: Annotated[
        str, typer.Option(help="NAME or NAME:option=value,...; see: itscale list methods")
    ] = "weighted-best-of-n",
    budget: Annotated[int, typer.Option(help="N: answers started from the prompt.")] = 16,
    max_tokens: Annotated[int | None, typer.Option(help="Limit on generated tokens in all.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Limit on wall time.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answer.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show candidates, votes and how the choice came about.")
    ] = False,
    record: RecordOption = None,
    offline: OfflineOption = False,
) -> None:
    """Answer one prompt, and say what it cost."""
    chosen, sources = parse_method(method), Sources(model, scorer, record, offline)
    limits = Budget(generations=budget, tokens=max_tokens, seconds=seconds)
    question = sys.stdin.read().strip() if prompt == "-" else prompt.strip()
    if not question:
        raise PromptError("the prompt is empty; give a question, or - and one on standard input")

    async def run() -> Result:
        async with loaded(sources, [chosen]) as (asked, judge):
            return await chosen.run(question, asked, judge, limits, seed)

    try:
        result = asyncio.run(run())
    except KeyboardInterrupt:
        typer.echo("stopped before there was an answer", err=True)
        raise typer.Exit(STOPPED_BY_USER) from None
    if as_json:
        typer.echo(json.dumps(result.to_json(), ensure_ascii=False, indent=2))
    else:
        _print_result(result, explain)


def _print_result(result: Result, explain: bool) -> None:
    console = stdout()
    if explain:
        console.print(explanation(result))
        console.print()
    console.print(Text(result.answer if result.answer is not None else "no answer was reached", style="bold"))
    console.print(Text(f"\n{result.text.strip()}\n"))
    console.print(Text(account(result.usage, result.stop_reason), style="dim"))


@app.command(
    epilog="Example: itscale bench countdown --methods majority,beam:width=4,scope=parent --budgets 1,4,16 "
    "--problems 100 --out runs/mine"
)
def bench(
    task: Annotated[str, typer.Argument(help="What is solved; see: itscale list tasks")],
    methods: Annotated[
        str, typer.Option(help="Methods, comma-separated; an option=value belongs to the one before it.")
    ] = MAIN_METHODS,
    budgets: Annotated[str, typer.Option(help="N of each cell, comma-separated.")] = "1,4,16,64",
    problems: Annotated[int, typer.Option(help="How many held-out problems.")] = 200,
    level: Annotated[int | None, typer.Option(help="Difficulty.", show_default="the task's own")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the problems, and every draw on them.")] = 0,
    model: ModelOption = "embedded",
    scorer: ScorerOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run.", show_default="runs/TASK-TIME")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write one JSON object a cell to this file.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    concurrency: Annotated[int, typer.Option(help="Runs in flight.")] = DEFAULT_CONCURRENCY,
    record: RecordOption = None,
    offline: OfflineOption = False,
) -> None:
    """Measure methods against budgets on a task: a table, a plot, and every row kept.

    Tokens and calls in the JSON are sums over the problems; each cell is charged what it would cost
    alone, though samples are shared. Ctrl-C keeps every finished run; --resume goes on from there.
    """
    solved, sources = load_task(task), Sources(model, scorer, record, offline)
    sweep = Sweep(
        task=solved,
        methods=tuple(map(parse_method, split_methods(methods))),
        budgets=whole_numbers("budgets", budgets),
        count=problems,
        level=solved.default_level if level is None else level,
        seed=seed,
    )
    if resume and out is None:
        raise OptionError("--resume needs the folder of the run; add --out DIR")
    folder = out or Path("runs") / f"{task}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
    swept = {
        "task": task,
        "level": sweep.level,
        "seed": seed,
        "model": model,
        "scorer": sources.judge,
    }
    extent = {
        "methods": [method_label(method) for method in sweep.methods],
        "budgets": list(sweep.budgets),
        "problems": problems,
        "concurrency": concurrency,
    }
    with RunFolder(folder, swept, extent, resume=resume) as store:
        stopped, spent = False, ""
        try:
            spent = _run_bench(sweep, store, sources, concurrency)
        except KeyboardInterrupt:
            stopped = True
        _report(sweep, store, json_file, spent, "so far" if stopped else "")
        if stopped:
            _say_how_to_resume(store, out)
            raise typer.Exit(STOPPED_BY_USER)


def _run_bench(sweep: Sweep, store: RunFolder, sources: Sources, concurrency: int) -> str:
    """Run what the folder lacks; a line on what that took, empty if nothing was lacking."""
    mine = set(sweep.keys)
    before = [row for row in store.rows if row.key in mine]
    if len(before) == len(mine):
        return ""
    began, rows_before = datetime.now().astimezone(), len(store.rows)

    async def run(live: LiveSweep) -> int:
        async with loaded(sources, sweep.methods) as (asked, judge):

            def keep(row: Row) -> None:
                store.append(row)
                live.add(row)

            done = {row.key for row in before}
            return await run_sweep(sweep, asked, judge, on_row=keep, done=done, concurrency=concurrency)

    errors = Console(stderr=True)
    errors.print(
        f"{sweep.task.name}, level {sweep.level}: {len(sweep.problems)} problems in {len(sweep.cells)} "
        f"cells, {len(mine) - len(before)} runs to do; rows go to {store.path}",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    with LiveSweep(sweep, errors) as live:
        live.resume(before)
        shared = asyncio.run(run(live))
    seconds = (datetime.now().astimezone() - began).total_seconds()
    charged = sum(row.usage.generated_tokens for row in store.rows[rows_before:])
    replayed = sum(row.usage.replayed_tokens for row in store.rows[rows_before:])
    made = charged - shared - replayed
    freely = f"{shared:,} of them shared, " + (f"{replayed:,} replayed, " if replayed else "")
    return (
        f"{len(store.rows) - rows_before:,} runs in {seconds:,.0f} s; {charged:,} tokens charged, "
        f"{freely}{made:,} generated ({made / seconds:,.0f} a second)"
    )


def _report(sweep: Sweep, store: RunFolder, json_file: Path | None, spent: str, state: str) -> None:
    """Table to stdout and table.md, plot beside it, one JSON object a cell; where everything is."""
    console = stdout()
    mine = set(sweep.keys)
    rows = [row for row in store.rows if row.key in mine]
    cells = [(cell.label, cell.budget) for cell in sweep.cells]
    summaries = summarise(rows, cells, task=sweep.task.name, level=sweep.level, seed=sweep.seed)
    what = f"{sweep.task.name}, level {sweep.level}, {len(sweep.problems)} problems, seed {sweep.seed}"
    title = f"{what} ({state})" if state else what
    console.print(results_table(summaries, title))
    (store.path / "table.md").write_text(markdown_table(summaries, title), encoding="utf-8")
    failures = [row.error for row in rows if row.error is not None]
    plot = save_plot(summaries, title, store.path)
    lines = [
        comparison(summaries, rows),
        spent,
        f"{len(failures)} failed runs count as wrong; the last: {failures[-1]}" if failures else None,
        f"plot: {plot[0]}" if plot else None,
        'no plot: matplotlib is not installed; pip install "itscale[bench]"' if plot is None else None,
        f"rows: {store.path / 'results.jsonl'}",
    ]
    if json_file is not None:
        text = "".join(json.dumps(summary.to_json()) + "\n" for summary in summaries)
        json_file.write_text(text, encoding="utf-8")
        lines.append(f"json: {json_file}")
    for line in filter(None, lines):
        console.print(Text(line), soft_wrap=True)


def _say_how_to_resume(store: RunFolder, out: Path | None) -> None:
    arguments = [*sys.argv[1:], *([] if out else ["--out", str(store.path)])]
    again = shlex.join(["itscale", *arguments, *([] if "--resume" in arguments else ["--resume"])])
    typer.echo(f"stopped; {len(store.rows)} finished runs are kept. Go on with: {again}", err=True)


@app.command("list", epilog="Example: itscale list methods")
def list_names(
    what: Annotated[str, typer.Argument(help="methods, models, scorers or tasks", metavar="WHAT")],
    probe: Annotated[str | None, typer.Option(help="models: what a server at this URL honours.")] = None,
) -> None:
    """What there is: methods with their options, models, scorers, tasks."""
    console = stdout()
    for part in listing(what) if probe is None else probing(what, probe, load_model):
        console.print(part, soft_wrap=isinstance(part, Text))


@app.command(epilog="Example: itscale doctor http://127.0.0.1:8000/v1")
def doctor(
    spec: Annotated[str, typer.Argument(help="A model, or the URL of a server.", metavar="SPEC")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Hold a backend against the laws, and say what it honours; exit code 1 if it breaks one."""
    report = asyncio.run(diagnose(load_model(spec_of(spec))))
    typer.echo(json.dumps(report.to_json())) if as_json else stdout().print(report.table())
    if report.broken:
        raise typer.Exit(1)
