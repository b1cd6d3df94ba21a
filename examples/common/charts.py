"""What the charts of the examples have in common: files, colours and line styles."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any

from examples.common.runs import csv_bytes
from parity.common.files import write_atomically
from parity.report.palette import LOOKS, Look


def line_styles(names: Sequence[str], known: Mapping[str, Look] | None = None) -> dict[str, Look]:
    """Colour, marker and dashes for each name, always the same for a `known` name.

    Other names get styles that no shown name has; after seven in all the styles repeat.
    """
    looks = {name: look for name, look in (known or {}).items() if name in names}
    free = [look for look in LOOKS if look not in looks.values()]
    others = [name for name in names if name not in looks]
    looks |= dict(zip(others, cycle(free or LOOKS), strict=False))
    return {name: looks[name] for name in names}


@contextmanager
def drawing(size: tuple[float, float], title: str) -> Iterator[Any]:
    """A figure of `size` inches, with the font sizes of the examples."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(fill(title, int(12 * size[0])))  # 12 characters an inch
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
