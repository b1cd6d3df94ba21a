"""`figures`: what is drawn of made-up sweeps, and the numbers behind it."""

import csv
import json
import math
import shutil
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from examples.common import charts
from examples.common.runs import RunError
from examples.common.statistics import Interval
from examples.segmentation import data, figures, overlays, results
from examples.segmentation.layouts import LAYOUTS
from examples.segmentation.metrics import CLIP, Tally
from parity.common.arrays import Array
from parity.report import palette

pytestmark = pytest.mark.needs("matplotlib", "scipy")

TORCH = {"data": "synthetic", "framework": "torch"}


@pytest.fixture
def sweep(make_sweep: Callable[..., Path]) -> Path:
    return make_sweep(activations=("sigmoid", "arctan"))


@pytest.fixture(autouse=True)
def _no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def names_of(figure: Any) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_files_appear_whole_with_the_numbers_behind(sweep: Path) -> None:
    paths = list(figures.draw(results.read(sweep), overlays=0))
    stems = ["argument", "differences_synthetic"]
    stems += [f"{name}_synthetic_torch" for name in ("reliability", "histograms", "errors")]
    wanted = {f"{stem}{suffix}" for stem in stems for suffix in (".png", ".svg", ".csv")}
    assert {path.name for path in paths} == wanted
    assert {path.name for path in (sweep / "figures").iterdir()} == wanted
    for path in paths:
        if path.suffix == ".png":
            assert path.read_bytes()[:4] == b"\x89PNG"
        elif path.suffix == ".svg":
            ElementTree.parse(path)
        else:
            with path.open(newline="") as file:
                assert len(list(csv.DictReader(file))) > 1


def test_the_argument_is_that_of_the_formulas() -> None:
    figure, rows = figures.argument()
    by: dict[str, Any] = {}
    for row in rows:
        by.setdefault(row["activation"], []).append((row["cross_entropy"], row["slope"]))
    u, slope = np.array(by["sigmoid"]).T
    np.testing.assert_allclose(slope, np.exp(-u) * -np.expm1(-u), rtol=1e-12)
    u, slope = np.array(by["arctan"]).T
    np.testing.assert_allclose(slope, np.sin(np.pi * np.exp(-u)) ** 2 / np.pi, rtol=1e-6)
    assert u[-1] == pytest.approx(-math.log(CLIP))
    assert {slope for _, slope in by["hardtanh"]} == {1.0}
    near, far = figure.axes
    assert far.get_yscale() == "log"
    said = [text.get_text() for text in far.texts]
    assert said == [
        "hardtanh",
        "normal CDF",
        "sigmoid",
        "inverse square root",
        "arctan",
        "softsign",
    ]
    places = [text.xy[1] for text in far.texts]
    assert min(a - b for a, b in pairwise(places)) > 0.049
    assert "nats" in near.get_xlabel()


def test_reliability_pools_the_pixels_of_all_runs(make_sweep: Callable[..., Path]) -> None:
    def found(**key: Any) -> dict[str, Any]:
        p = np.full((1, 1, 10 * (1 + 9 * key["fold"]), 1), 0.25)  # 10 pixels, and 100
        y = np.zeros(p.shape)
        y[..., :5, :] = 1
        tally = Tally()
        tally.update(p, y)
        return tally.result()

    sweep = results.read(make_sweep(losses=("dice",), activations=("sigmoid",), validation=found))
    figure, rows = figures.reliability(sweep, TORCH)
    (row,) = (row for row in rows if row["count"])
    assert (row["bin"], row["count"], row["runs"]) == (3, 110, 2)
    assert row["probability"] == pytest.approx(0.25)
    assert row["positive"] == pytest.approx(10 / 110)
    above, beneath = figure.axes
    assert [line.get_xydata().tolist() for line in above.lines[1:]] == [
        [[pytest.approx(0.25), pytest.approx(10 / 110)]]
    ]
    assert beneath.lines[0].get_ydata().tolist() == [1.0]
    _, rows = figures.histograms(sweep, TORCH)
    (row,) = (row for row in rows if row["negative"])
    assert (row["bin"], row["negative"], row["positive"]) == (12, 100, 10)


def test_every_activation_is_told_by_more_than_its_colour(sweep: Path) -> None:
    read = results.read(sweep)
    figure, _ = figures.reliability(read, TORCH)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["cross entropy", "Dice loss"]
    assert names_of(figure) == ["sigmoid", "arctan"]
    for axes in figure.axes[:2]:
        lines = axes.lines[1:]
        assert len({line.get_marker() for line in lines}) == len(lines) == 2
        assert len({str(line.get_linestyle()) for line in lines}) == 2
    figure, _ = figures.errors(read, TORCH)
    assert [len(axes.lines) for axes in figure.axes] == [2, 2]
    assert len({line.get_marker() for line in figure.axes[0].lines}) == 2


def test_styles_stay_with_the_activation() -> None:
    known = dict(zip(("sigmoid", "normal_cdf", "arctan"), palette.LOOKS, strict=False))
    styles = charts.line_styles(["arctan", "mine:f"], known)
    assert styles["arctan"] == charts.line_styles(["sigmoid", "arctan"], known)["arctan"]
    assert len({style["color"] for style in charts.line_styles(list("abcdefg")).values()}) == 7
    assert len(charts.line_styles(list("abcdefghij"))) == 10


def test_an_activation_of_ones_own_has_a_look_of_its_own() -> None:
    known = {f"known_{i}": look for i, look in enumerate(palette.LOOKS)}
    found = charts.line_styles(["known_0", "mine", "known_3"], known)
    assert found["known_3"] == known["known_3"]
    looks = [str(look) for look in found.values()]
    assert len(set(looks)) == 3


def test_one_that_is_far_beyond_does_not_hide_the_rest() -> None:
    def limit(*pairs: tuple[float, float]) -> float:
        return figures._limit([Interval(mean, half, 5) for mean, half in pairs])

    assert limit((0.01, 0.01), (-0.02, 0.01), (0.03, 0.01)) == 0
    assert limit((0.01, 0.01), (-0.02, 0.01), (-0.4, 0.1)) == pytest.approx(0.12)
    assert limit() == 0


def test_errors_are_at_their_least_over_thresholds(sweep: Path) -> None:
    read = results.read(sweep)
    _, rows = figures.errors(read, TORCH)
    assert len(rows) == 2 * 2 * 2
    for row in rows:
        result = read.results[results.Key(*list(row.values())[:6])]
        (one,) = result.found["validation"]["classes"]
        sums = [
            a + b
            for a, b in zip(one["false_positive_error"], one["false_negative_error"], strict=True)
        ]
        assert row["wrong_error"] == min(sums[1:-1]) > 0
        assert row["best_dice"] == max(one["dice"])


def test_differences_with_and_without_intervals(make_sweep: Callable[..., Path]) -> None:
    folder = make_sweep(frameworks=("torch", "keras-jax"), activations=("sigmoid", "arctan"))
    shutil.rmtree(folder / "runs" / "synthetic_keras-jax_arctan_dice_1_0")
    figure, rows = figures.forest(results.differences(results.read(folder)))
    assert len(figure.axes) == 5 * 2
    assert len(rows) == 2 * 2 * 5
    assert names_of(figure) == ["PyTorch", "Keras on JAX"]
    cross, dice = figure.axes[:2]
    assert [len(c.get_segments()) for c in cross.collections] == [1, 1]
    assert len(dice.collections) == 1  # one pair has no interval
    assert len(dice.containers) == 2
    verdicts = {(r["framework"], r["loss"], r["quantity"]): r["verdict"] for r in rows}
    for axes, loss in ((cross, "binary_cross_entropy"), (dice, "dice")):
        for container, framework in zip(axes.containers, ("torch", "keras-jax"), strict=True):
            filled = container.lines[0].get_markerfacecolor() != "white"
            assert filled == (verdicts[framework, loss, "mean_dice"] in ("higher", "lower"))
    assert verdicts["keras-jax", "dice", "mean_dice"] == "-"


def difference(activation: str, quantity: str, mean: float, half: float) -> results.Difference:
    found = Interval(mean, half, 5)
    return results.Difference(TORCH, "dice", activation, quantity, found, 5)


@pytest.mark.parametrize("quantity", results.QUANTITIES)
@pytest.mark.parametrize("side", [-1, 1])
def test_whatever_is_cut_at_the_edge_has_an_arrow(quantity: str, side: int) -> None:
    """An interval that goes on, and a mean beyond the edge; what ends inside has none."""
    near = [("sigmoid", 0.01, 0.01), ("normal_cdf", 0.0, 0.02), ("softsign", 0.02, 0.01)]
    found = [difference(*one[:1], quantity, side * one[1], one[2]) for one in near]
    found += [difference("arctan", quantity, side * 0.1, 0.06)]
    found += [difference("linear", quantity, side * 0.9, math.nan)]
    figure, _ = figures.forest(found)
    axes = figure.axes[list(results.QUANTITIES).index(quantity)]
    low, high = axes.get_xlim()
    edge = high if side > 0 else low
    assert 0.1 < abs(edge) < 0.16
    arrows = [text for text in axes.texts if text.arrow_patch is not None]
    assert [text.get_text() for text in arrows] == ["", f"{side * 0.9:+.2g}"]
    assert {text.xy[0] for text in arrows} == {edge}
    places = [text.xy[1] for text in arrows]
    assert [round(place) for place in places] == [3, 4]


def test_titles_name_the_data_and_the_framework(make_sweep: Callable[..., Path]) -> None:
    assert {*figures._DATA} == {*LAYOUTS, "synthetic"} - {"processed"}
    for source, shown in (
        ("dsb2018:/tmp/dsb2018_96", "Cell nuclei (DSB 2018)"),
        ("drive:/tmp/DRIVE", "Retinal vessels (DRIVE)"),
        ("kvasir:/tmp/k", "Polyps (Kvasir-SEG)"),
        ("processed:/tmp/ACDC", "ACDC"),
    ):
        group = {"data": results.shown_data(source), "framework": "keras-tensorflow"}
        assert figures.title(group) == f"{shown}, Keras on TensorFlow"
    read = results.read(make_sweep(data="dsb2018:/tmp/a_1", activations=("sigmoid", "arctan")))
    group = read.groups()[0]
    drawn = [of(read, group)[0] for of in figures._OF_GROUPS.values()]
    for figure in (*drawn, figures.forest(results.differences(read))[0]):
        assert figure.get_suptitle().startswith("Cell nuclei (DSB 2018)")
        assert "a_1" not in figure.get_suptitle()


def test_an_unfinished_sweep_is_drawn_as_far_as_it_is(sweep: Path) -> None:
    for path in (sweep / "runs").glob("*_arctan_dice_*"):
        shutil.rmtree(path)
    figure, _ = figures.histograms(results.read(sweep), TORCH)
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["no runs"]
    for path in (sweep / "runs").iterdir():
        shutil.rmtree(path)
    paths = list(figures.draw(results.read(sweep)))
    assert {path.stem for path in paths} == {"argument"}


def made_up(folder: Path, images: Array) -> Array:
    """Probabilities that rise from left to right, further for sigmoid."""
    count, height, width, _ = images.shape
    row = np.linspace(0, 1 if "sigmoid" in folder.name else 0.8, width, dtype=np.float32)
    return np.broadcast_to(row[:, None], (count, height, width, 1))


@pytest.mark.needs("PIL")
def test_overlays_of_images_of_validation(sweep: Path, tmp_path: Path) -> None:
    for path in (sweep / "runs").glob("*_arctan_dice_0_0"):
        shutil.rmtree(path)  # then the second fold is the one that both have
    paths = list(overlays.draw(results.read(sweep), tmp_path, 2, predict=made_up))
    stems = [f"overlays_synthetic_torch_{loss}" for loss in ("binary_cross_entropy", "dice")]
    assert [path.stem for path in paths if path.suffix == ".png"] == stems
    validation = [data.folds(data.synthetic().cases, 2)[fold][1] for fold in (0, 1)]
    for stem, mine in zip(stems, validation, strict=True):
        with (tmp_path / f"{stem}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["activation"] for row in rows] == ["sigmoid", "arctan"] * 2
        assert {row["image"] for row in rows} <= {f"synthetic/{i:03}" for i in mine}
        assert len({row["image"] for row in rows}) == 2


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (3, 3), (4, 4), (9, 4)])
def test_as_many_images_are_overlaid_as_there_are(sweep: Path, count: int, shown: int) -> None:
    names = [f"{i}" for i in range(8)]  # four for validation
    images, masks = np.zeros((8, 1, 1, 1), np.float32), np.zeros((8, 1, 1, 1), np.uint8)
    run = next(iter(results.read(sweep).results.values()))
    found = overlays._chosen(data.Samples(images, masks, names, names, "x:y"), run, count)
    assert len(set(found.names)) == len(found.names) == shown


@pytest.mark.needs("PIL")
def test_an_overlay_shows_line_and_band_and_what_is_left_out(sweep: Path) -> None:
    read = results.read(sweep)
    runs = [
        next(iter(read.cell(**TORCH, loss="dice", activation=name)[0].values()))
        for name in ("sigmoid", "arctan")
    ]
    images = np.zeros((1, 200, 140, 1), np.float32)
    masks = np.zeros((1, 200, 140, 1), np.uint8)
    masks[:, :, 70:], masks[:, 50:60] = 1, 255
    masks[:, 140:] = 0
    samples = data.Samples(images, masks, ["a"], ["a"], "x:y")
    found = {one.key.activation: made_up(one.folder, images) for one in runs}
    figure, rows = overlays.overlay("dice", samples, runs, found)
    image, truth, *predictions = figure.axes
    assert image.images[0].get_array().shape == (128, 128)  # rows from 0, columns from 12
    assert len(truth.collections) == 1
    for axes, one, row in zip(predictions, runs, rows, strict=True):
        level = one.found["validation"]["classes"][0]["best_threshold"]
        band, line = axes.collections
        np.testing.assert_array_equal(band.levels, [0.1, 0.9])
        (path,) = line.get_paths()
        values = found[one.key.activation][0, 0, :, 0]
        at = np.interp(level, values, np.arange(140)) - 12
        np.testing.assert_allclose(path.vertices[:, 0], at, atol=1e-3)
        assert (row["threshold"], row["image"]) == (level, "a")
        shown, positive = values[12:140], np.arange(12, 140) >= 70
        inside = ((shown > 0.1) & (shown < 0.9)).mean()
        assert row["unsure"] == pytest.approx(inside)
        dice = 2 * ((shown > level) & positive).sum() / ((shown > level).sum() + positive.sum())
        assert row["dice"] == pytest.approx(dice)
    labels = names_of(figure)
    assert labels == ["the best threshold", "probability from 0.1 to 0.9", "left out"]


def test_another_framework_is_refused(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--framework keras-jax; there are results of torch"):
        list(overlays.draw(results.read(sweep), tmp_path, 1, "keras-jax", made_up))


def test_names_of_files_have_no_folders(make_sweep: Callable[..., Path]) -> None:
    folder = make_sweep(
        data="dsb2018:/some/where/nuclei", losses=("dice",), activations=("sigmoid",)
    )
    paths = list(figures.draw(results.read(folder), overlays=0))
    assert "errors_dsb2018-nuclei_torch.png" in {path.name for path in paths}
    for path in paths:
        if path.suffix != ".png":
            assert "/some/where" not in path.read_text()
    assert "/some/where" in json.dumps([p.read_text() for p in folder.glob("runs/*/config.json")])
