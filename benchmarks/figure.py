"""The figure of a run: ratios to the peers with their goals, and time an element over sizes."""

from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks.report import Results, Row
from parity.records import write_atomically

# Of Okabe and Ito's palette; hatches and shapes say the same without colour.
_MET, _MISSED, _PEER = "#0072B2", "#D55E00", "#BBBBBB"
_LINES = ("-", "--", ":", "-.")


def _bars(axes: Any, rows: list[Row], title: str) -> None:
    for i, row in enumerate(rows):
        colour = _PEER if row.goal is None else _MET if row.met else _MISSED
        hatch = "///" if row.goal is None else "" if row.met else "xxx"
        axes.barh(i, row.ratio, color=colour, hatch=hatch, edgecolor="white", height=0.72)
        words = f"{row.ratio:.2f}" if row.ratio < 10 else f"{row.ratio:.0f}"
        axes.annotate(words, (row.ratio, i), (3, 0), textcoords="offset points", va="center")
        if row.goal is not None:
            axes.plot([row.goal] * 2, [i - 0.42, i + 0.42], color="black", linewidth=1.8)
    axes.axvline(1, color="#666666", linewidth=0.8)
    axes.set_xscale("log")
    low, high = min(row.ratio for row in rows), max(2.0, *(row.ratio for row in rows))
    axes.set_xlim(min(low, 0.5) / 1.5, high * 2.2)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10)


def _sizes(axes: Any, results: Results) -> None:
    styles = zip(results.sizes.items(), _LINES, "osv^", strict=False)
    for (name, times), line, marker in styles:
        axes.plot(list(times), list(times.values()), line, marker=marker, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("elements")
    axes.set_ylabel("ns an element")
    axes.legend(frameon=False, fontsize=8)
    axes.set_title("a step of cross entropy, by size", loc="left", fontsize=10)


def draw(results: Results, path: Path) -> None:
    """Write the figure as PNG or SVG, by the name of the file."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    groups = {g: [row for row in results.rows if row.group == g] for g in results.groups}
    heights = [*(0.26 * len(rows) + 0.5 for rows in groups.values()), 2.8]
    with plt.rc_context({"font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False}):
        figure, panels = plt.subplots(
            len(heights),
            figsize=(8, sum(heights) + 0.4),
            height_ratios=heights,
            layout="constrained",
        )
        for axes, (group, rows) in zip(panels, groups.items(), strict=False):
            own = list(dict.fromkeys(row.baseline for row in rows))
            against = own[0] if len(own) == 1 else "MONAI with the same activation"
            _bars(axes, rows, f"{group}: time of a step over that of {against}")
        panels[-2].set_xlabel("ratio (black mark: the goal; orange, crossed: missed)")
        _sizes(panels[-1], results)
        buffer = BytesIO()
        figure.savefig(buffer, format=path.suffix[1:], dpi=130)
        plt.close(figure)
    write_atomically(path, buffer.getvalue())
