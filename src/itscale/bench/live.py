"""A sweep as it runs: accuracy so far in every cell, how far, how fast, how long yet.

On a terminal a grid that is redrawn in place; elsewhere (a log file, CI) a plain line now and then.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from itscale.bench.rows import CellKey, Context, Row
from itscale.bench.sweep import Sweep

__all__ = ["LiveSweep"]

SECONDS_BETWEEN_LINES = 10.0
ENOUGH_TO_GUESS = 16
"""Runs after which the time left is worth saying."""


class LiveSweep:
    """Shows progress on `console` from entering to leaving it; `add` every row."""

    def __init__(self, sweeps: Sequence[Sweep], console: Console) -> None:
        self._cells = list(dict.fromkeys(cell for sweep in sweeps for cell in sweep.cell_keys))
        self._console = console
        self._rows: Counter[CellKey] = Counter()
        self._correct: Counter[CellKey] = Counter()
        self._finished = self._finished_before = 0
        self._total = sum(len(sweep.keys) for sweep in sweeps)
        self._began = self._last_line = time.monotonic()
        self._progress = Progress(
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("runs"),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[rate]}"),
            console=console,
        )
        self._task = self._progress.add_task("", total=self._total, rate="")
        self._live = Live(self, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveSweep:
        self._began = self._last_line = time.monotonic()
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def resume(self, rows: Iterable[Row]) -> None:
        """Count rows of an earlier start: they are done, and took none of this one's time."""
        for row in rows:
            self._count(row)
        self._finished_before = self._finished
        self._progress.reset(self._task, completed=self._finished)

    def add(self, row: Row) -> None:
        """Count a row that has just been finished."""
        self._count(row)
        now = time.monotonic()
        rate = (self._finished - self._finished_before) / max(now - self._began, 1e-9)
        self._progress.update(self._task, advance=1, rate=f"{rate:,.1f} runs/s")
        if not self._console.is_terminal and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            line = f"{self._finished} of {self._total} runs, {rate:,.1f} runs/s"
            if self._finished - self._finished_before >= ENOUGH_TO_GUESS:
                line += f", {(self._total - self._finished) / rate:.0f} s left"
            self._console.print(line, highlight=False)

    def __rich__(self) -> RenderableType:
        grid = Table(box=box.SIMPLE_HEAD, caption="accuracy so far", caption_justify="left")
        varying = [i for i in range(len(Context._fields)) if len({cell[i] for cell in self._cells}) > 1]
        for i in varying:
            grid.add_column(Context._fields[i])
        grid.add_column("method")
        budgets = sorted({cell.budget for cell in self._cells})
        for budget in budgets:
            grid.add_column(f"N = {budget}", justify="right", min_width=7)
        for cell in dict.fromkeys(cell._replace(budget=0) for cell in self._cells):
            named = [*(str(cell[i]) for i in varying), cell.method]
            grid.add_row(*named, *(self._accuracy(cell._replace(budget=n)) for n in budgets))
        return Group(grid, self._progress)

    def _accuracy(self, cell: CellKey) -> str:
        n = self._rows[cell]
        return f"{100 * self._correct[cell] / n:.0f} %" if n else ""

    def _count(self, row: Row) -> None:
        self._finished += 1
        self._rows[row.cell] += 1
        self._correct[row.cell] += row.correct
