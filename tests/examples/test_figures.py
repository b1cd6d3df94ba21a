"""`figures`: the losses, the pictures, and the numbers behind them."""

import csv
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from examples.cats_vs_dogs import clipping, figures
from examples.common.batches import batches
from examples.common.runs import Run, RunError
from parity.suite.case import CONVENTIONS

pytestmark = pytest.mark.needs("matplotlib", "scipy")

DOGS = (0.5, 3.0, 15.0, 20.0, -1.0, -20.0, 8.0, 9.0)
"""Two past the limits, on either side."""
BOTH = {"epoch_8": [value / 4 for value in DOGS], "full": DOGS}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.needs("torch")
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_losses_are_those_of_segact(convention: str) -> None:
    import torch

    import segact_torch

    raw = np.linspace(-30, 30, 601, dtype=np.float32)
    p = clipping.probabilities(raw, "sigmoid")
    for label in (0, 1):
        labels = np.full(raw.shape, label)
        y = torch.full(raw.shape, float(label))
        theirs = segact_torch.binary_cross_entropy(
            torch.from_numpy(p), y, from_logits=False, convention=convention, reduction="none"
        )
        ours = clipping.from_probabilities(p, labels, convention)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=3e-7, atol=0)
        exact = segact_torch.binary_cross_entropy(
            torch.from_numpy(raw).double(), y.double(), reduction="none"
        )
        np.testing.assert_allclose(
            clipping.from_raw_outputs(raw, labels), exact.numpy(), rtol=1e-12
        )


def test_where_float32_stops() -> None:
    ulp = 2.0**-23
    assert clipping.limits("keras", 0) == pytest.approx((ulp, -math.log(ulp)))
    assert clipping.limits("keras", 1) == pytest.approx((ulp, -math.log(1e-7)))
    assert clipping.limits("torch", 0) == (0.0, 100.0)
    assert clipping.raw_limit("sigmoid") == pytest.approx(16.118, abs=1e-3)
    assert clipping.raw_limit("arctan") == pytest.approx(1e7 / math.pi, rel=1e-6)


def test_files_appear_whole_with_the_numbers_behind(make_run: Callable[..., Path]) -> None:
    folder = make_run("run", BOTH)
    paths = figures.draw(folder)
    stems = [f"{when}_keras{more}" for when in BOTH for more in ("", "_batches_of_4")]
    wanted = {f"{stem}{suffix}" for stem in stems for suffix in (".png", ".svg", ".csv")}
    assert {path.name for path in paths} == wanted
    assert {path.name for path in (folder / "figures").iterdir()} == wanted
    for path in paths:
        if path.suffix == ".png":
            assert path.read_bytes()[:4] == b"\x89PNG"
        elif path.suffix == ".svg":
            ElementTree.parse(path)
    rows = read(folder / "figures" / "full_keras.csv")
    assert len(rows) == 2 * 2 * len(DOGS)
    (row,) = (
        row
        for row in rows
        if (row["split"], row["label"], float(row["raw_output"])) == ("validation", "1", 20)
    )
    assert row["name"] == "validation/11.jpg"
    assert float(row["loss_from_probability"]) == pytest.approx(2.0**-23)
    assert float(row["loss_from_raw_output"]) == pytest.approx(math.log1p(math.exp(-20)))
    wrong = [float(r["loss_from_probability"]) for r in rows if r["split"] == "train"]
    assert max(wrong) == pytest.approx(-math.log(1e-7))


def test_batches_are_those_of_the_first_epoch(make_run: Callable[..., Path]) -> None:
    folder = make_run("run", BOTH, seed=3)
    figures.draw(folder)
    dogs = np.array(DOGS, np.float64)
    exact = np.logaddexp(0, -np.concatenate([dogs, dogs]))
    rows = read(folder / "figures" / "full_keras_batches_of_4.csv")
    mine = [float(r["loss_from_raw_output"]) for r in rows if r["split"] == "train"]
    assert mine == pytest.approx([exact[b].mean() for b in batches(16, 4, seed=3, epoch=0)])


def test_axes_are_logarithmic_with_the_limits_drawn(make_run: Callable[..., Path]) -> None:
    splits = clipping.splits_of(Run.open(make_run("run", BOTH)), "full")
    axes = figures._samples_figure(splits, "title", "keras", 16.118).axes[2]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    level = {line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"}
    assert {-math.log1p(-1e-7), -math.log(1e-7)} <= level
    words = " ".join(text.get_text() for text in axes.texts)
    assert "16.118; in float32 15.942" in words
    assert "1.00e-07; in float32 1.19e-07" in words
    markers = {str(c.get_paths()[0].vertices.shape) for c in axes.collections}
    assert len(markers) == 2  # cats and dogs differ by more than their colour
    assert axes.get_title() == "6 of 16 samples differ by more than 1 %"


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_convention_draws_without_a_warning(
    convention: str, make_run: Callable[..., Path]
) -> None:
    splits = clipping.splits_of(
        Run.open(make_run("run", {"full": [40.0, -40.0, 200.0, 1.0]})), "full", convention
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures._samples_figure(splits, "title", convention, 16.118)
        figure.canvas.draw()
    said = " ".join(text.get_text() for text in figure.axes[2].texts)
    assert ("losses of 0" in said) == (convention in ("keras2", "torch", "torch_legacy"))


def test_the_title_says_whether_images_are_drawn(make_run: Callable[..., Path]) -> None:
    drawn = Run.open(make_run("drawn", BOTH, synthetic=True, size=64))
    real = Run.open(make_run("real", BOTH, framework="keras", backend="jax"))
    assert figures._title(drawn, "full") == (
        "After full training (9 epochs): synthetic images at 64 x 64 pixels, PyTorch"
    )
    assert figures._title(real, "epoch_8") == (
        "After epoch 8: photographs at 150 x 150 pixels, Keras on JAX"
    )


def test_an_unfinished_run_is_drawn_as_far_as_it_is(make_run: Callable[..., Path]) -> None:
    paths = figures.draw(make_run("run", {"epoch_8": DOGS}), "torch")
    assert {path.name for path in paths if path.suffix == ".png"} == {
        "epoch_8_torch.png",
        "epoch_8_torch_batches_of_4.png",
    }


@pytest.mark.parametrize(
    ("outputs", "options", "convention", "words"),
    [
        ({}, {}, None, "no raw outputs yet; it keeps those of epoch 8 first"),
        (BOTH, {}, "keras4", "--convention keras4; wanted one of keras, keras2"),
        (BOTH, {"activation": "hardtanh"}, None, "--activation hardtanh; figures and claims"),
        ({"full": [1.0, math.nan]}, {}, None, "full: 2 of 4 raw outputs are not finite"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_no_file(
    make_run: Callable[..., Path], outputs: dict, options: dict, convention: str, words: str
) -> None:
    folder = make_run("run", outputs, **options)
    with pytest.raises(RunError, match=words):
        figures.draw(folder, convention)
    assert not (folder / "figures").exists()
