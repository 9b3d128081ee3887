"""The command line: parses, calls, prints. Results go to stdout, progress and errors to stderr.

Exit codes: 0 done, 1 a broken law, 2 a request that cannot be met (one sentence why), 130 stopped by Ctrl-C,
141 nobody reads the output any more.
"""

from __future__ import annotations

import errno
import json
import sys
from typing import Annotated, Any

import typer
from rich.text import Text

from itscale.budget import Budget
from itscale.commands.allocate import allocate
from itscale.commands.bench import bench
from itscale.commands.calibrate import calibrate
from itscale.commands.ending import STOPPED_BY_USER, finished, whole_process
from itscale.commands.plan import plan
from itscale.commands.report import report
from itscale.commands.serve import serve
from itscale.commands.sources import (
    ModelOption,
    OfflineOption,
    RecordOption,
    ScorerOption,
    Sources,
    loaded,
    stdout,
)
from itscale.commands.verifier import verifier
from itscale.doctor import diagnose, probing, spec_of
from itscale.errors import ItscaleError, PromptError
from itscale.explain import account, explanation
from itscale.listing import listing
from itscale.methods.base import Result
from itscale.registry import (
    load_model,
    parse_method,
)
from itscale.version import __version__

__all__ = ["app", "main"]


class _ErrorsAreSentences(typer.core.TyperGroup):
    """Errors raised on purpose, and those of the file system, end in one sentence, not a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read our output has enough
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            raise typer.Exit(STOPPED_BY_USER) from None
        except (ItscaleError, OSError) as error:
            if ctx.params["debug"]:
                raise
            is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            typer.echo(f"error: {error}{'; make room, then run again' if is_full else ''}", err=True)
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
    whole_process(lambda: app(prog_name="itscale"))


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
        result = finished(run())
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
    silent = "no answer: too few votes agree" if result.abstained else "no answer was reached"
    console.print(Text(silent if result.answer is None else result.answer, style="bold"))
    if result.degraded is not None:
        console.print(Text(f"({result.degraded})", style="yellow"), soft_wrap=True)
    console.print(Text(f"\n{result.text.strip()}\n"))
    console.print(Text(account(result.usage, result.stop_reason), style="dim"))


app.command(
    epilog="Example: itscale bench countdown --methods majority,beam:width=4,scope=parent --budgets 1,4,16 "
    "--problems 100 --out runs/mine"
)(bench)
app.command(epilog="Example: itscale report runs/demo")(report)
app.command(epilog="Example: itscale plan --from runs/demo --target 0.8")(plan)


app.command(epilog="Example: itscale allocate countdown --problems 100 --samples 800")(allocate)
app.command(epilog="Example: itscale calibrate early-exit chain --out chain-exit.json")(calibrate)
app.command(epilog="Example: itscale verifier countdown --threshold 0.2 --cost 1")(verifier)


app.command(epilog="Example: itscale serve --method best-of-n")(serve)


@app.command("list", epilog="Example: itscale list methods")
def list_names(
    what: Annotated[
        str, typer.Argument(help="methods, models, scorers or tasks", metavar="WHAT", show_default="all")
    ] = "all",
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
    report = finished(diagnose(load_model(spec_of(spec))))
    typer.echo(json.dumps(report.to_json())) if as_json else stdout().print(report.table())
    if report.broken:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
