"""One list of colours: an activation looks the same in every figure."""

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the scripts, benchmarks and examples are not installed

from parity.report import palette  # noqa: E402
from parity.suite.case import ACTIVATIONS  # noqa: E402

# Colours that are written elsewhere, with the reason.
OTHERS = {
    "parity/report/convention_figure.py": {"#A6D8F7", "#D08000"},  # wide lines below others: tints
    "parity/report/figures.py": {
        "#010101",
        "#020202",
        "#030303",
        "#040404",
    },  # the page's, stand-ins
}
COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b|\b(?:tab|xkcd):\w+|[\"']C\d[\"']")


def test_colours_are_written_in_one_place():
    folders = ("parity", "benchmarks", "examples", "scripts", "segact_torch", "segact_tf")
    found = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        colours = set(COLOUR.findall(path.read_text()))
        if colours and path != Path(palette.__file__):
            found[str(path.relative_to(ROOT))] = colours
    assert found == OTHERS


def test_activations_are_told_apart_with_and_without_colour():
    assert tuple(palette.ACTIVATIONS) == ACTIVATIONS
    for part in ("color", "marker", "linestyle"):
        assert len({str(look[part]) for look in palette.ACTIVATIONS.values()}) == len(ACTIVATIONS)


def colours(figure, names):
    """Of the lines that are labelled so, by activation."""
    found = {}
    for axes in figure.axes:
        for line in axes.lines:
            name = names.get(line.get_label())
            if name is not None:
                found.setdefault(name, set()).add(line.get_color())
    return found


def wanted(names):
    return {name: {palette.ACTIVATIONS[name]["color"]} for name in names}


@pytest.mark.needs("torch")
def test_the_figure_of_the_activations():
    from scripts import draw_activations

    figure = draw_activations.draw()
    assert colours(figure, {name: name for name in ACTIVATIONS}) == wanted(ACTIVATIONS)
    named = figure.axes[1].texts[: len(ACTIVATIONS)]
    assert {text.get_text(): {text.get_color()} for text in named} == wanted(ACTIVATIONS)


@pytest.mark.needs("scipy", "mpmath", "typer")
def test_the_figure_of_the_argument():
    from examples.segmentation import figures

    figure, _ = figures.argument()
    names = {name: name for name in ACTIVATIONS}
    assert colours(figure, names) == wanted([name for name in ACTIVATIONS if name != "linear"])


@pytest.mark.needs("torch", "rich")
def test_the_figure_of_the_benchmarks():
    """Drawn of the committed numbers; no bar starts on a logarithmic axis."""
    import json

    from benchmarks import figure as of_benchmarks
    from benchmarks import report

    results = report.Results.from_dict(json.loads((ROOT / "docs/performance.json").read_text()))
    drawn = of_benchmarks.figure(results)
    if report.by_size(results):
        names = {f"segact, {name}": name for name in ACTIVATIONS}
        assert colours(drawn, names) == wanted(["sigmoid", "normal_cdf", "arctan"])
    for axes in drawn.axes:
        assert axes.get_xscale() == "log"
        assert not axes.patches
    points = {
        float(line.get_xdata()[0])
        for axes in drawn.axes
        for line in axes.lines
        if line.get_linestyle() == "None"
    }
    assert {row.ratio[1] for row in results.rows if row.elements >= 1e5} <= points
