"""The picture of a sweep: accuracy against generated tokens per problem, a line a method.

Bars are 95 % intervals. The dashed line is pass@N of plain sampling: the share of problems where
any of N samples is right, which no way of choosing among them can beat. Colours are Okabe and
Ito's, told apart by colour-blind readers; markers differ too.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from itscale.bench.log import write_whole
from itscale.bench.statistics import CellSummary

__all__ = ["save_plot", "save_plots"]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_INK, _QUIET = "#222222", "#666666"
_SAMPLERS = ("majority", "best-of-n", "weighted-best-of-n", "sample")
"""Methods whose candidates are N independent samples, so that their coverage is pass@N."""
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Helvetica Neue", "Arial", "DejaVu Sans"],
    "font.size": 11,
    "svg.fonttype": "path",
    "svg.hashsalt": "itscale",  # the same rows give the same file
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _INK,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "text.color": _INK,
}


LABEL = 36
"""Characters of a label."""


def save_plots(summaries: Sequence[CellSummary], title: str, folder: Path) -> list[Path] | None:
    """A picture for each context, `accuracy-2` the second; None where matplotlib is not installed."""
    contexts = list(dict.fromkeys(s.context for s in summaries))
    files: list[Path] = []
    for i, context in enumerate(contexts, start=1):
        own = [s for s in summaries if s.context == context]
        name = "accuracy" if i == 1 else f"accuracy-{i}"
        what = title if len(contexts) == 1 else ", ".join(str(part) for part in context if part is not None)
        saved = save_plot(own, what, folder, name)
        if saved is None:
            return None
        files += saved
    return files


def save_plot(
    summaries: Sequence[CellSummary], title: str, folder: Path, name: str = "accuracy"
) -> list[Path] | None:
    """Write NAME.png and NAME.svg, nothing if nothing was run; None where matplotlib is not installed."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        return None
    points = [s for s in summaries if s.problems and s.generated_tokens]
    if not points:
        return []
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.4, 5.0), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        _dress(axes, points, title)
        labels = _draw_methods(axes, points) + _draw_ceiling(axes, points)
        figure.draw_without_rendering()
        _label_lines(axes, labels)
        drawn = {"png": BytesIO(), "svg": BytesIO()}
        figure.savefig(drawn["png"], format="png", dpi=200)
        figure.savefig(drawn["svg"], format="svg", metadata={"Date": None})
    return [write_whole(folder / f"{name}.{kind}", image.getvalue()) for kind, image in drawn.items()]


Label = tuple[str, str, float, float]
"""Text, colour, and the point it names (mean tokens, per cent)."""


def _draw_methods(axes: Any, points: Sequence[CellSummary]) -> list[Label]:
    labels: list[Label] = []
    methods = list(dict.fromkeys(point.method for point in points))
    for i, method in enumerate(methods):
        own = sorted((p for p in points if p.method == method), key=_tokens)
        colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
        aside = 1.018 ** (i - (len(methods) - 1) / 2)  # intervals at the same cost stand side by side
        x, y = [_tokens(p) * aside for p in own], [100 * p.accuracy for p in own]
        axes.vlines(
            x, [100 * p.ci_low for p in own], [100 * p.ci_high for p in own],
            color=colour, alpha=0.38, linewidth=2.2,
        )  # fmt: skip
        if len(own) == 1:
            axes.hlines(y, x, axes.get_xlim()[1], color=colour, linestyle=":", linewidth=1.3, alpha=0.8)
        axes.plot(
            x, y, color=colour, marker=marker, markersize=7, markeredgecolor="white", linewidth=2, zorder=3
        )
        labels.append((_short(method), colour, x[-1] if len(own) > 1 else axes.get_xlim()[1], y[-1]))
    return labels


def _short(label: str) -> str:
    """A label that leaves room for the picture: of a long one, with a file's path say, its two ends."""
    return label if len(label) <= LABEL else f"{label[: LABEL // 2]}…{label[-(LABEL // 2 - 1) :]}"


def _draw_ceiling(axes: Any, points: Sequence[CellSummary]) -> list[Label]:
    sampled = {p.method for p in points}
    sampler = next((name for name in _SAMPLERS if name in sampled), None)
    own = sorted((p for p in points if p.method == sampler), key=_tokens)
    if len(own) < 2:
        return []
    x, y = [_tokens(p) for p in own], [100 * p.coverage for p in own]
    axes.plot(x, y, color=_QUIET, linestyle=(0, (5, 3)), linewidth=1.4, zorder=2)
    for point, left, height in list(zip(own, x, y, strict=True))[1:]:  # the first is where all lines begin
        axes.annotate(
            f"N = {point.budget}",
            (left, height),
            xytext=(-4, 6),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=_QUIET,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        )
    return [("pass@N", _QUIET, x[-1], y[-1])]


def _dress(axes: Any, points: Sequence[CellSummary], title: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    x_low, x_high = min(map(_tokens, points)) / 1.25, max(map(_tokens, points)) * 1.12
    axes.set_xlim(x_low, x_high)
    every_ticks = [m * 10**k for k in range(9) for m in (1, 2, 5)]
    axes.xaxis.set_major_locator(FixedLocator([t for t in every_ticks if x_low <= t <= x_high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    lowest = min(100 * p.ci_low for p in points)
    axes.set_ylim(max(0.0, 10 * (lowest // 10)), 103.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0f} %"))
    axes.set_yticks(range(int(axes.get_ylim()[0]), 101, 10))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel("generated tokens per problem (mean, log scale)", labelpad=8)
    axes.set_title(f"Accuracy on {title}", loc="left", fontsize=13, fontweight="bold", pad=14)


def _label_lines(axes: Any, labels: Sequence[Label]) -> None:
    """Name each line at the right edge, pushed apart where lines end close together."""
    ordered = sorted(labels, key=lambda label: label[3])
    heights = _spread([label[3] for label in ordered], gap=0.055 * (axes.get_ylim()[1] - axes.get_ylim()[0]))
    right = axes.get_xlim()[1]
    for (text, colour, x, y), height in zip(ordered, heights, strict=True):
        bold = "normal" if text == "pass@N" else "bold"
        axes.annotate(
            text,
            (x, y),
            xytext=(right * 1.03, height),
            textcoords="data",
            annotation_clip=False,
            va="center",
            fontsize=10.5,
            fontweight=bold,
            color=colour,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "alpha": 0.45,
                "linewidth": 0.9,
                "shrinkB": 5,
                "relpos": (0.0, 0.5),
            },
        )


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Sorted heights moved as little as needs be to stand at least `gap` apart.

    Touching neighbours form a block around the mean of where its members wanted to stand.
    """
    blocks: list[list[float]] = []
    for height in heights:
        blocks.append([height])
        while len(blocks) > 1 and _bottom(blocks[-1], gap) < _bottom(blocks[-2], gap) + gap * len(blocks[-2]):
            upper = blocks.pop()
            blocks[-1] += upper
    return [_bottom(block, gap) + gap * i for block in blocks for i in range(len(block))]


def _bottom(block: Sequence[float], gap: float) -> float:
    return sum(block) / len(block) - gap * (len(block) - 1) / 2


def _tokens(summary: CellSummary) -> float:
    return summary.per_problem(summary.generated_tokens)
