"""The losses of the first steps on the device and on the CPU, as a figure and in numbers."""

import io
from pathlib import Path
from typing import Any

from parity.common.files import write_atomically
from parity.report.palette import BLACK, VERMILLION
from scripts.gpu.steps import Result

# The dashes show the same as the colours.
_DEVICE, _CPU = VERMILLION, BLACK
FIRST = 10
"""The number of steps over which two correct float32 trainings stay close."""


def trained(results: list[Result]) -> list[Result]:
    """The steps that have losses."""
    return [
        r for r in results if any(isinstance(f, dict) and "steps" in f for f in r.figures.values())
    ]


def apart(figures: dict[str, Any], device: str, first: int | None = None) -> float | None:
    """The largest relative difference of the losses of the first steps, device against CPU."""
    if device not in figures or "cpu" not in figures or device == "cpu":
        return None
    pairs = list(zip(figures[device]["steps"], figures["cpu"]["steps"], strict=False))[:first]
    return max((abs(a - b) / abs(b) for a, b in pairs if b), default=None)


def draw(results: list[Result], device: str, path: Path) -> None:
    """One small chart for every training; no figure without trainings."""
    found = trained(results)
    if not found:
        return
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    size = (3.4 * columns, 2.6 * rows)
    figure, charts = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axes, result in zip(charts.flat, found, strict=False):
        for where in dict.fromkeys((device, "cpu")):
            if where in result.figures:
                steps = result.figures[where]["steps"]
                style, colour = ((0, (3, 2)), _CPU) if where == "cpu" else ("-", _DEVICE)
                axes.plot(range(1, len(steps) + 1), steps, ls=style, color=colour, label=where)
        axes.set_title(result.step.title, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in charts.flat[len(found) :]:
        axes.set_visible(False)
    charts[0][0].set_ylabel("loss", fontsize=8)
    charts[0][0].legend(fontsize=8, frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    plt.close(figure)
    write_atomically(path, content.getvalue())
