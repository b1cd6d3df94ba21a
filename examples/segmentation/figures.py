"""The figures of a sweep, as PNG and SVG with their numbers as CSV, in its `figures`.

A file name has the kind of the figure, and its data, framework and loss:

    argument        as in the paper: the cross entropy of a positive against the slope of its
                    activation; it needs no runs
    reliability     the share of positives by probability
    histograms      how many pixels have which probability, by truth
    errors          the part of the cross entropy from wrong pixels, against Dice, by run
    differences     from sigmoid, paired, with intervals
    overlays        some images with predictions, and where these are unsure
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from examples.common import charts
from examples.common.statistics import LEVEL, Interval
from examples.segmentation.metrics import CLIP, HISTOGRAM_BINS, THRESHOLDS
from examples.segmentation.options import implementations
from examples.segmentation.results import (
    BASE,
    QUANTITIES,
    Difference,
    Result,
    Sweep,
    differences,
    read,
)
from parity.common.arrays import Array
from parity.report.console import console, print_line
from parity.report.palette import ACTIVATIONS, SKY, VERMILLION
from parity.suite.case import SMOOTH, Case

Drawn = tuple[Any, list[dict[str, Any]]]
"""A figure and the rows of its table."""
_LOSSES = {
    "binary_cross_entropy": "cross entropy",
    "dice": "Dice loss",
    "mean_squared_error": "squared error",
}
_NAMES = {
    "normal_cdf": "normal CDF",
    "negative": "pixels that are 0",
    "positive": "pixels that are 1",
}


def shown(name: str) -> str:
    """The name of an activation or a loss in figures."""
    return _LOSSES.get(name) or _NAMES.get(name) or name.replace("_", " ")


def draw(sweep: Sweep, overlays: int = 3, framework: str | None = None) -> Iterator[Path]:
    """Draw all figures for which there are results; yields the paths as they are written.

    `overlays` is the number of images to overlay, 0 for none; these are of one `framework`, by
    default the first, since a process has one backend of Keras. Raises as `overlays.draw`.
    """
    folder = sweep.folder / "figures"
    folder.mkdir(exist_ok=True)
    yield from charts.write(folder / "argument", *argument())
    for group in sweep.groups():
        if sweep.cell(**group)[0]:
            for name, figure in _OF_GROUPS.items():
                yield from charts.write(folder / slug(name, *group.values()), *figure(sweep, group))
    found = differences(sweep)
    for data in sweep.axis("data"):
        mine = [one for one in found if one.group["data"] == data and one.interval.count]
        if mine:
            yield from charts.write(folder / slug("differences", data), *forest(mine))
    if overlays:
        from examples.segmentation import overlays as drawn

        yield from drawn.draw(sweep, folder, overlays, framework)


def slug(name: str, *parts: str) -> str:
    """The stem of a file's name.

    >>> slug("errors", "dsb2018:nuclei", "torch")
    'errors_dsb2018-nuclei_torch'
    """
    return "_".join([name, *(re.sub(r"[^\w.]+", "-", part) for part in parts)])


_DATA = {
    "dsb2018": "cell nuclei (DSB 2018)",
    "drive": "retinal vessels (DRIVE)",
    "kvasir": "polyps (Kvasir-SEG)",
    "synthetic": "drawn images",
}
_BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


def of_data(data: str) -> str:
    """The name of a data set in figures.

    >>> of_data("dsb2018:dsb2018_96"), of_data("processed:ACDC")
    ('cell nuclei (DSB 2018)', 'ACDC')
    """
    layout, _, folder = data.partition(":")
    return _DATA.get(layout) or (folder or layout).replace("_", " ")


def of_framework(framework: str) -> str:
    """The name of a framework in figures.

    >>> of_framework("torch"), of_framework("keras-jax")
    ('PyTorch', 'Keras on JAX')
    """
    keras, _, backend = framework.rpartition("-")
    name = _BACKENDS.get(backend, backend)
    return f"Keras on {name}" if keras else name


def title(group: dict[str, str]) -> str:
    """The title of the figures of a group."""
    return f"{capitalized(of_data(group['data']))}, {of_framework(group['framework'])}"


def capitalized(words: str) -> str:
    """The text with a capital first letter."""
    return words[:1].upper() + words[1:]


def argument() -> Drawn:
    """-log F(x) against F'(x), parametric in x: near 0, and in the tails on logarithmic axes."""
    from parity.reference import float64 as oracle

    names = (*SMOOTH, "hardtanh")  # the slope of linear depends on the batch
    styles = charts.line_styles(names, ACTIVATIONS)
    error = np.concatenate([np.linspace(0.005, 1, 100), np.linspace(1.05, -math.log(CLIP), 300)])
    rows, slopes = [], {}
    for name in names:
        case = Case("", "float64", name, "cdf")
        x = oracle.quantile(case, np.exp(-error))
        slopes[name] = oracle.distribution(case, x).pdf
        rows += [
            {"activation": name, "x": float(a), "cross_entropy": float(b), "slope": float(c)}
            for a, b, c in zip(x, error, slopes[name], strict=True)
        ]
    heading = "The cross entropy of a positive against the slope of its activation"
    with charts.drawing((11, 4.6), heading) as figure:
        near, far = figure.subplots(1, 2, width_ratios=(1, 1.15))
        for axes in (near, far):
            for name, slope in slopes.items():
                every = (7, 30) if axes is near else (20, 45)
                axes.plot(error, slope, markevery=every, markersize=4, label=name, **styles[name])
            axes.axvline(math.log(2), color="0.6", linewidth=0.8, zorder=0)
            axes.set(xlabel="cross entropy -log F(x), in nats")
            charts.plain(axes)
        near.set(xlim=(0, 6), ylim=(0, 1.05), ylabel="slope F'(x), per unit of raw output x")
        near.annotate("F(x) = 1/2", (math.log(2), 0.8), (4, 0), textcoords="offset points")
        far.set(yscale="log", xlim=(0, error[-1]), ylim=(1e-15, 3), ylabel="slope, logarithmic")
        _label_ends(far, {n: s[-1] for n, s in slopes.items()}, styles)
        return figure, rows


def _label_ends(axes: Any, ends: dict[str, float], styles: dict[str, dict[str, Any]]) -> None:
    """Names at the right ends of curves on a logarithmic axis, moved apart if too close."""
    low, high = np.log10(axes.get_ylim())
    place = math.inf
    for name, end in sorted(ends.items(), key=lambda item: -item[1]):
        place = min((np.log10(end) - low) / (high - low), place - 0.05)
        axes.annotate(
            shown(name),
            (1.02, place),
            xycoords="axes fraction",
            va="center",
            color=styles[name]["color"],
        )


def _with_runs(sweep: Sweep, group: dict[str, str]) -> tuple[list[str], list[str], dict[str, Any]]:
    """Losses and activations of a group that have results, and the activations' styles."""
    done = [key for key in sweep.wanted if key in sweep.results]
    mine = [k for k in done if (k.data, k.framework) == (group["data"], group["framework"])]
    losses, activations = (
        [name for name in sweep.axis(part, **group) if any(getattr(k, part) == name for k in mine)]
        for part in ("loss", "activation")
    )
    return losses, activations, charts.line_styles(activations, ACTIVATIONS)


def _found(sweep: Sweep, group: dict[str, str], loss: str, activation: str) -> list[Result]:
    return list(sweep.cell(**group, loss=loss, activation=activation)[0].values())


def _pooled(found: Sequence[Result], part: str) -> dict[str, Array]:
    """The counts of all runs and classes together, of `reliability` or `histogram`."""
    every = [one[part] for result in found for one in result.found["validation"]["classes"]]
    if part == "histogram":
        return {name: np.sum([one[name] for one in every], 0) for name in every[0]}
    count = np.sum([one["count"] for one in every], 0)
    sums = {
        name: np.sum([np.multiply(one[name], one["count"]) for one in every], 0)
        for name in ("probability", "positive")
    }
    return {"count": count} | {name: total / np.maximum(count, 1) for name, total in sums.items()}


def reliability(sweep: Sweep, group: dict[str, str]) -> Drawn:
    """A panel for every loss; below it the number of pixels in each bin."""
    losses, activations, styles = _with_runs(sweep, group)
    rows: list[dict[str, Any]] = []
    heading = f"{title(group)}: how often a pixel is 1 that was given a probability"
    with charts.drawing((3.9 * len(losses) + 0.6, 6.2), heading) as figure:
        shape, how = (2, len(losses)), {"sharex": True, "sharey": "row", "squeeze": False}
        for loss, (above, beneath) in zip(
            losses, figure.subplots(*shape, height_ratios=(3, 1.2), **how).T, strict=True
        ):
            above.plot([0, 1], [0, 1], color="0.6", linewidth=0.9, zorder=0)
            for activation in activations:
                runs = _found(sweep, group, loss, activation)
                if runs:
                    pooled = _pooled(runs, "reliability")
                    _reliability_curve(above, beneath, pooled, styles[activation], activation)
                    names = {**group, "loss": loss, "activation": activation, "runs": len(runs)}
                    rows += _bins(names, pooled)
            above.set(title=shown(loss), xlim=(0, 1), ylim=(0, 1))
            beneath.set(xlabel="mean probability of a bin", yscale="log")
            charts.plain(above)
            charts.plain(beneath)
        figure.axes[0].set_ylabel("share of pixels that are 1")
        figure.axes[len(losses)].set_ylabel("share of all pixels")
        _legend(figure, figure.axes[: len(losses)])
        return figure, rows


def _reliability_curve(
    above: Any, beneath: Any, pooled: dict[str, Array], style: dict[str, Any], name: str
) -> None:
    there = pooled["count"] > 0
    x, count = pooled["probability"][there], pooled["count"][there]
    how = {"markersize": 5, "markerfacecolor": "none", "linewidth": 1.2, "clip_on": False, **style}
    above.plot(x, pooled["positive"][there], label=name, **how)
    beneath.plot(x, count / count.sum(), **how)


def _bins(names: dict[str, Any], pooled: dict[str, Array]) -> list[dict[str, Any]]:
    return [
        {**names, "bin": i, **{part: values[i].item() for part, values in pooled.items()}}
        for i in range(len(next(iter(pooled.values()))))
    ]


def _legend(figure: Any, panels: Sequence[Any]) -> None:
    """One legend below the figure for all panels."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    labels = [shown(label) for label in handles]
    figure.legend(handles.values(), labels, loc="outside lower center", ncols=7, frameon=False)


_TRUTHS: dict[str, dict[str, Any]] = {
    "negative": {"fill": True, "color": SKY, "alpha": 0.6},
    "positive": {"fill": False, "color": VERMILLION, "linewidth": 1.6},
}


def histograms(sweep: Sweep, group: dict[str, str]) -> Drawn:
    """A panel for every activation and loss; logarithmic, as shares of all pixels."""
    losses, activations, _ = _with_runs(sweep, group)
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    rows: list[dict[str, Any]] = []
    size = 3.4 * len(losses) + 0.8, 1.35 * len(activations) + 1
    heading = f"{title(group)}: probabilities of pixels that are 0 and of those that are 1"
    with charts.drawing(size, heading) as figure:
        shape, how = (len(activations), len(losses)), {"sharex": True, "sharey": True}
        grid = figure.subplots(*shape, squeeze=False, **how)
        for activation, line in zip(activations, grid, strict=True):
            for loss, axes in zip(losses, line, strict=True):
                runs = _found(sweep, group, loss, activation)
                charts.plain(axes)
                if not runs:
                    axes.annotate("no runs", (0.5, 0.5), xycoords="axes fraction", ha="center")
                    continue
                pooled = _pooled(runs, "histogram")
                pixels = sum(values.sum() for values in pooled.values())
                for truth, style in _TRUTHS.items():
                    values = pooled[truth] / pixels
                    axes.stairs(values, edges, label=truth, **style)
                names = {**group, "loss": loss, "activation": activation, "runs": len(runs)}
                rows += _bins(names, pooled)
            line[0].set_ylabel(shown(activation))
        for loss, top, bottom in zip(losses, grid[0], grid[-1], strict=True):
            top.set(title=shown(loss), yscale="log", xlim=(0, 1))
            bottom.set_xlabel("probability")
        figure.supylabel(f"share of all pixels in each of {HISTOGRAM_BINS} bins", size=9)
        _legend(figure, figure.axes)
        return figure, rows


def wrong_error(result: Result) -> float:
    """The part of the cross entropy from wrong pixels, minimum over thresholds, mean over classes.

    Thresholds 0 and 1, which separate nothing, do not count.
    """
    return float(
        np.mean(
            [
                np.add(one["false_positive_error"], one["false_negative_error"])[1:-1].min()
                for one in result.found["validation"]["classes"]
            ]
        )
    )


def errors(sweep: Sweep, group: dict[str, str]) -> Drawn:
    """A point for every run, in a panel for every loss."""
    losses, activations, styles = _with_runs(sweep, group)
    rows: list[dict[str, Any]] = []
    heading = f"{title(group)}: what wrong pixels cost against how much is right; a point is a run"
    with charts.drawing((3.9 * len(losses) + 0.6, 4.4), heading) as figure:
        panels = figure.subplots(1, len(losses), sharey=True, squeeze=False)[0]
        for loss, axes in zip(losses, panels, strict=True):
            for activation in activations:
                runs = _found(sweep, group, loss, activation)
                x, y = [wrong_error(one) for one in runs], [one.value("best_dice") for one in runs]
                style = styles[activation] | {"linestyle": "none"}
                axes.plot(x, y, label=activation, markersize=6, markerfacecolor="none", **style)
                rows += [
                    {**one.key._asdict(), "wrong_error": a, "best_dice": b}
                    for one, a, b in zip(runs, x, y, strict=True)
                ]
            axes.set(title=shown(loss), xlabel="false positives + negatives, nats a pixel")
            axes.margins(0.08)
            charts.plain(axes)
        found = [row["wrong_error"] for row in rows]
        if max(found) > 4 * min(found) > 0:  # the values of hardtanh are far larger
            for axes in panels:
                _logarithmic(axes)
        panels[0].set_ylabel(f"Dice at the best of {len(THRESHOLDS)} thresholds")
        _legend(figure, panels)
        return figure, rows


def _logarithmic(axes: Any) -> None:
    """Plain numbers on a logarithmic x axis of few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    few = high < 20 * low
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


_OF_GROUPS: dict[str, Callable[[Sweep, dict[str, str]], Drawn]] = {
    "reliability": reliability,
    "histograms": histograms,
    "errors": errors,
}


def forest(found: Sequence[Difference]) -> Drawn:
    """A row of panels for every quantity, a column for every loss; filled: 0 is outside."""
    losses = list(dict.fromkeys(one.loss for one in found))
    activations = list(dict.fromkeys(one.activation for one in found))
    frameworks = list(dict.fromkeys(one.group["framework"] for one in found))
    styles = charts.line_styles([of_framework(name) for name in frameworks])
    from matplotlib.ticker import MaxNLocator

    height = 0.09 + 0.13 * len(frameworks)
    size = 3.6 * len(losses) + 1.4, (height * len(activations) + 0.62) * len(QUANTITIES) + 0.8
    data = capitalized(of_data(found[0].group["data"]))
    heading = (
        f"{data}: difference from {BASE}, paired, with {LEVEL:.0%} intervals (filled: 0 is "
        "outside; an arrow: it reaches beyond)"
    )
    with charts.drawing(size, heading) as figure:
        grid = figure.subplots(
            len(QUANTITIES), len(losses), squeeze=False, sharex="row", sharey=True
        )
        for quantity, line in zip(QUANTITIES, grid, strict=True):
            limit = _limit([one.interval for one in found if one.quantity == quantity])
            if limit:
                line[0].set_xlim(-limit, limit)
            for loss, axes in zip(losses, line, strict=True):
                axes.axvline(0, color="0.5", linewidth=0.9, zorder=0)
                for one in found:
                    if (one.quantity, one.loss) == (quantity, loss):
                        k = frameworks.index(one.group["framework"])
                        beside = 0.6 * ((k + 1) / (len(frameworks) + 1) - 0.5)
                        place = activations.index(one.activation)
                        style = styles[of_framework(one.group["framework"])]
                        if limit and abs(one.interval.mean) > limit:
                            _beyond(axes, one, place + beside, limit, style)
                        else:
                            _whisker(axes, one, place + beside, style)
                            _cut_ends(axes, one, place + beside, limit, style)
                axes.set_xlabel(f"{QUANTITIES[quantity]}: difference")
                axes.xaxis.set_major_locator(MaxNLocator(4))
                charts.plain(axes)
        for loss, axes in zip(losses, grid[0], strict=True):
            axes.set_title(shown(loss))
        names = [shown(name) for name in activations]
        grid[0, 0].set_yticks(range(len(activations)), names)
        grid[0, 0].set_ylim(len(activations) - 0.5, -0.5)
        _legend(figure, figure.axes)
        return figure, [one.row(one.interval.verdict) for one in found]


def _limit(intervals: Sequence[Interval]) -> float:
    """The limit of a row of panels, so that an outlier does not squeeze the rest; or 0."""
    ends = [abs(one.mean) + float(np.nan_to_num(one.half)) for one in intervals]
    limit = 4 * float(np.median(ends)) if ends else 0.0
    return limit if 0 < limit < max(ends) else 0.0


def _beyond(axes: Any, one: Difference, place: float, limit: float, style: dict[str, Any]) -> None:
    """An arrow at the edge, with a mean that is beyond it."""
    side = math.copysign(1, one.interval.mean)
    axes.annotate(
        f"{one.interval.mean:+.2g}",
        (side * limit, place),
        (side * 0.72 * limit, place),
        color=style["color"],
        ha="right" if side > 0 else "left",
        va="center",
        size=7,
        arrowprops={"arrowstyle": "->", "color": style["color"]},
    )


def _whisker(axes: Any, one: Difference, place: float, style: dict[str, Any]) -> None:
    """The mean and its interval (none for a single pair)."""
    half = one.interval.half
    filled = one.interval.verdict in ("higher", "lower")
    axes.errorbar(
        one.interval.mean,
        place,
        xerr=None if math.isnan(half) else half,
        label=of_framework(one.group["framework"]),
        capsize=2,
        markersize=5,
        markerfacecolor=style["color"] if filled else "white",
        color=style["color"],
        marker=style["marker"],
        linestyle="none",
        linewidth=1.1,
    )


def _cut_ends(
    axes: Any, one: Difference, place: float, limit: float, style: dict[str, Any]
) -> None:
    """An arrow at the edge for an interval that reaches beyond it."""
    for side in (-1, 1):
        if limit and side * one.interval.mean + one.interval.half > limit:
            axes.annotate(
                "",
                (side * limit, place),
                (side * 0.9 * limit, place),
                arrowprops={
                    "arrowstyle": "->",
                    "color": style["color"],
                    "shrinkA": 0,
                    "shrinkB": 0,
                },
            )


def command(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="The folder of a sweep; results of more folders are added to the first."
        ),
    ],
    overlays: Annotated[
        int, typer.Option(help="The number of images with overlaid predictions; 0 for none.", min=0)
    ] = 3,
    framework: Annotated[
        str | None,
        typer.Option(
            help="The framework whose predictions are overlaid; by default the first one."
        ),
    ] = None,
) -> None:
    """Draw the figures of a sweep, and write their numbers as CSV."""
    name = implementations(framework)[0] if framework else None
    for path in draw(read(*folders), overlays, name):
        print_line(console(), str(path))
