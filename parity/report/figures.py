"""The figures of the report's page: SVG for HTML, in the colours of its style sheet.

Drawn for a phone, 340 pixels wide, with text as text. Colours are drawn as stand-ins and replaced
by the variables of the page, so that they follow its dark mode; lines differ in their marks too.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.accuracy import bounds
from parity.common.arrays import Array
from parity.frameworks.installed import IMPLEMENTATIONS
from parity.judge.curves import BINS, CENTRES, END, ErrorCurves, LossCurve, position
from parity.suite.case import Case

if TYPE_CHECKING:
    from parity.training.run import Training

WIDTH = 340
_INK, _SOFT, _BAD, _PALE = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {_INK: "--ink", _SOFT: "--soft", _BAD: "--bad", _PALE: "--pale"}
_SMALLEST = 1e-9
"""The lower limit of loss axes: the published formula stops at 1e-7."""
_TICKS = (-1e4, -100, -1, 1, 100, 1e4)


@dataclass(frozen=True)
class Style:
    """The line style of one implementation: its CSS variable, stand-in colour and mark."""

    variable: str
    colour: str
    mark: str


_MARKS = "osD^v<>P"
STYLES = {
    name: Style(f"--line-{i + 1}", f"#0{i + 1}0{i + 1}0f", _MARKS[i])
    for i, name in enumerate(reversed(IMPLEMENTATIONS))
}
FORMULAS = {
    "exact": Style("--ink", _INK, ""),
    "ours": Style("--pale", _PALE, ""),
    "published": Style("--line-2", STYLES[IMPLEMENTATIONS[-2]].colour, "s"),
}


@dataclass(frozen=True)
class Drawing:
    """A figure of the page: its description, the SVG, and a caption, if any."""

    title: str
    words: str
    svg: str
    caption: str = ""


_RC: Any = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.linewidth": 0.8,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "text.color": _INK,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "segact",
    "axes.unicode_minus": False,
    "text.parse_math": False,
}


def _clean(svg: str, name: str) -> str:
    """The SVG for a page: without header, with unique ids, the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would style the whole page
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg
    )
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    for style in STYLES.values():
        svg = svg.replace(style.colour, f"var({style.variable})")
    return re.sub(r"\s*\n\s*", "\n", svg)


def _draw(name: str, height: int, panels: int, fill: Callable[[Any], None]) -> str:
    """The SVG of a figure with panels below each other; `fill` draws into the list of axes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = StringIO()
    with rc_context(_RC):
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        figure.get_layout_engine().set(w_pad=2 / 72, h_pad=3 / 72, hspace=0.04)  # type: ignore[union-attr, call-arg]
        axes = np.atleast_1d(figure.subplots(panels, 1, sharex=True)).tolist()
        for one in axes:
            one.patch.set_visible(False)
            one.spines[["top", "right"]].set_visible(False)
            one.grid(color=_SOFT, alpha=0.25, linewidth=0.6)
            one.set_axisbelow(True)
        fill(axes)
        figure.patch.set_visible(False)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    return _clean(file.getvalue(), name)


def _limit(axes: Any, limit: float, words: str) -> None:
    """A bound, with a label at its right end, where no curve is."""
    axes.axhline(limit, color=_BAD, linewidth=1, linestyle=(0, (4, 2)))
    axes.annotate(
        words,
        (1, limit),
        (3, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        color=_BAD,
    )


def _logarithmic(axes: Any, low: float, high: float) -> None:
    """A logarithmic y axis with a tick at a few powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _power(y)))


def _power(y: float) -> str:
    """1e-7, but 0.01, 1 and 100 written out."""
    text = f"{y:.0e}" if not 0.009 < y < 1001 else f"{y:g}"
    return text.replace("e-0", "e-").replace("e+0", "e")


def _name_axis(axes: Any, words: str) -> None:
    """The title of a panel, above it at the left."""
    axes.set_title(words, loc="left", pad=4)


def _raw_output_axis(axes: Any, beyond: float = 0.0) -> None:
    """x from -1e4 to 1e4, linear on [-1, 1]."""
    axes.set_xlim(-END - beyond, END + beyond)
    axes.set_xticks(position(np.array(_TICKS)), ["-1e4", "-100", "-1", "1", "100", "1e4"])
    axes.set_xlabel("raw output x", labelpad=2)


def _marks(name: str, count: int, all_names: Sequence[str]) -> dict[str, Any]:
    """Marks of a line, few and not at the same x as those of other lines."""
    style, step = STYLES[name], max(count // 5, 1)
    start = step * (all_names.index(name) + 1) // (len(all_names) + 1)
    return {
        "color": style.colour,
        "marker": style.mark,
        "markersize": 4.5,
        "markevery": (start, step),
    }


def _limits(names: Iterable[str], part: str) -> dict[float, str]:
    """The bounds of elementwise float32 errors, each with its label."""
    case = Case("grid", "float32", "sigmoid", "cdf")
    found: dict[float, str] = {}
    for name in names:
        whose = "Keras" if name.startswith("keras") else name
        found.setdefault(bounds.table_bound(name, case, part), whose)
    return found


def _error_panel(axes: Any, curves: Mapping[str, Array], limits: dict[float, str]) -> None:
    """One line for each implementation; errors above the panel are marked at its upper edge."""
    top = 1.18 * max(limits)
    axes.set_ylim(0, top)
    for limit, whose in limits.items():
        _limit(axes, limit, f"{whose}\n{limit:g}")
    for name, errors in curves.items():
        seen = np.isfinite(errors)
        over = np.nan_to_num(errors, nan=-1.0, posinf=np.inf) > top
        where = np.flatnonzero(seen | over)
        heights = np.minimum(errors[where], top)
        marks = _marks(name, len(where), list(curves))
        axes.plot(CENTRES[where], heights, linewidth=1.1, **marks)
        if np.any(over):
            at = np.full(over.sum(), top)
            (crosses,) = axes.plot(CENTRES[over], at, "X", color=_BAD, clip_on=False)
            crosses.set_in_layout(False)


def error_figure(activation: str, curves: Mapping[str, ErrorCurves]) -> Drawing | None:
    """The worst float32 errors of an activation over x, of values and of gradients, with bounds.

    None if there is nothing to draw.
    """
    panels: dict[str, dict[str, Array]] = {}
    words = []
    for kind, plural in (("value", "values"), ("gradient", "gradients")):
        found = {name: c.along(activation, kind) for name, c in curves.items()}
        found = {name: errors for name, errors in found.items() if not np.all(np.isnan(errors))}
        if found:
            panels[plural] = found
            worst = ", ".join(f"{name} {np.nanmax(e):.1f}" for name, e in found.items())
            words.append(f"worst error in ulp of {plural}: {worst}")
    if not panels:
        return None

    def fill(axes: list[Any]) -> None:
        for one, (plural, found) in zip(axes, panels.items(), strict=True):
            _name_axis(one, f"error of {plural}, in ulp; dashed: bounds")
            part = "value" if plural == "values" else "grad_x"
            _error_panel(one, found, _limits(found, part))
        _raw_output_axis(axes[-1], 2 * END / BINS)

    svg = _draw(f"error-{activation}", 60 + 125 * len(panels), len(panels), fill)
    return Drawing(activation, "; ".join(words), svg)


def _formula_panel(axes: Any, x: Array, lines: Mapping[str, list[float]]) -> None:
    """Ours wide and pale below, the exact one thin above it, the published one with marks."""
    sizes = np.abs(lines["ours"])
    low = max(_SMALLEST, float(np.min(sizes[sizes > 0])) / 3)
    widths = {"ours": 5.0, "published": 1.3, "exact": 1.0}
    for name, width in widths.items():
        if name not in lines:
            continue
        style = FORMULAS[name]
        values = np.abs(np.array(lines[name]))
        values = np.where(values < low / 1e3, low / 1e3, values)  # below the panel, zero too
        axes.plot(
            position(x),
            values,
            color=style.colour,
            linewidth=width,
            marker=style.mark or None,
            markersize=4,
            markevery=6,
            solid_capstyle="butt",
        )
    _logarithmic(axes, low, 10 * max(float(np.max(sizes)), 1))


def loss_figure(curve: LossCurve) -> Drawing:
    """-log F(x) and the magnitude of its gradient over x, by formula."""
    x = np.array(curve.x)

    def fill(axes: list[Any]) -> None:
        titles = ("loss -log F(x)", "gradient, magnitude")
        for one, lines, title in zip(axes, (curve.loss, curve.gradient), titles, strict=True):
            _name_axis(one, title)
            _formula_panel(one, x, lines)
        _raw_output_axis(axes[-1])

    ends = ", ".join(f"{name} {values[0]:.3g}" for name, values in curve.loss.items())
    words = f"loss at x = -1e4: {ends}"
    svg = _draw(f"loss-{curve.activation}", 320, 2, fill)
    return Drawing(curve.activation, words, svg, words)


def training_figure(training: "Training") -> Drawing:
    """The loss of every implementation at each step; below, its difference from the first one."""
    names, reference = list(training.curves), training.reference
    others = [name for name in names if name != reference]
    apart = {name: np.array(training.differences(name), np.float64) for name in others}
    positive = [v for d in apart.values() for v in d.tolist() if 0 < v < np.inf]
    low = min([training.bound / 100, *positive]) / 3
    high = max([training.bound, *positive]) * 8

    def fill(axes: list[Any]) -> None:
        _name_axis(axes[0], f"loss: {training.loss} of {training.activation}".replace("_", " "))
        for i, name in enumerate(names):
            losses = training.curves[name]
            # lines that coincide show their colours in turn
            dashes = (5 * i, (5, 5 * (len(names) - 1))) if len(names) > 1 else "-"
            marks = _marks(name, len(losses), names)
            axes[0].plot(losses, linewidth=1.6, linestyle=dashes, **marks)
        _name_axis(axes[1], f"relative difference from {reference}")
        _limit(axes[1], training.bound, f"bound\n{training.bound:g}")
        for name, found in apart.items():
            steps = np.flatnonzero(found)
            marks = _marks(name, len(steps), names)
            axes[1].plot(steps, np.minimum(found[steps], high), linewidth=1.1, **marks)
        _logarithmic(axes[1], low, high)
        axes[1].set_xlabel("step", labelpad=2)

    worst = ", ".join(f"{name} {found.max():.1e}" for name, found in apart.items())
    title = f"{training.optimizer}, {training.dtype}"
    words = f"largest difference from {reference}: {worst or 'nothing to compare with'}"
    svg = _draw(f"train-{training.optimizer}-{training.dtype}", 300, 2, fill)
    return Drawing(title, words, svg, words)
