"""The figure of a run: ratios to the peers with their goals, and time an element over sizes."""

from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks.report import Results, Row
from parity.palette import ACTIVATIONS, BLACK, BLUE, GREY, VERMILLION, Look
from parity.records import write_atomically

# Shapes say the same without colour.
_MET: Look = {"color": BLUE, "marker": "o", "label": "ours, goal met"}
_MISSED: Look = {"color": VERMILLION, "marker": "X", "label": "ours, goal missed"}
_OURS: Look = {"color": BLACK, "marker": "o", "label": "ours"}
_PEER: Look = {"color": GREY, "marker": "s", "markerfacecolor": "white", "label": "others"}
_GOAL: Look = {"color": BLACK, "marker": "|", "label": "goal"}
_STOCK: Look = {"color": GREY, "marker": "d", "linestyle": "-"}
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
_RC: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
_PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
"""Behind a number, so that no line crosses it."""


def _look(row: Row) -> Look:
    if row.met is None:
        return _OURS if row.name.startswith("segact") else _PEER
    return _MET if row.met else _MISSED


def _ratios(axes: Any, rows: list[Row], group: str) -> None:
    """A point for every ratio, with a line from 1: a logarithmic axis has no 0 to start at."""
    baselines = list(dict.fromkeys(row.baseline for row in rows))
    own = [row for row in rows if row.name != row.baseline]
    for i, row in enumerate(own):
        look = _look(row)
        axes.plot([1, row.ratio], [i, i], color=look["color"], linewidth=1, alpha=0.5, zorder=1)
        axes.plot(row.ratio, i, linestyle="none", markersize=6, **look)
        words = f"{row.ratio:.2f}" if row.ratio < 10 else f"{row.ratio:.0f}"
        right = max(row.ratio, row.goal or 0, 1)
        axes.annotate(
            words, (right, i), (7, 0), textcoords="offset points", va="center", bbox=_PLAIN
        )
        if row.goal is not None:
            axes.plot(row.goal, i, markersize=11, markeredgewidth=1.8, linestyle="none", **_GOAL)
    axes.axvline(1, color=GREY, linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_xlim(0.02, 200)
    ticks = (0.02, 0.05, *_TICKS, 50, 100)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(own)), [row.name for row in own])
    axes.set_ylim(len(own) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.25)
    one = baselines[0] if len(baselines) == 1 else "MONAI's, same activation"
    axes.set_title(f"{group}\n1 = {one}", loc="left", fontsize=8.5)


def _name_marks(figure: Any) -> None:
    """What the marks of the ratios are, beneath the figure."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(), handles, loc="outside upper center", ncols=len(handles), frameon=False
    )


def _sizes(axes: Any, results: Results) -> None:
    for name, times in results.sizes.items():
        look = ACTIVATIONS.get(name.removeprefix("segact, "), _STOCK)
        axes.plot(list(times), list(times.values()), label=name, **look)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_yticks(_TICKS[2:7], [f"{tick:g}" for tick in _TICKS[2:7]])
    axes.minorticks_off()
    axes.set_xlabel("elements")
    axes.set_ylabel("ns an element")
    axes.legend(frameon=False, loc="upper center", ncols=2)
    axes.set_title("a step of cross entropy, by size", loc="left", fontsize=8.5)


def figure(results: Results) -> Any:
    """The figure, for matplotlib to show or to save."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    groups = {g: [row for row in results.rows if row.group == g] for g in results.groups}
    lines = (len(groups) + 1) // 2
    with rc_context(_RC):
        drawn = Figure(figsize=(11, 3.3 * lines + 2.6), layout="constrained")
        grid = drawn.add_gridspec(lines + 1, 2, height_ratios=[*[3.3] * lines, 2.4])
        for i, (group, rows) in enumerate(groups.items()):
            axes = drawn.add_subplot(grid[i // 2, i % 2])
            _ratios(axes, rows, group)
            axes.set_xlabel("time of a step, ratio")
        _name_marks(drawn)
        _sizes(drawn.add_subplot(grid[lines, :]), results)
    return drawn


def draw(results: Results, path: Path) -> None:
    """Write the figure as PNG or SVG, by the name of the file."""
    from matplotlib import rc_context

    buffer = BytesIO()
    with rc_context(_RC):
        figure(results).savefig(buffer, format=path.suffix[1:], dpi=130)
    write_atomically(path, buffer.getvalue())
