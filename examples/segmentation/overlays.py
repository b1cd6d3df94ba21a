"""Some images with their predictions, and where these are unsure.

One figure for each data set and loss: a row for each image, from the validation images of the first
fold. It shows image, truth, and the probabilities of every activation, with a line at the best
threshold of the run and a band where the probability is between 0.1 and 0.9. (The probabilities of
`linear` depend on the batch, here the images that are shown.)
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from examples.common import charts
from examples.common.runs import Run, RunError
from examples.segmentation.data import Samples, folds, load
from examples.segmentation.figures import Drawn, shown, slug, title
from examples.segmentation.layouts import IGNORE
from examples.segmentation.results import Result, Sweep
from parity.common.arrays import Array
from parity.report.palette import SKY, VERMILLION

UNSURE = (0.1, 0.9)
WINDOW = 128
"""The largest size that is shown; of larger images, the window with most positives."""
Predict = Callable[[Path, Array], Array]
"""From a run's folder and images (N, H, W, C): probabilities (N, H, W, K)."""


def draw(
    sweep: Sweep,
    folder: Path,
    count: int,
    framework: str | None = None,
    predict: Predict | None = None,
) -> Iterator[Path]:
    """Write a figure of `count` images for every data set and loss with results.

    For one framework, by default the first with results. Raises `RunError` if there is no result of
    `framework`, and the errors of reading the images and predicting.
    """
    if predict is None:
        from examples.segmentation.predict import probabilities

        predict = probabilities
    known = list(dict.fromkeys(key.framework for key in sweep.wanted if key in sweep.results))
    if framework is not None and framework not in known:
        raise RunError(
            f"--framework {framework}; there are results of {', '.join(known) or 'none'}"
        )
    for data in sweep.axis("data"):
        group, samples = {"data": data, "framework": framework or "".join(known[:1])}, None
        for loss in sweep.axis("loss", **group):
            runs = _runs(sweep, group, loss)
            if runs:
                samples = samples or _samples(runs[0])
                chosen = _chosen(samples, runs[0], count)
                found = {one.key.activation: predict(one.folder, chosen.images) for one in runs}
                stem = folder / slug("overlays", *group.values(), loss)
                heading = f"{title(group)}, {shown(loss)}"
                yield from charts.write(stem, *overlay(heading, chosen, runs, found))


def _runs(sweep: Sweep, group: dict[str, str], loss: str) -> list[Result]:
    """The first run of every activation, with the first fold and seed that most of them have."""
    cells = [
        sweep.cell(**group, loss=loss, activation=activation)[0]
        for activation in sweep.axis("activation", **group, loss=loss)
    ]
    pairs = [pair for cell in cells for pair in cell]
    if not pairs:
        return []
    chosen = min(set(pairs), key=lambda pair: (-pairs.count(pair), pair))
    return [cell[chosen] for cell in cells if chosen in cell]


def _samples(result: Result) -> Samples:
    """All images of a run's data."""
    options = Run.open(result.folder).options
    return load(options["data"], options["size"], classes=options["classes"])


def _chosen(samples: Samples, result: Result, count: int) -> Samples:
    """`count` of the images on which a run was measured, evenly spread; all if it has fewer."""
    _, validation = folds(samples.cases, result.found["folds"])[result.key.fold]
    parts = min(count, len(validation)) + 1
    at = validation[(np.arange(1, parts) * len(validation) - 1) // parts]
    cases, names = ([values[i] for i in at] for values in (samples.cases, samples.names))
    return Samples(samples.images[at], samples.masks[at], cases, names, samples.source)


def overlay(
    heading: str, images: Samples, runs: Sequence[Result], probabilities: dict[str, Array]
) -> Drawn:
    """The figure of one loss; of several classes the first is shown."""
    rows: list[dict[str, Any]] = []
    more = ", the first class" if images.masks.shape[-1] > 1 else ""
    text = f"{heading}, fold {runs[0].key.fold}{more}: probabilities, white is 1"
    columns = ["image", "truth", *probabilities]
    size = 1.55 * len(columns) + 0.3, 1.6 * len(images.names) + 1.0
    with charts.drawing(size, text) as figure:
        grid = figure.subplots(len(images.names), len(columns), squeeze=False)
        for i, line in enumerate(grid):
            window = _window(images.masks[i, ..., 0])
            truth = images.masks[i, ..., 0][window]
            _picture(line[0], images.images[i][window])
            _truth(line[1], truth)
            for axes, one in zip(line[2:], runs, strict=True):
                found = probabilities[one.key.activation][i, ..., 0][window]
                level = float(one.found["validation"]["classes"][0]["best_threshold"])
                _probability(axes, found, level)
                names = {"image": images.names[i], "activation": one.key.activation}
                rows.append(names | _numbers(found, truth, level))
            line[0].set_ylabel(images.names[i].rpartition("/")[2][:14], size=7)
        for axes, one in zip(grid[0, 2:], runs, strict=True):
            level = one.found["validation"]["classes"][0]["best_threshold"]
            axes.set_title(f"{shown(one.key.activation)}\nline at {level:g}", size=8)
        for axes, name in zip(grid[0, :2], columns, strict=False):
            axes.set_title(name, size=8)
        _key(figure, left_out=any(axes.collections for axes in grid[:, 1]))
        return figure, rows


def _window(mask: Array) -> tuple[slice, slice]:
    """The window of a large image with the most positives, in steps of half its size."""
    places = product(*(range(0, max(1, n - WINDOW // 2), WINDOW // 2) for n in mask.shape))
    windows = [
        tuple(
            slice(max(0, min(start, n - WINDOW)), max(0, min(start, n - WINDOW)) + WINDOW)
            for start, n in zip(place, mask.shape, strict=True)
        )
        for place in places
    ]
    rows, columns = max(windows, key=lambda window: int((mask[window] == 1).sum()))
    return rows, columns


def _bare(axes: Any) -> None:
    axes.set(xticks=[], yticks=[])


def _picture(axes: Any, image: Array) -> None:
    """Three channels of uint8 as colours; otherwise the first channel, darkest to lightest."""
    if image.shape[-1] == 3 and image.dtype == np.uint8:
        axes.imshow(image, interpolation="nearest")
    else:
        axes.imshow(image[..., 0], cmap="gray", interpolation="nearest")
    _bare(axes)


def _truth(axes: Any, truth: Array) -> None:
    """The truth: white is 1; ignored pixels are hatched."""
    axes.imshow(truth == 1, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    left_out = (truth == IGNORE).astype(float)
    if left_out.any():
        axes.contourf(left_out, levels=[0.5, 1.5], colors=["0.5"], hatches=["////"])
    _bare(axes)


def _probability(axes: Any, probability: Array, level: float) -> None:
    axes.imshow(probability, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    low, high = float(probability.min()), float(probability.max())
    if low < UNSURE[1] and high > UNSURE[0]:
        axes.contourf(probability, levels=UNSURE, colors=[SKY], alpha=0.45)
    if low < level < high:
        axes.contour(probability, levels=[level], colors=[VERMILLION], linewidths=1.0)
    _bare(axes)


def _key(figure: Any, left_out: bool) -> None:
    """The legend of the colours."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    low, high = UNSURE
    handles: list[Any] = [
        Line2D([], [], color=VERMILLION, linewidth=1.0, label="the best threshold"),
        Patch(facecolor=SKY, alpha=0.45, label=f"probability from {low:g} to {high:g}"),
    ]
    if left_out:
        handles.append(Patch(facecolor="0.5", hatch="////", label="left out"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _numbers(probability: Array, truth: Array, level: float) -> dict[str, float]:
    """Dice at the threshold and the share of the band, over the shown pixels that count."""
    counts = truth != IGNORE
    predicted, positive = probability[counts] > level, truth[counts] == 1
    whole = int(predicted.sum() + positive.sum())
    unsure = (probability[counts] > UNSURE[0]) & (probability[counts] < UNSURE[1])
    return {
        "threshold": level,
        "dice": 2 * int((predicted & positive).sum()) / whole if whole else 1.0,
        "unsure": float(unsure.mean()) if unsure.size else 0.0,
    }
