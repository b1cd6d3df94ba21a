"""Draw the rooms of `parity` and who imports whom, read from the source: docs/images/rooms.png.

python scripts/draw_rooms.py
"""

import sys
from importlib import import_module
from pathlib import Path

from matplotlib.figure import Figure

from parity.report.palette import BLUE, GREY

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "project"))
imports = import_module("imports")

PATH = ROOT / "docs" / "images" / "rooms.png"
Rooms = dict[str, set[str]]


def rooms() -> Rooms:
    """Each room, and the rooms that it imports."""
    found: Rooms = {path.parent.name: set() for path in (ROOT / "parity").glob("*/__init__.py")}
    for each in imports.imports("parity"):
        names = (each.module.split("."), each.name.split("."))
        if each.top == "parity" and all(len(n) > 1 and n[1] in found for n in names):
            found[names[0][1]].add(names[1][1])
    return {room: others - {room} for room, others in found.items()}


def level(room: str, below: Rooms) -> int:
    """The longest way down from a room to one that imports none."""
    return max((1 + level(other, below) for other in below[room]), default=0)


def reached(room: str, below: Rooms) -> set[str]:
    """All rooms on the ways down from one, without itself."""
    return below[room].union(*(reached(other, below) for other in below[room]))


def direct(below: Rooms) -> Rooms:
    """The imports that do not follow from others."""
    return {
        room: others - set().union(*(reached(other, below) for other in others))
        for room, others in below.items()
    }


def places(below: Rooms) -> dict[str, tuple[float, float]]:
    """Each room on its level, in the order of the rooms that import it."""
    height = {room: level(room, below) for room in below}
    at: dict[str, tuple[float, float]] = {}
    for each in range(max(height.values()), -1, -1):
        above = {
            room: [at[other][0] for other in at if room in below[other]]
            for room in sorted(below)
            if height[room] == each
        }
        row = sorted(above, key=lambda room: sum(above[room]) / max(len(above[room]), 1))
        at |= {room: ((i + 0.5) / len(row), float(each)) for i, room in enumerate(row)}
    return at


def draw(below: Rooms) -> Figure:
    """The rooms on their levels, and an arrow for each import that does not follow from others."""
    at = places(below)
    highest = max(y for _, y in at.values())
    figure = Figure(figsize=(8, 0.85 * highest + 1), layout="constrained")
    axes = figure.subplots()
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": BLUE}
    shown = {
        room: axes.text(x, y, room, ha="center", va="center", fontsize=11, bbox=box, zorder=3)
        for room, (x, y) in at.items()
    }
    for room, others in direct(below).items():
        for other in sorted(others):
            bend = 0.3 if at[room][1] - at[other][1] > 1 else 0
            how = {"arrowstyle": "->", "color": GREY, "connectionstyle": f"arc3,rad={bend}"}
            ends = {"patchA": shown[room].get_bbox_patch(), "patchB": shown[other].get_bbox_patch()}
            axes.annotate("", xy=at[other], xytext=at[room], arrowprops=how | ends, zorder=1)
    axes.set(xlim=(0, 1), ylim=(-0.5, highest + 0.5))
    axes.axis("off")
    return figure


def main() -> None:
    draw(rooms()).savefig(PATH, dpi=130)
    print(PATH)


if __name__ == "__main__":
    main()
