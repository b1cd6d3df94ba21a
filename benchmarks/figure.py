"""The figure of a run: every ratio, by framework and loss, and the time per element over sizes."""

from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.cases import FRAMEWORKS, MIDDLE
from benchmarks.report import Results, Row
from parity.common.files import write_atomically
from parity.report.palette import ACTIVATIONS, BLUE, GREY, VERMILLION, Look

# Shapes show the same as colours.
_FASTER: Look = {"color": BLUE, "marker": "o", "label": "at most the counterpart's time"}
_SLOWER: Look = {"color": VERMILLION, "marker": "X", "label": "slower than its counterpart"}
_THEIRS: Look = {"color": GREY, "marker": "d", "linestyle": "-"}
_RC: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}


def _ratios(axes: Any, rows: list[Row], order: list[str], title: str) -> None:
    """A point for every row, on the line of its loss."""
    losses = [loss for loss in order if any(row.loss == loss for row in rows)]
    for row in rows:
        look = _SLOWER if row.is_slower else _FASTER
        axes.plot(row.ratio[1], losses.index(row.loss), linestyle="none", markersize=5, alpha=0.7,
                  **look)  # fmt: skip
    axes.axvline(1, color=GREY, linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    low, high = min(row.ratio[1] for row in rows), max(row.ratio[1] for row in rows)
    axes.set_xlim(min(low, 0.5) / 1.3, max(high, 2) * 1.3)
    ticks = [t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
             if axes.get_xlim()[0] < t < axes.get_xlim()[1]]  # fmt: skip
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(losses)), losses)
    axes.set_ylim(len(losses) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.25)
    axes.set_xlabel("time of a step, over the counterpart's")
    axes.set_title(title, loc="left", fontsize=8.5)


def _sizes(axes: Any, results: Results) -> None:
    """Nanoseconds an element of a step of cross entropy."""
    swept = [rows for name, rows in report.by_size(results).items() if name.startswith("binary_c")]
    for i, rows in enumerate(swept):
        sizes = sorted(rows)
        times = [[ms / size * 1e6 for ms in rows[size].milliseconds] for size in sizes]
        name, stock = rows[sizes[0]].options, rows[sizes[0]].counterpart
        axes.plot(sizes, [ours for ours, _ in times], label=f"segact, {name}", **ACTIVATIONS[name])
        if i == 0:
            axes.plot(sizes, [theirs for _, theirs in times], label=stock, **_THEIRS)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("elements")
    axes.set_ylabel("ns an element")
    axes.legend(frameon=False, loc="upper right", ncols=2)
    axes.set_title("a step of cross entropy, by size", loc="left", fontsize=8.5)


def _name_marks(figure: Any) -> None:
    """The legend of the marks of the ratios, above the figure."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(), handles, loc="outside upper center", ncols=len(handles), frameon=False
    )


def figure(results: Results) -> Any:
    """The figure, for matplotlib to show or to save: the rows of 100,000 elements and more."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    large = [row for row in results.rows if row.elements >= MIDDLE] or results.rows
    groups = {f: [row for row in large if row.framework == f] for f in FRAMEWORKS}
    groups = {name: rows for name, rows in groups.items() if rows}
    order = list(dict.fromkeys(row.loss for row in large))
    lines = (len(groups) + 1) // 2
    swept = bool(report.by_size(results))
    with rc_context(_RC):
        drawn = Figure(figsize=(11, 2.6 * lines + 2.6 * swept), layout="constrained")
        grid = drawn.add_gridspec(lines + swept, 2)
        for i, (name, rows) in enumerate(groups.items()):
            _ratios(drawn.add_subplot(grid[i // 2, i % 2]), rows, order, FRAMEWORKS[name])
        _name_marks(drawn)
        if swept:
            _sizes(drawn.add_subplot(grid[lines, :]), results)
    return drawn


def draw(results: Results, path: Path) -> None:
    """Write the figure as PNG or SVG, by the name of the file."""
    from matplotlib import rc_context

    buffer = BytesIO()
    with rc_context(_RC):
        figure(results).savefig(buffer, format=path.suffix[1:], dpi=130)
    write_atomically(path, buffer.getvalue())
