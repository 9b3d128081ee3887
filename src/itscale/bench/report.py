"""The report of a run: one HTML page that needs nothing else.

Laws: the page asks for nothing outside itself (its policy forbids it), shows text as text, and is
under `MOST_BYTES`; traces are left out, most disputed problems last, to keep it so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from itscale.bench.figures import figures
from itscale.bench.log import write_whole
from itscale.bench.modelled import Hardware
from itscale.bench.rows import CellKey, Context, Row, RowKey
from itscale.bench.statistics import CellSummary, cells_of, summarise
from itscale.bench.store import Run
from itscale.bench.viewer import Texts, compact
from itscale.errors import OptionError
from itscale.version import __version__

__all__ = ["MOST_BYTES", "Report", "question", "report_of"]

MOST_BYTES = 2_800_000
"""Of the whole page."""
_SCRIPTS = ("base.js", "charts.js", "sections.js", "laws.js", "problems.js", "trace.js", "main.js")
_TRACED_PROBLEMS = 30


@dataclass(frozen=True)
class Report:
    """A run's page, ready to be written."""

    html: str
    traced: int
    """Runs whose trace the page can show."""

    def save(self, file: Path) -> Path:
        """Write the page in one move.

        Raises:
            StoreError: it cannot be written; an earlier page is left as it was.
        """
        return write_whole(file, self.html)


def report_of(run: Run, hardware: Hardware | None = None) -> Report:
    """The page of a run, with costs modelled on `hardware` if one is named.

    Raises:
        OptionError: the run has no rows yet, a trace does not parse, or a model's shape is not known.
    """
    if not run.rows:
        raise OptionError(f"{run.path} has no finished run yet; start it with itscale bench --resume")
    data = figures(run, hardware)
    skeleton = _page(run, data, {"texts": [], "runs": []})
    room = MOST_BYTES - len(skeleton.encode())
    traces = _traces(run, data, room)
    return Report(_page(run, data, traces), len(traces["runs"]))


def _page(run: Run, data: Mapping[str, Any], traces: Mapping[str, Any]) -> str:
    page = files("itscale.bench") / "page"
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    filled = {
        "TITLE": escape(question(data)),
        "STYLE": (page / "style.css").read_text(encoding="utf-8"),
        "TABLE": "".join(_table(run.rows)),
        "MADE": escape(f"itscale {__version__}, {made}"),
        "DATA": _embedded(data),
        "TRACES": _embedded(traces),
        "SCRIPT": "\n".join((page / name).read_text(encoding="utf-8") for name in _SCRIPTS),
    }
    html = (page / "page.html").read_text(encoding="utf-8")
    for name, text in filled.items():
        before, _, after = html.partition(f"<!--{name}-->")
        html = before + text + after
    return html


def question(data: Mapping[str, Any]) -> str:
    """The title given, or the question that every sweep asks."""
    if data["title"]:
        return str(data["title"])
    tasks = data["what"].get("task", "")
    named = " and ".join(tasks) if isinstance(tasks, list) else str(tasks)
    return f"What does more inference buy on {named.capitalize()}?"


def _embedded(value: Mapping[str, Any]) -> str:
    """JSON that no text in it can end: `<` is written as an escape."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _table(rows: Sequence[Row]) -> Iterator[str]:
    """The results as a table of their own, for readers without scripts and for copying."""
    summaries = summarise(rows, cells_of(rows))
    yield "<table><thead><tr>"
    head = (*Context._fields, "method", "N", "accuracy", "95 % interval", "tokens", "calls", "seconds")
    yield "".join(f"<th>{escape(name)}</th>" for name in head)
    yield "</tr></thead><tbody>"
    for summary in summaries:
        yield "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in _fields(summary)) + "</tr>"
    yield "</tbody></table>"


def _fields(summary: CellSummary) -> list[str]:
    mean = summary.per_problem
    return [
        *("" if part is None else str(part) for part in summary.context),
        summary.method,
        str(summary.budget),
        f"{100 * summary.accuracy:.1f} %",
        f"{100 * summary.ci_low:.1f} to {100 * summary.ci_high:.1f}",
        f"{mean(summary.generated_tokens):,.0f}",
        f"{mean(summary.model_calls):,.1f}",
        f"{mean(summary.seconds):.2f}",
    ]


def _traces(run: Run, data: Mapping[str, Any], room: int) -> dict[str, Any]:
    """Traces of whole problems, the most telling first, as far as there is room (bytes)."""
    texts, shown = Texts(), list[dict[str, Any]]()
    keys: dict[tuple[int, int], dict[int, RowKey]] = {}
    number = {
        (tuple(context[f] for f in Context._fields), problem["id"]): (c, p)
        for c, context in enumerate(data["contexts"])
        for p, problem in enumerate(context["problems"])
    }
    cells = [
        {key: i for i, key in enumerate(cells_of(r for r in run.rows if r.context == _context(context)))}
        for context in data["contexts"]
    ]
    for row in run.rows:
        place = number.get((tuple(row.context), row.problem))
        if place is not None:
            keys.setdefault(place, {}).setdefault(_cell(cells[place[0]], row.cell), row.key)
    order = _telling(data, set(keys))
    kept = run.traces(key for place in order for key in keys[place].values())
    size = 0
    for place in order:
        traced = [
            {"context": place[0], "problem": place[1], "cell": cell, **compact(kept[key], texts)}
            for cell, key in sorted(keys[place].items())
            if key in kept
        ]
        size += len(_embedded({"runs": traced}).encode())
        if size + sum(len(text) + 8 for text in texts.texts) > room:
            break
        shown += traced
    return {"texts": texts.texts, "runs": shown}


def _telling(data: Mapping[str, Any], known: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Which problems to show: disputed and slow ones in turn, then a sample from easy to hard."""
    order: dict[tuple[int, int], None] = {}
    share = max(4, _TRACED_PROBLEMS // len(data["contexts"]))
    for c, context in enumerate(data["contexts"]):
        count = len(context["problems"])
        spread = [i * (count - 1) // 7 for i in range(8)] if count > 7 else range(count)
        wanted = [*context["disputed"][:10], *context["slowest"][:4], *spread, *context["disputed"]]
        for p in list(dict.fromkeys(wanted))[:share]:
            if (c, p) in known:
                order[c, p] = None
    return sorted(order, key=lambda place: (list(order).index(place) % share, place[0]))


def _context(values: Mapping[str, Any]) -> Context:
    return Context(*(values[name] for name in Context._fields))


def _cell(cells: Mapping[CellKey, int], cell: CellKey) -> int:
    return cells[cell]
