"""What the charts of the examples have in common: files, colours, and lines told apart by more."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any

from examples.common.runs import csv_bytes
from parity.records import write_atomically

BLACK, BLUE, VERMILLION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#CC79A7", "#E69F00", "#56B4E9"
"""Of Okabe and Ito's palette; its yellow is too light for lines on white."""
_LINES = (
    (BLACK, "o", "-"),
    (BLUE, "s", "--"),
    (VERMILLION, "^", "-."),
    (GREEN, "D", (0, (5, 1, 1, 1, 1, 1))),
    (PURPLE, "v", (0, (3, 1))),
    (ORANGE, "P", (0, (7, 2))),
    (SKY, "X", (0, (1, 1))),
)


def line_styles(names: Sequence[str], known: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes for each name, always the same for what is `known`.

    Others have what no name that is shown has; after seven in all they begin again.
    """
    looks = dict(zip(known, cycle(_LINES), strict=False))
    looks = {name: look for name, look in looks.items() if name in names}
    free = [look for look in _LINES if look not in looks.values()]
    others = [name for name in names if name not in known]
    looks |= dict(zip(others, cycle(free or _LINES), strict=False))
    parts = ("color", "marker", "linestyle")
    return {name: dict(zip(parts, looks[name], strict=True)) for name in names}


@contextmanager
def drawing(size: tuple[float, float], title: str) -> Iterator[Any]:
    """A figure to draw in, `size` in inches, with the examples' letters."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(fill(title, int(12 * size[0])))  # 12 letters an inch
        yield figure


def plain(axes: Any) -> None:
    """A light grid and no frame."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def write(stem: Path, figure: Any, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """The figure as PNG and SVG and the numbers behind it as CSV; each whole or not at all."""
    from matplotlib import rc_context

    paths = []
    for suffix in (".png", ".svg"):
        content = BytesIO()
        with rc_context({"svg.hashsalt": "segact"}):  # the same numbers, the same file
            named = {"Date": None} if suffix == ".svg" else {}
            figure.savefig(content, dpi=130, format=suffix.removeprefix("."), metadata=named)
        paths.append(stem.with_name(stem.name + suffix))
        write_atomically(paths[-1], content.getvalue())
    paths.append(stem.with_name(stem.name + ".csv"))
    write_atomically(paths[-1], csv_bytes(rows))
    return paths
