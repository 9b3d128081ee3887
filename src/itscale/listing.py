"""What there is to choose from, as tables: methods with their options, models, scorers, tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from itscale.errors import OptionError, did_you_mean
from itscale.registry import COMMON_OPTIONS, METHODS, MODELS, SCORERS, TASKS, Kind, method_options
from itscale.tasks.formats import FORMATS

__all__ = ["listing"]


def listing(what: str) -> Iterator[RenderableType]:
    """Tables and lines on `methods`, `models`, `scorers` or `tasks`, or on all of these.

    Raises:
        OptionError: it is none of these.
    """
    kinds: dict[str, Mapping[str, Kind[Any]]] = {"models": MODELS, "scorers": SCORERS}
    if what == "all":
        for one in ("methods", "models", "scorers", "tasks"):
            yield from listing(one)
    elif what == "methods":
        yield _methods_table()
        common = ", ".join(f"{name}={default}" for name, _, default in COMMON_OPTIONS)
        yield Text(f"every method also takes {common}")
    elif what == "tasks":
        table = _names_table("task", "what it asks", "levels (* default)")
        for task in TASKS.values():
            levels = " ".join(f"{x}*" if x == task.default_level else str(x) for x in task.levels)
            table.add_row(task.name, task.summary, f"{levels}: {task.level_meaning}")
        yield table
        table = _names_table("from a file", "what it reads")
        for form in FORMATS.values():
            table.add_row(form.form, form.summary)
        yield table
    elif what in kinds:
        table = _names_table("spec", "what it is")
        for kind in kinds[what].values():
            table.add_row(escape(kind.form), escape(kind.summary))
        yield table
    else:
        raise OptionError(did_you_mean("thing to list", what, ["methods", "tasks", *kinds]))


def _methods_table() -> Table:
    common = {name for name, _, _ in COMMON_OPTIONS}
    scorers = {"none": "none", "any": "any", "process": "a score a step", "comparison": "a comparison"}
    table = _names_table("method", "what it does", "scorer", "options")
    for name, method in METHODS.items():
        own = [(o, allowed, d) for o, allowed, d in method_options(method) if o not in common]
        options = [f"{option}={default}{_others(allowed, default)}" for option, allowed, default in own]
        table.add_row(name, method.summary, scorers[method.scorer_kind], escape("\n".join(options)))
    return table


def _others(allowed: str, default: str) -> str:
    """What a choice may be instead."""
    others = [choice for choice in allowed.split(" | ") if choice != default]
    return f" (or {', '.join(others)})" if " | " in allowed else ""


def _names_table(*headers: str) -> Table:
    table = Table(*headers, box=box.SIMPLE_HEAD)
    table.columns[0].style = "bold"
    table.columns[0].no_wrap = True
    return table
