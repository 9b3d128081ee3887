"""`itscale verifier`: how wrong a scorer is as a verifier, and how many tries it is worth."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from itscale.bench.resampling import Forecast, judged_samples
from itscale.commands.ending import finished
from itscale.commands.sources import (
    ModelOption,
    OfflineOption,
    RecordOption,
    ScorerOption,
    Sources,
    loaded,
    room_for,
    stdout,
)
from itscale.errors import OptionError, did_you_mean
from itscale.files import write_whole
from itscale.methods.best_of_n import BestOfN
from itscale.registry import load_task
from itscale.scorers.base import AGGREGATIONS, ComparisonScorer

__all__ = ["verifier"]


def verifier(
    task: Annotated[str, typer.Argument(help="Whose answers can be checked; see: itscale list tasks")],
    problems: Annotated[int, typer.Option(help="How many problems.")] = 200,
    level: Annotated[int | None, typer.Option(help="Difficulty.", show_default="the task's own")] = None,
    samples: Annotated[
        int, typer.Option(help="Samples a problem: half of them estimate, half of them measure.")
    ] = 32,
    threshold: Annotated[float, typer.Option(help="The score from which an answer is accepted.")] = 0.5,
    cost: Annotated[float, typer.Option(help="What a wrong answer costs, where a right one gains 1.")] = 1.0,
    aggregate: Annotated[str, typer.Option(help="Step scores to one: last, min, mean, product.")] = "last",
    temperature: Annotated[float, typer.Option(help="At which answers are drawn.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Tokens of one answer at most.")] = 512,
    seed: Annotated[int, typer.Option(help="Chooses the problems, and every draw on them.")] = 0,
    model: ModelOption = "embedded",
    scorer: ScorerOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
    record: RecordOption = None,
    offline: OfflineOption = False,
) -> None:
    """Draw until a scorer accepts: how often it errs, what N tries reach, past which N more hurt.

    One half of the labelled samples forecasts accuracy against N, the other half is held against it.
    """
    room_for(json_file, "--json")
    if math.isnan(threshold):
        raise OptionError(f"threshold is {threshold}; give a number, 0.5 say")
    if not 0 <= cost < float("inf"):
        raise OptionError(f"cost is {cost}; give 0 or more")
    if samples < 2 or problems < 1:
        raise OptionError("give at least 1 problem and 2 samples: one estimates, one measures")
    if aggregate not in AGGREGATIONS:
        raise OptionError(did_you_mean("aggregate", aggregate, AGGREGATIONS))
    sources = Sources(model, scorer, record, offline)
    if sources.judge == "none":
        raise OptionError(
            "there is no verifier without a scorer; give one with --scorer (itscale list scorers)"
        )
    method = BestOfN(temperature=temperature, max_tokens=max_tokens, aggregate=aggregate)
    solved = load_task(task)
    drawn = solved.problems(problems, level=level, seed=seed)

    async def run() -> list[list[tuple[bool, float | None]]]:
        async with loaded(sources, [method]) as (asked, judge):
            method.check(asked, judge)
            assert judge is not None
            assert not isinstance(judge, ComparisonScorer)
            return await judged_samples(solved, drawn, asked, judge, method, samples=samples, seed=seed)

    scored = finished(run())
    forecast = Forecast(
        [[(right, score is not None and score >= threshold) for right, score in own] for own in scored], cost
    )
    try:
        if json_file is not None:
            write_whole(json_file, json.dumps(_figures(forecast, threshold), indent=2) + "\n")
    finally:  # a disk without room for the file is no reason to hide what was found
        console = stdout()
        console.print(_table(forecast, f"{task}: tries until the scorer says {threshold:g} or more"))
        for line in _said(forecast):
            console.print(Text(line), soft_wrap=True)


def _tries(forecast: Forecast) -> list[int]:
    """1, 2, 4, ... and the most that is measured."""
    powers = [2**i for i in range(forecast.most.bit_length()) if 2**i <= forecast.most]
    return sorted({*powers, forecast.most})


def _table(forecast: Forecast, title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for head in ("N", "predicted", "measured", "95 % interval", "value predicted", "measured"):
        table.add_column(head, justify="right", no_wrap=True)
    for k in _tries(forecast):
        low, high = (100 * bound for bound in forecast.interval(k))
        table.add_row(
            str(k),
            f"{forecast.predicted(k):.1%}",
            f"{forecast.measured(k).mean():.1%}",
            f"{low:.1f} to {high:.1f}",
            f"{forecast.predicted_utility(k):.3f}",
            f"{forecast.measured_utility(k):.3f}",
        )
    return table


def _said(forecast: Forecast) -> list[str]:
    right, accepted, fooled = forecast.rates()
    best, cost = forecast.best, forecast.cost
    erring = f"the verifier accepts {accepted:.1%} of these and {fooled:.1%} of the wrong ones"
    lines = [
        f"{right:.1%} of samples are right; {erring}",
        f"accuracy levels off at about {forecast.ceiling:.1%}, however many tries there are",
    ]
    at = f"at a cost of {cost:g} for a wrong answer"
    if best.utility <= 0:
        return [*lines, f"{at} no number of tries is worth it"]
    if best.k == forecast.most:
        return [*lines, f"{at} more tries do not hurt up to N = {best.k}"]
    values = f"{best.utility:.3f} there, {best.at_one:.3f} at 1, {best.at_most:.3f} at {forecast.most}"
    found = f"measured, the best N is {forecast.measured_best}"
    return [*lines, f"{at} tries past N = {best.k} hurt: the value is {values}; {found}"]


def _figures(forecast: Forecast, threshold: float) -> dict[str, object]:
    right, accepted, fooled = forecast.rates()
    return {
        "problems": len(forecast.samples),
        "threshold": threshold,
        "cost": forecast.cost,
        "right": right,
        "true_positive": accepted,
        "false_positive": fooled,
        "ceiling": forecast.ceiling,
        "best_n": forecast.best.k,
        "best_n_measured": forecast.measured_best,
        "curve": [
            {
                "n": k,
                "predicted": forecast.predicted(k),
                "measured": float(forecast.measured(k).mean()),
                "interval_95": list(forecast.interval(k)),
                "value_predicted": forecast.predicted_utility(k),
                "value_measured": forecast.measured_utility(k),
            }
            for k in _tries(forecast)
        ],
    }
