from __future__ import annotations

import io
import sys
from itertools import count, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from itscale.bench import live
from itscale.bench.live import LiveSweep
from itscale.bench.plot import _spread, save_plot
from itscale.bench.rows import Row
from itscale.bench.statistics import CellSummary, wilson_interval
from itscale.bench.table import comparison, markdown_table, results_table
from itscale.budget import Usage
from tests.bench.worlds import coin_sweep


def cell(method: str, budget: int, correct: int, problems: int = 20, failures: int = 0) -> CellSummary:
    low, high = wilson_interval(correct, problems)
    return CellSummary(
        task="coins",
        method=method,
        budget=budget,
        problems=problems,
        accuracy=correct / problems if problems else 0.0,
        ci_low=low,
        ci_high=high,
        generated_tokens=30 * budget * problems,
        prompt_tokens=0,
        cached_tokens=0,
        model_calls=budget * problems,
        scorer_calls=0,
        seconds=0.5 * problems,
        seed=0,
        level=1,
        discarded_tokens=0,
        scorer_tokens=0,
        failures=failures,
        coverage=min(1.0, 0.2 * budget),
    )


CELLS = [cell("greedy", 1, 8), cell("majority", 1, 7), cell("majority", 4, 9), cell("beam:width=2", 4, 15)]


def printed(summaries: list[CellSummary]) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(results_table(summaries, "coins"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_has_a_line_for_every_cell():
    """Accuracy with its interval, and costs as means per problem."""
    lines = printed(CELLS).splitlines()
    [line] = [line for line in lines if "beam:width=2" in line]
    assert line.split() == [
        "beam:width=2",
        "4",
        "75.0",
        "%",
        "53.1",
        "to",
        "88.8",
        "120",
        "4.0",
        "0.0",
        "0.50",
    ]
    assert sum(" % " in line for line in lines) == len(CELLS) + 1  # and the header


def test_failures_are_shown_when_there_are_any():
    """A column more, only then; empty cells are dashes, not zeros."""
    assert "failed" not in printed(CELLS)
    failing = printed([*CELLS, cell("sample", 1, 3, failures=7), cell("best-of-n", 1, 0, problems=0)])
    assert "failed" in failing
    [line] = [line for line in failing.splitlines() if "best-of-n" in line]
    assert line.split() == ["best-of-n", "1", *"-------"]


def test_markdown_is_a_table():
    """The same number of fields in the head, the rule and every line."""
    lines = [line for line in markdown_table(CELLS, "coins").splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(CELLS)
    assert len({line.count("|") for line in lines}) == 1
    assert "| beam:width=2 | 4 | 75.0 % | 53.1 to 88.8 | 120 |" in lines[-1]


def row(problem: int, method: str, *, correct: bool) -> Row:
    return Row(
        task="coins",
        problem=str(problem),
        level=1,
        method=method,
        budget=4,
        seed=0,
        correct=correct,
        any_correct=correct,
        answer=None,
        stop_reason="done",
        error=None,
        usage=Usage(),
    )


def test_the_best_is_compared_with_voting_on_the_same_problems():
    """Nine problems only beam solves, one only majority does: 8 of 12 points, p = 22 / 1024."""
    rows = [row(i, "beam", correct=i < 9) for i in range(12)]
    rows += [row(i, "majority", correct=i == 9) for i in range(12)]
    sentence = comparison(
        [cell("beam", 4, 9, 12), cell("majority", 4, 1, 12), cell("beam", 16, 12, 12)], rows
    )
    assert sentence is not None
    assert sentence.startswith("beam +66.7 points against majority at N = 4 on the same 12 problems: 9 only")
    assert sentence.endswith("(exact McNemar p = 0.021)")


def test_nothing_is_compared_without_voting():
    """No majority, or nothing beside it: no sentence."""
    assert comparison([cell("beam", 4, 9)], []) is None
    assert comparison([cell("majority", 4, 9)], []) is None


def test_the_plot_is_saved_twice_and_the_same_every_time(tmp_path: Path):
    """PNG for pages, SVG for papers; equal rows give equal files, so a diff shows a change."""
    pytest.importorskip("matplotlib")
    (tmp_path / "again").mkdir()
    first, second = (save_plot(CELLS, "coins", folder) for folder in (tmp_path, tmp_path / "again"))
    assert first is not None
    assert second is not None
    assert [file.name for file in first] == ["accuracy.png", "accuracy.svg"]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert first[1].read_bytes() == second[1].read_bytes()
    assert b"<svg" in first[1].read_bytes()


def test_a_long_label_leaves_room_for_the_picture(tmp_path: Path):
    """A method with a file's path among its options is drawn without a warning, and still told apart."""
    pytest.importorskip("matplotlib")
    long = [f"self-evaluation:calibration=runs/{'deep/' * 8}{name}.json" for name in ("one", "two")]
    [_, svg] = save_plot([cell(label, 4, 9) for label in long], "coins", tmp_path) or []
    assert all(f"{name}.json" in svg.read_text() for name in ("one", "two"))


def test_no_matplotlib_no_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is an extra: without it there is no picture and no error."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert save_plot(CELLS, "coins", tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_nothing_run_nothing_drawn(tmp_path: Path):
    """A sweep stopped before its first run has no picture, which is not a want of matplotlib."""
    pytest.importorskip("matplotlib")
    assert save_plot([cell("majority", 4, 0, problems=0)], "coins", tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.floats(0, 100), max_size=8).map(sorted), st.floats(0.1, 20))
def test_labels_are_apart_and_in_order(heights: list[float], gap: float):
    """Neighbours at least a gap apart, the order kept, their mean where it was, none moved needlessly."""
    spread = _spread(heights, gap)
    assert all(upper - lower >= gap - 1e-6 for lower, upper in pairwise(spread))
    assert sum(spread) == pytest.approx(sum(heights), abs=1e-6)
    if all(upper - lower >= gap for lower, upper in pairwise(heights)):
        assert spread == pytest.approx(heights)


def progress_of(rows: int, before: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(live, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(live, "ENOUGH_TO_GUESS", 2)
    monkeypatch.setattr(live.time, "monotonic", count().__next__)  # every look at the clock is a second later
    sweep, console = coin_sweep(["majority"], budgets=[4], count=10), Console(file=io.StringIO(), width=120)
    with LiveSweep([sweep], console) as shown:
        shown.resume([row(i, "majority", correct=True) for i in range(before)])
        for i in range(rows):
            shown.add(row(before + i, "majority", correct=True))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_progress_without_a_terminal_is_a_plain_line(monkeypatch: pytest.MonkeyPatch):
    """No control characters in a log; rows of an earlier start count as done, not as speed;
    no time left is claimed from too few."""
    assert progress_of(rows=2, before=3, monkeypatch=monkeypatch) == [
        "4 of 10 runs, 1.0 runs/s",
        "5 of 10 runs, 1.0 runs/s, 5 s left",
    ]


def test_progress_on_a_terminal_shows_accuracy_in_every_cell():
    """A grid of methods and budgets."""
    sweep = coin_sweep(["greedy", "majority"], budgets=[1, 4], count=10)
    console = Console(file=io.StringIO(), width=100)
    shown = LiveSweep([sweep], console)
    shown.add(row(0, "majority", correct=True))
    shown.add(row(1, "majority", correct=False))
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    [line] = [line for line in text.splitlines() if "majority" in line]
    assert line.split() == ["majority", "50", "%"]
    assert "2/30" in text
