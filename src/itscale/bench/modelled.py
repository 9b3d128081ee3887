"""Measured and modelled costs of a run's cells side by side: what each would cost alone on a named machine.

A run is modelled as N answers side by side, each with its share of the tokens that were generated; the
prompt once; and, where the scorer is a model whose shape is known, one pass of it over the tokens that it
computed. What was pruned counts, what was shared does not, as in the rows themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from itscale.bench.costs import Accelerator, Modelled, ModelShape, Prices, modelled_cost, reading_cost
from itscale.bench.rows import CellKey, Row
from itscale.bench.statistics import CellSummary
from itscale.embedded import PROCESS_SCORER, REASONER
from itscale.errors import OptionError

__all__ = ["Hardware", "modelled_figures", "modelled_tables", "on_hardware"]


@dataclass(frozen=True)
class Hardware:
    """The machine that costs are modelled on, and what is known of the models."""

    name: str
    machine: Accelerator
    prices: Prices

    def shape(self, spec: str, *, scorer: bool = False) -> ModelShape | None:
        """Of a model or scorer, from its config.json: the price file's, or that of a local checkpoint."""
        if spec in self.prices.shapes:
            return self.prices.shapes[spec]
        if spec == "embedded":
            return ModelShape.read((PROCESS_SCORER if scorer else REASONER) / "config.json")
        if spec.startswith("hf:"):
            return ModelShape.read(Path(spec[3:].partition("#")[0]).expanduser() / "config.json")
        return None

    def require(self, model: str) -> ModelShape:
        """The shape of a model.

        Raises:
            OptionError: it is not known.
        """
        shape = self.shape(model)
        if shape is None:
            raise OptionError(
                f"the shape of model {model!r} is not known; add its config.json to the price file: "
                f'[shapes] "{model}" = "config.json"'
            )
        return shape


def on_hardware(name: str | None, prices: Prices) -> Hardware | None:
    """The machine of that name; None for None.

    Raises:
        OptionError: there is none of that name.
    """
    return None if name is None else Hardware(name, prices.accelerator(name), prices)


def _heads(machine: Accelerator) -> list[str]:
    stated = [("energy", machine.power_w), ("machine time", machine.usd_per_hour)]
    always = ["FLOP", "in attention", "KV traffic", "eFLOP", "ideal time"]
    return always + [name for name, known in stated if known]


def _modelled(cost: Modelled, machine: Accelerator) -> list[str]:
    return [
        _si(cost.flops, ""),
        f"{100 * cost.attention:.0f} %",
        _si(cost.kv_traffic_bytes, "B"),
        _si(cost.equivalent_flops(machine), ""),
        _si(cost.seconds, "s"),
        *([_si(cost.joules, "J")] if machine.power_w else []),
        *([f"${cost.dollars:.2g}"] if machine.usd_per_hour else []),
    ]


def _measured(summary: CellSummary, *, priced: bool) -> list[str]:
    mean = summary.per_problem
    return [
        _si(mean(summary.generated_tokens), ""),
        _si(mean(summary.scorer_tokens), ""),
        _si(mean(summary.seconds), "s"),
        *([f"${mean(summary.dollars):.3g}"] if priced else []),
    ]


def modelled_figures(
    rows: Sequence[Row], summaries: Sequence[CellSummary], hardware: Hardware
) -> dict[str, Any]:
    """Columns, one row a cell, and a note, as texts.

    Raises:
        OptionError: the model's shape is not known.
    """
    costs = _costs(rows, hardware)
    priced = any(summary.dollars for summary in summaries)
    spec, scorer = (summaries[0].model, summaries[0].scorer) if summaries else ("", "none")
    machine = hardware.machine
    known = scorer in ("", "none") or hardware.shape(scorer, scorer=True) is not None
    return {
        "hardware": hardware.name,
        "measured": ["tokens", "scorer tokens", "seconds", *(["price"] if priced else [])],
        "columns": _heads(machine),
        "rows": [
            [*_measured(s, priced=priced), *_modelled(costs[s.cell], machine)] if s.cell in costs else []
            for s in summaries
        ],
        "note": _note(spec, scorer, hardware, known),
    }  # fmt: skip


def _note(spec: str, scorer: str, hardware: Hardware, scorer_known: bool) -> str:
    machine = hardware.machine
    stated = [
        f"{machine.flops / 1e12:g} TFLOP/s, {machine.bandwidth / 1e12:g} TB/s",
        *([f"{machine.power_w:g} W"] if machine.power_w else []),
        *([f"${machine.usd_per_hour:g} an hour"] if machine.usd_per_hour else []),
    ]
    judged = "" if scorer in ("", "none") else (
        f" The scorer ({scorer}) is one pass over the tokens it computed."
        if scorer_known
        else f" The scorer ({scorer}) is left out: its shape is not known."
    )  # fmt: skip
    return (
        "Means per problem. Measured: what was charged; seconds are of runs that overlap. Modelled: "
        f"{spec} alone on {hardware.name} ({', '.join(stated)}), N answers side by side that share the "
        "prompt, by a roofline in which nothing but arithmetic and memory traffic takes time: a floor. eFLOP "
        "are operations plus those that the key-value traffic would have had time for (Kinetics, arXiv "
        f"2506.05333).{judged}"
    )


def _costs(rows: Sequence[Row], hardware: Hardware) -> dict[CellKey, Modelled]:
    """The mean modelled cost of each cell's runs."""
    prompts: dict[tuple[str, str], float] = {}
    for row in rows:
        if row.usage.model_calls:
            # A call that only samples reads the prompt and no more; in steps each reads what stands so far.
            length = row.usage.prompt_tokens / row.usage.model_calls
            key = row.task, row.problem
            prompts[key] = min(length, prompts.get(key, math.inf))
    shapes = {spec: hardware.require(spec) for spec in {row.model for row in rows}}
    judges = {spec: hardware.shape(spec, scorer=True) for spec in {row.scorer for row in rows}}
    runs: dict[CellKey, list[Modelled]] = {}
    for row in rows:
        shape, judge = shapes[row.model], judges[row.scorer]
        prompt = prompts.get((row.task, row.problem), 0.0)
        each = row.usage.generated_tokens / row.budget
        cost = modelled_cost(shape, hardware.machine, prompt=prompt, generated=each, samples=row.budget)
        if judge is not None and row.usage.scorer_tokens:
            tokens = row.usage.scorer_tokens
            cost += reading_cost(judge, hardware.machine, tokens=tokens, context=prompt + each)
        runs.setdefault(row.cell, []).append(cost)
    return {cell: _mean(own) for cell, own in runs.items()}


def _mean(costs: Sequence[Modelled]) -> Modelled:
    total = costs[0]
    for one in costs[1:]:
        total += one
    return total.scaled(1 / len(costs))


def modelled_tables(
    rows: Sequence[Row], groups: Iterable[Sequence[CellSummary]], hardware: Hardware
) -> list[tuple[Table, str]]:
    """For each context its table for a terminal, and the same as Markdown that ends in a newline."""
    found = []
    for summaries in groups:
        context = summaries[0].context
        figures = modelled_figures([row for row in rows if row.context == context], summaries, hardware)
        found.append((_table(figures, summaries), _markdown(figures, summaries)))
    return found


def _table(figures: Mapping[str, Any], summaries: Sequence[CellSummary]) -> Table:
    table = Table(
        title=f"measured, and modelled on {figures['hardware']}",
        box=box.SIMPLE_HEAD, title_justify="left", title_style="bold",
    )  # fmt: skip
    table.add_column("method", overflow="fold")
    for head in ("N", *figures["measured"], *figures["columns"]):
        table.add_column(head.replace(" ", "\n"), justify="right", vertical="bottom", no_wrap=True)
    previous = None
    for name, cells in _lines(figures, summaries):
        if previous not in (None, name):
            table.add_section()
        table.add_row("" if name == previous else name, *cells)
        previous = name
    return table


def _markdown(figures: Mapping[str, Any], summaries: Sequence[CellSummary]) -> str:
    heads = ["method", "N", *figures["measured"], *figures["columns"]]
    lines = [
        f"**Measured, and modelled on {figures['hardware']}**",
        "",
        "| " + " | ".join(heads) + " |",
        "|:---|" + "---:|" * (len(heads) - 1),
        *("| " + " | ".join([name, *cells]) + " |" for name, cells in _lines(figures, summaries)),
        "",
        figures["note"],
    ]
    return "\n".join(lines) + "\n"


def _lines(figures: Mapping[str, Any], summaries: Sequence[CellSummary]) -> Iterable[tuple[str, list[str]]]:
    for summary, texts in zip(summaries, figures["rows"], strict=True):
        yield summary.method, [str(summary.budget), *texts]


def _si(value: float, unit: str) -> str:
    """A number with the prefix of its size.

    >>> _si(0.00123, "s"), _si(4_500_000, "B"), _si(31, ""), _si(0, "J")
    ('1.23 ms', '4.5 MB', '31', '0 J')
    """
    if value == 0:
        return f"0 {unit}".strip()
    power = max(-4, min(6, math.floor(math.log10(abs(value)) / 3)))
    if not unit and power <= 1:
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    prefix = {-4: "p", -3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P", 6: "E"}
    return f"{value / 1000**power:.3g} {prefix[power]}{unit}".strip()
