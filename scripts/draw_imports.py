"""Draw the imports between the subpackages of `parity`, from the source: docs/images/imports.png.

python scripts/draw_imports.py
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from parity.report.palette import BLUE, GREY

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "project"))
imports = import_module("imports")

PATH = ROOT / "docs" / "images" / "imports.png"
Imports = dict[str, set[str]]


def subpackages() -> Imports:
    """Each subpackage, and the subpackages that it imports."""
    found: Imports = {path.parent.name: set() for path in (ROOT / "parity").glob("*/__init__.py")}
    for each in imports.imports("parity"):
        names = (each.module.split("."), each.name.split("."))
        if each.top == "parity" and all(len(n) > 1 and n[1] in found for n in names):
            found[names[0][1]].add(names[1][1])
    return {name: others - {name} for name, others in found.items()}


def level(name: str, below: Imports) -> int:
    """The longest chain of imports from a subpackage to one that imports none."""
    return max((1 + level(other, below) for other in below[name]), default=0)


def reached(name: str, below: Imports) -> set[str]:
    """All subpackages that one imports, directly or through others."""
    return below[name].union(*(reached(other, below) for other in below[name]))


def direct(below: Imports) -> Imports:
    """The imports that are not also reached through another subpackage."""
    return {
        name: others - set().union(*(reached(other, below) for other in others))
        for name, others in below.items()
    }


def places(below: Imports) -> dict[str, tuple[float, float]]:
    """The position of each subpackage: its level, and its place in the row below its importers."""
    height = {name: level(name, below) for name in below}
    at: dict[str, tuple[float, float]] = {}
    for each in range(max(height.values()), -1, -1):
        above = {
            name: [at[other][0] for other in at if name in below[other]]
            for name in sorted(below)
            if height[name] == each
        }
        row = sorted(above, key=lambda name: sum(above[name]) / max(len(above[name]), 1))
        at |= {name: ((i + 0.5) / len(row), float(each)) for i, name in enumerate(row)}
    return at


def bend(start: tuple[float, float], end: tuple[float, float], at: Any) -> float:
    """The curvature of an arrow: of both sides, the one that stays farther from other boxes."""
    inches = np.array([8.0, 0.85])
    first, last = np.multiply(start, inches), np.multiply(end, inches)
    others = [np.multiply(one, inches) for one in at.values() if one not in (start, end)]

    def room(curvature: float) -> float:
        across = np.array([last[1] - first[1], first[0] - last[0]])
        middle = (first + last) / 2 + curvature * across
        steps = np.linspace(0, 1, 50)[:, None]
        points = (1 - steps) ** 2 * first + 2 * steps * (1 - steps) * middle + steps**2 * last
        return float(min(np.hypot(*(points - one).T).min() for one in others))

    return max((0.3, -0.3), key=room)


def draw(below: Imports) -> Figure:
    """The subpackages on their levels, with an arrow for each direct import."""
    at = places(below)
    highest = max(y for _, y in at.values())
    figure = Figure(figsize=(8, 0.85 * highest + 1), layout="constrained")
    axes = figure.subplots()
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": BLUE}
    shown = {
        name: axes.text(x, y, name, ha="center", va="center", fontsize=11, bbox=box, zorder=3)
        for name, (x, y) in at.items()
    }
    for name, others in direct(below).items():
        for other in sorted(others):
            long = at[name][1] - at[other][1] > 1
            curvature = bend(at[name], at[other], at) if long else 0
            how = {"arrowstyle": "->", "color": GREY, "connectionstyle": f"arc3,rad={curvature}"}
            ends = {"patchA": shown[name].get_bbox_patch(), "patchB": shown[other].get_bbox_patch()}
            axes.annotate("", xy=at[other], xytext=at[name], arrowprops=how | ends, zorder=1)
    axes.set(xlim=(0, 1), ylim=(-0.5, highest + 0.5))
    axes.axis("off")
    return figure


def main() -> None:
    draw(subpackages()).savefig(PATH, dpi=130)
    print(PATH)


if __name__ == "__main__":
    main()
