"""The figure of a run: ratios to the peers with their goals, and time an element over sizes."""

from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks.report import Results, Row
from parity.records import write_atomically

# Of Okabe and Ito's palette; hatches and shapes say the same without colour.
_MET, _MISSED, _PEER = "#0072B2", "#D55E00", "#BBBBBB"
_LINES = (
    ("-", "o", "#000000"),
    ("--", "s", "#0072B2"),
    (":", "v", "#009E73"),
    ("-.", "^", _MISSED),
)
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
_PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
"""Behind a number, so that no line crosses it."""


def _bars(axes: Any, rows: list[Row], group: str) -> None:
    baselines = list(dict.fromkeys(row.baseline for row in rows))
    own = [row for row in rows if row.name != row.baseline]
    for i, row in enumerate(own):
        colour = _PEER if row.goal is None else _MET if row.met else _MISSED
        hatch = "///" if row.goal is None else "" if row.met else "xxx"
        axes.barh(i, row.ratio, color=colour, hatch=hatch, edgecolor="white", height=0.72)
        words = f"{row.ratio:.2f}" if row.ratio < 10 else f"{row.ratio:.0f}"
        right = max(row.ratio, row.goal or 0)
        axes.annotate(
            words, (right, i), (4, 0), textcoords="offset points", va="center", bbox=_PLAIN
        )
        if row.goal is not None:
            axes.plot([row.goal] * 2, [i - 0.42, i + 0.42], color="black", linewidth=1.8)
    axes.axvline(1, color="#666666", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(0.02, 200)
    ticks = (0.05, *_TICKS)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(own)), [row.name for row in own])
    axes.invert_yaxis()
    one = baselines[0] if len(baselines) == 1 else "MONAI's, same activation"
    axes.set_title(f"{group}\n1 = {one}", loc="left", fontsize=8.5)


def _sizes(axes: Any, results: Results) -> None:
    for (name, times), (line, marker, colour) in zip(results.sizes.items(), _LINES, strict=False):
        counts, nanoseconds = list(times), list(times.values())
        axes.plot(counts, nanoseconds, line, marker=marker, color=colour, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_yticks(_TICKS[2:7], [f"{tick:g}" for tick in _TICKS[2:7]])
    axes.minorticks_off()
    axes.set_xlabel("elements")
    axes.set_ylabel("ns an element")
    axes.legend(frameon=False, loc="upper center", ncols=2)
    axes.set_title("a step of cross entropy, by size", loc="left", fontsize=8.5)


def draw(results: Results, path: Path) -> None:
    """Write the figure as PNG or SVG, by the name of the file."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    groups = {g: [row for row in results.rows if row.group == g] for g in results.groups}
    lines = (len(groups) + 1) // 2
    with plt.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = plt.figure(figsize=(11, 3.3 * lines + 2.6), layout="constrained")
        grid = figure.add_gridspec(lines + 1, 2, height_ratios=[*[3.3] * lines, 2.4])
        for i, (group, rows) in enumerate(groups.items()):
            axes = figure.add_subplot(grid[i // 2, i % 2])
            _bars(axes, rows, group)
            axes.set_xlabel("time of a step, ratio (black: the goal; crossed: missed)")
        _sizes(figure.add_subplot(grid[lines, :]), results)
        buffer = BytesIO()
        figure.savefig(buffer, format=path.suffix[1:], dpi=130)
        plt.close(figure)
    write_atomically(path, buffer.getvalue())
