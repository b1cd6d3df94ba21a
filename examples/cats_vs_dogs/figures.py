"""The figures of the write-up: the raw outputs, and the effect of clipping on their losses.

For each moment with kept raw outputs (after 8 epochs, after full training) two figures, as PNG and
SVG, with their numbers as CSV, all in the run's `figures`:

    epoch_8_keras               raw outputs by class; probabilities; the loss of every sample from
                                its probability, by the convention keras, against that from its
                                raw output
    epoch_8_keras_batches_of_4  the same losses, as means over batches of 4
    full_keras, ...             the same after full training
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from examples.cats_vs_dogs.clipping import (
    FULL,
    KERAS_LIMITS,
    Samples,
    batch_means,
    limits,
    moments,
    of_classes,
    raw_limit,
    relative_difference,
    splits_of,
)
from examples.cats_vs_dogs.options import Options
from examples.common import charts
from examples.common.cli import who
from examples.common.runs import Run, RunError
from parity.common.arrays import Array
from parity.report.console import console, print_line
from parity.report.palette import BLACK, BLUE, VERMILLION
from parity.suite.case import CONVENTIONS

BATCH_SIZE = 4
_STYLES: dict[str, dict[str, Any]] = {
    "cats": {"marker": "o", "color": BLUE},
    "dogs": {"marker": "^", "color": VERMILLION},
}
_HATCHES = {"cats": "////", "dogs": "...."}


def draw(run_folder: Path, convention: str | None = None) -> list[Path]:
    """Draw the figures for all moments with kept outputs; returns the paths written.

    `convention` is one of `suite.case.CONVENTIONS`, by default keras. Every file is written
    whole or not at all. Raises `RunError` for a run that has kept no outputs yet, and the errors of
    `clipping.splits_of`.
    """
    run, convention = Run.open(run_folder, Options), convention or "keras"
    found = moments(run)
    if not found:
        asked = run.options["checkpoint_epoch"]
        raise RunError(f"{run_folder}: no raw outputs yet; it keeps those of epoch {asked} first")
    measured = {when: splits_of(run, when, convention) for when in found}  # before any writing
    folder = run_folder / "figures"
    folder.mkdir(exist_ok=True)
    limit, paths = raw_limit(run.options["activation"]), []
    for when, splits in measured.items():
        stem = f"{when}_{convention}"
        title = _title(run, when)
        means = {name: _means(run, samples) for name, samples in splits.items()}
        rows = [row for name, samples in splits.items() for row in _rows(name, samples)]
        paths += charts.write(
            folder / stem, _samples_figure(splits, title, convention, limit), rows
        )
        rows = [row for name, pair in means.items() for row in _mean_rows(name, *pair)]
        stem += f"_batches_of_{BATCH_SIZE}"
        paths += charts.write(folder / stem, _batches_figure(means, title, convention), rows)
    return paths


def _means(run: Run, samples: Samples) -> tuple[Array, Array]:
    return batch_means(samples, BATCH_SIZE, run.options["seed"])


def _title(run: Run, when: str) -> str:
    options, epochs = run.options, run.config.get("epochs")
    after = f"full training ({epochs} epochs)" if when == FULL else when.replace("_", " ")
    images = "synthetic images" if run.config["data"]["synthetic"] else "photographs"
    size = options["size"]
    return f"After {after}: {images} at {size} x {size} pixels, {who(options)}"


def _rows(split: str, samples: Samples) -> list[dict[str, Any]]:
    """The numbers of the figure of samples."""
    columns = (
        ("name", samples.names),
        ("label", samples.labels),
        ("raw_output", samples.raw),
        ("probability", samples.probability),
        ("loss_from_probability", samples.from_probability),
        ("loss_from_raw_output", samples.from_raw),
    )
    return [
        {"split": split, **{name: values[i].item() for name, values in columns}}
        for i in range(len(samples.raw))
    ]


def _mean_rows(split: str, clipped: Array, exact: Array) -> list[dict[str, Any]]:
    """The numbers of the figure of batches."""
    return [
        {
            "split": split,
            "batch": number,
            "loss_from_probability": one.item(),
            "loss_from_raw_output": other.item(),
        }
        for number, (one, other) in enumerate(zip(clipped, exact, strict=True), 1)
    ]


def _samples_figure(splits: dict[str, Samples], title: str, convention: str, limit: float) -> Any:
    """A row for each split: raw outputs, probabilities, losses."""
    with charts.drawing((13, 4.2 * len(splits)), title) as figure:
        rows = figure.subplots(len(splits), 3, squeeze=False)
        for (left, centre, right), (name, samples) in zip(rows, splits.items(), strict=True):
            _histogram(left, samples, samples.raw, "raw output")
            _mark_limits_of_raw(left, samples.raw, limit)
            _histogram(centre, samples, samples.probability, "probability")
            centre.set_yscale("log")
            _scatter(right, samples, convention)
            left.set_ylabel(f"{name}: samples")
            left.legend(title=f"{len(samples.raw):,} samples")
    return figure


def _histogram(axes: Any, samples: Samples, values: Array, label: str) -> None:
    """Histograms by class: coloured outlines with different hatching."""
    low, high = (0.0, 1.0) if label == "probability" else _around(values)
    edges = np.linspace(low, high, 41)
    for name, mine in of_classes(samples):
        colour = _STYLES[name]["color"]
        axes.hist(
            values[mine],
            edges,
            histtype="stepfilled",
            facecolor="none",
            edgecolor=colour,
            hatch=_HATCHES[name],
            linewidth=1.2,
            label=name,
        )
    axes.set(xlabel=label, ylabel="samples")
    charts.plain(axes)


def _around(values: Array) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = max(0.03 * (high - low), 1e-3)
    return low - margin, high + margin


def _mark_limits_of_raw(axes: Any, raw: Array, limit: float) -> None:
    """Mark where the probability is 1e-7 and 1 - 1e-7, if raw outputs are near."""
    for near, at in ((raw.min() < -0.9 * limit, -limit), (raw.max() > 0.9 * limit, limit)):
        if near:
            axes.axvline(at, color="black", linestyle="--", linewidth=0.9)
            axes.set_xlabel(f"raw output (dashed: {limit:.4g}, 1e-7 from 0 or 1)")


def _scatter(axes: Any, samples: Samples, convention: str) -> None:
    """Scatter: for each sample, the loss from the probability against that from the raw output."""
    low, high = _range(samples.from_raw, samples.from_probability, convention)
    for name, mine in of_classes(samples):
        shown = np.maximum(samples.from_probability[mine], low)
        axes.scatter(
            np.maximum(samples.from_raw[mine], low),
            shown,
            s=16,
            facecolors="none",
            linewidths=0.7,
            edgecolors=_STYLES[name]["color"],
            marker=_STYLES[name]["marker"],
            label=name,
            rasterized=True,
            zorder=3,
            clip_on=False,
        )
    parted = int(samples.parted.sum())
    _losses(axes, low, high, convention, samples.from_probability)
    axes.set_title(f"{parted:,} of {len(samples.raw):,} samples differ by more than 1 %", size=9)
    axes.legend(loc="upper left", bbox_to_anchor=(0.02, 0.87))


def _batches_figure(means: dict[str, tuple[Array, Array]], title: str, convention: str) -> Any:
    """Scatter plots of means over batches, for every split."""
    heading = f"{title}; means over batches of {BATCH_SIZE}"
    with charts.drawing((6 * len(means), 5), heading) as figure:
        for axes, (name, (clipped, exact)) in zip(
            figure.subplots(1, len(means), squeeze=False)[0], means.items(), strict=True
        ):
            low, high = _range(exact, clipped, convention)
            axes.scatter(
                np.maximum(exact, low),
                np.maximum(clipped, low),
                s=20,
                marker="s",
                facecolors="none",
                edgecolors=BLACK,
                linewidths=0.7,
                rasterized=True,
                zorder=3,
                clip_on=False,
            )
            _losses(axes, low, high, convention, clipped)
            parted = int((relative_difference(clipped, exact) > 0.01).sum())
            axes.set_title(
                f"{name}: {parted:,} of {len(exact):,} batches differ by more than 1 %", size=9
            )
        return figure


def _range(exact: Array, clipped: Array, convention: str) -> tuple[float, float]:
    """The range of both axes: all losses above 0, and the convention's limits, with a margin."""
    ends = [end for label in (0, 1) for end in limits(convention, label)]
    ends += KERAS_LIMITS if convention.startswith("keras") else []
    found = np.concatenate([exact, clipped, ends])
    found = found[(found > 0) & np.isfinite(found)]
    low, high = np.log10(found.min()), np.log10(found.max())
    margin = 0.1 * (high - low)
    return float(10 ** (low - margin)), float(10 ** (high + margin))


def _losses(axes: Any, low: float, high: float, convention: str, clipped: Array) -> None:
    """Logarithmic axes, the line of equal losses and the limits of the convention."""
    axes.plot([low, high], [low, high], color="0.6", linewidth=0.9, zorder=1)
    for value, words in _limit_words(convention):
        above = value > 1  # the text is where no sample can be
        for line in (axes.axhline, axes.axvline):
            line(value, color="black", linestyle="--", linewidth=0.8, zorder=2)
        axes.annotate(
            words,
            (0.02 if above else 0.98, value),
            (0, 3 if above else -3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="left" if above else "right",
            va="bottom" if above else "top",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(low, high),
        ylim=(low, high),
        xlabel="cross entropy from the raw output",
        ylabel=f"from the probability, convention {convention}",
    )
    zeros = int((clipped <= 0).sum())
    if zeros:
        axes.annotate(
            f"{zeros:,} losses of 0, on the lower edge",
            (0.98, 0),
            (0, 4),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="bottom",
        )
    charts.plain(axes)


def _limit_words(convention: str) -> list[tuple[float, str]]:
    """The positions of the limits, and their labels."""
    (low_0, high_0), (low_1, high_1) = (limits(convention, label) for label in (0, 1))
    if convention == "keras":
        low, high = KERAS_LIMITS
        return [
            (low, f"-log(1 - 1e-7) = {low:.2e}; in float32 {low_0:.2e}"),
            (high, f"-log(1e-7) = {high:.3f}; in float32 {high_0:.3f} for cats"),
        ]
    found: dict[float, list[str]] = {}
    for value, name in ((low_0, "cats"), (low_1, "dogs"), (high_0, "cats"), (high_1, "dogs")):
        if value > 0:
            found.setdefault(round(value, 9), []).append(name)
    words = {value: f"{value:.5g}" for value in found}
    both = {v: w if len(found[v]) == 2 else f"{w} for {found[v][0]}" for v, w in words.items()}
    merged: dict[str, tuple[float, str]] = {}
    for value, text in both.items():  # limits that are too close share one label
        end = "high" if value > 1 else "low"
        old = merged.get(end)
        merged[end] = (max(value, old[0]), f"{old[1]}, {text}") if old else (value, text)
    return list(merged.values())


def command(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.")],
    convention: Annotated[
        str,
        typer.Option(
            help=f"The convention of losses from probabilities: {', '.join(CONVENTIONS)}."
        ),
    ] = "keras",
) -> None:
    """Draw the figures of a run, and write their numbers as CSV."""
    for path in draw(folder, convention):
        print_line(console(), str(path))
