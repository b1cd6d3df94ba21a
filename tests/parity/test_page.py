"""The report: the page loads nothing, says what was found and fits on a phone; JUnit counts."""

import html
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from junitparser import Failure, JUnitXml
from typer.testing import CliRunner

from parity import cli
from parity.accuracy import bounds
from parity.accuracy import sweep as dense
from parity.judge import curves, worker
from parity.judge import run as runner
from parity.judge.curves import ErrorCurves
from parity.judge.judgement import Judgement, judge
from parity.judge.run import Outcome
from parity.reference import REFERENCE_PATH
from parity.reference import float64 as oracle
from parity.report import accuracy_tables as report
from parity.report import figures, junit, page
from parity.suite.case import ACTIVATIONS, SMOOTH, Case
from parity.suite.records import Record
from parity.training.run import Options, Training, Trainings

Run = Callable[..., subprocess.CompletedProcess[str]]
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


def planted(case: Case, found: dict[str, Any]) -> None:
    """Two errors: 100 ulp at one x, NaN in one gradient."""
    if case.name == "grid-float32/arctan/logcdf":
        found["value"][40] *= np.float32(1 + 100 * 2.0**-23)
    if case.name == "volume-soft-float64/softsign/jaccard":
        found["grad_x"].flat[0] = np.nan


@pytest.fixture(scope="module")
def records(
    tmp_path_factory: pytest.TempPathFactory, perfect_record_in: Callable[..., Path]
) -> dict[str, Record]:
    """torch as good as the reference, a Keras that is not, and one that is."""
    folder = tmp_path_factory.mktemp("records")
    return {
        "good": Record.load(perfect_record_in(folder, "torch")),
        "bad": Record.load(perfect_record_in(folder, "keras-jax", change=planted)),
    }


@pytest.fixture(scope="module")
def good(records: dict[str, Record]) -> Judgement:
    skipped = Outcome("keras-jax", skipped="jax is not installed")
    return judge([Outcome("torch", records["good"], seconds=2.0), skipped], swept=False)


@pytest.fixture(scope="module")
def bad(records: dict[str, Record]) -> Judgement:
    outcomes = [Outcome("keras-jax", records["bad"]), Outcome("torch", records["good"])]
    return judge([*outcomes, Outcome("keras-torch", error="exit code 1\n\x1b[31m<oops>")], False)


def trainings(factor: float = 1.0) -> Trainings:
    """Two curves of 40 steps, the second off by a factor from step 20 on."""
    losses = [1.5 * 0.97**step for step in range(40)]
    other = [loss * (factor if step >= 20 else 1 + 1e-7) for step, loss in enumerate(losses)]
    runs = [
        Training("adam", dtype, "dice_cross_entropy", "arctan", bound, {"torch": a, "keras-jax": b})
        for dtype, bound, a, b in (
            ("float32", 1e-4, losses, other),
            ("float64", 1e-9, losses, losses),
        )
    ]
    return Trainings(runs, skipped={"keras-torch": "keras is not installed"})


CHECKS = [
    {"name": "a.py::test_one", "what": "f against g", "passed": True, "share": 0.02}
    | {"rtol": 1e-5, "message": ""},
    {"name": "a.py::test_<b>", "what": "h against g", "passed": False, "share": "inf"}
    | {"rtol": None, "message": "gradients differ:\n  a < b & c\x00"},
]


class Tags(HTMLParser):
    """Every tag with its attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))


def words(text: str) -> str:
    """What is read, without tags."""
    body = text[text.index("<body>") :]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


@pytest.fixture(scope="module")
def whole(bad: Judgement) -> str:
    """A page with everything."""
    return page.html(bad, trainings(1.01), CHECKS)


def test_a_run_that_passes_says_so(good: Judgement) -> None:
    text = words(page.html(good, trainings()))
    assert text.startswith("segact-parity passed ")
    assert "FAIL" not in text
    assert "keras-jax skipped: jax is not installed" in text
    for heading in ("Accuracy", "Errors along the raw output", "Loss and gradient", "Training"):
        assert heading in text
    assert f"{sum(m.count for m in good.measurements):,} comparisons" in text
    for row in report.markdown(good).splitlines()[2:]:
        assert " ".join(row.replace(" / ", "/").replace("|", " ").split()) in text
    assert "Without the dense sweep" in text
    for name, version in good.outcomes[0].record.versions.items():  # type: ignore[union-attr]
        assert f"{name} {version}" in text


def test_everything_that_fails_is_listed(bad: Judgement, whole: str) -> None:
    text = words(whole)
    assert text.startswith("segact-parity FAILED ")
    lines = page.failures(bad, trainings(1.01), CHECKS)
    assert len(lines) == len(bad.failures()) + 1 + 1
    for line in (line for line in lines if "\x1b" not in line):
        assert " ".join(line.split()) in text
    assert "arctan logcdf value at x=" in text
    assert "keras-jax differs from torch in adam float32 at step 20" in text
    assert '<b class="bad">inf' in whole
    assert "gradients differ: a < b & c" in text
    assert "<oops>" not in whole
    assert "test_<b>" not in whole


def test_long_lists_of_failures_are_cut(bad: Judgement) -> None:
    checks = [CHECKS[1] | {"name": f"test_{i}"} for i in range(100)]
    text = words(page.html(checks=checks))
    assert "test_59: h against g and 40 more: report.json" in text


def test_every_part_may_be_absent(tmp_path: Path) -> None:
    page.write(tmp_path / "a" / "b")
    assert "FAILED nothing was checked" in words((tmp_path / "a/b/index.html").read_text())
    page.write(tmp_path, checks=CHECKS[:1])
    text = (tmp_path / "index.html").read_text()
    assert words(text).startswith("segact-parity passed 1 check in tests, 0 failed.")
    assert "numpy" in words(text)
    assert json.loads((tmp_path / "report.json").read_text())["checks"] == CHECKS[:1]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a", *page.FILES])
    page.write(tmp_path, trainings=trainings())
    assert "2 trainings, compared" in words((tmp_path / "index.html").read_text())
    assert "nothing was judged" in words(page.html(Judgement([])))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        page.write(tmp_path / "file")


def test_json_has_everything(tmp_path: Path, bad: Judgement) -> None:
    page.write(tmp_path, bad, trainings(1.01), CHECKS)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["passed"] is False
    assert found["failures"] == page.failures(bad, trainings(1.01), CHECKS)
    assert len(found["measurements"]) == len(bad.measurements)
    assert len(found["trainings"]["trainings"]) == 2
    assert (tmp_path / "index.html").stat().st_size < 1_500_000


def test_the_page_loads_nothing(whole: str) -> None:
    tags = Tags(whole).found
    assert not {tag for tag, _ in tags} & {"script", "img", "iframe", "object", "embed", "image"}
    policy = next(a["content"] for _, a in tags if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not re.search(r"https?:|@import|@font-face", whole)
    for _, attributes in tags:
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#") or attributes["href"] == "data:,"
        assert not any(name.startswith("on") for name in attributes)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", whole))


def test_ids_are_unique_and_references_lead_somewhere(whole: str) -> None:
    tags = Tags(whole).found
    ids = Counter(a["id"] for _, a in tags if "id" in a)
    assert [name for name, count in ids.items() if count > 1] == []
    targets = {a["href"][1:] for _, a in tags if a.get("href", "").startswith("#")}
    targets |= {target[1:] for target in re.findall(r"url\(([^)]*)\)", whole)}
    targets |= {a["aria-labelledby"] for _, a in tags if "aria-labelledby" in a}
    assert len(targets) > 50
    assert targets <= set(ids)


def test_the_page_is_accessible(whole: str) -> None:
    tags = Tags(whole).found
    assert ("html", {"lang": "en"}) in tags
    assert "<title>segact-parity: FAILED</title>" in whole
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    labels = [a["aria-label"] for tag, a in tags if tag == "figure"]
    assert len(labels) == len(set(labels)) == len(ACTIVATIONS) + len(SMOOTH) + 2
    assert all(re.search(r"\d", label) for label in labels)
    assert 'scope="col"' in whole
    assert 'scope="row"' in whole


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_are_those_of_the_page_and_have_contrast(whole: str) -> None:
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6})", block))
        for block in re.findall(r":root \{(.*?)\}", whole, re.DOTALL)
    )
    assert light.keys() == dark.keys()
    used = set(re.findall(r"var\(--([\w-]+)\)", whole))
    assert used | {style.variable[2:] for style in figures.STYLES.values()} == light.keys()
    body = whole[whole.index("<body>") :]
    assert not re.findall(r"(?:stroke|fill|color): ?(?:#|rgb|black|white)", body)
    for mode in (light, dark):
        for name in mode.keys() - {"paper", "rule"}:
            needed = 2.9 if name == "pale" else 4.5  # a wide line, beside a thin one
            assert _contrast(mode[name], mode["paper"]) >= needed, name


def test_figures_are_text_and_curves() -> None:
    found = ErrorCurves()
    for activation, part in (("arctan", "value"), ("arctan", "grad_x")):
        x = np.linspace(-50, 50, 99).astype("f4")
        case = Case("grid", "float32", activation, "cdf")
        found.add(case, part, {"x": x}, np.full(99, 1.5))
    drawing = figures.error_figure("arctan", {"torch": found})
    assert drawing is not None
    assert drawing.words == "worst error in ulp of values: torch 1.5; " + (
        "worst error in ulp of gradients: torch 1.5"
    )
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)
    assert {"raw output x", "torch", "4", "8", "100"} <= set(texts)
    assert "var(--line-1)" in drawing.svg
    assert figures.error_figure("sigmoid", {"torch": found}) is None
    assert ElementTree.fromstring(drawing.svg).tag == "svg"
    # what lies beyond the panel gets a cross at its edge
    crosses = drawing.svg.count("var(--bad)")
    found.add(case, "value", {"x": x}, np.where(x > 40, np.inf, 0))
    worse = figures.error_figure("arctan", {"torch": found})
    assert worse is not None
    assert worse.svg.count("var(--bad)") > crosses
    assert "torch inf" in worse.words


def test_training_figures_show_the_bound_and_the_worst() -> None:
    drawing = figures.training_figure(trainings(1.01).runs[0])
    assert drawing.title == "adam, float32"
    assert drawing.words == "largest difference from torch: keras-jax 1.0e-02"
    assert {"bound", "0.0001"} <= set(re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg))
    alone = Training("sgd", "float32", "dice", "arctan", 1e-4, {"keras-jax": [1.0, float("nan")]})
    assert "keras-jax" in figures.training_figure(alone).words


def test_no_curve_is_drawn_over_the_words_of_a_bound() -> None:
    """They stand beside the panels, where the curves are clipped, and not over each other."""
    found = {}
    for name, error in (("torch", 3.9), ("keras-jax", 7.9), ("keras-torch", 4.1)):
        found[name] = ErrorCurves()
        for part in ("value", "gradient"):
            found[name].worst["arctan", part] = np.full(curves.BINS + 2, error)
    drawings = [figures.error_figure("arctan", found), figures.training_figure(trainings().runs[0])]
    for drawing, wanted in zip(drawings, (8, 2), strict=True):
        assert drawing is not None
        panels = re.findall(r'<clipPath[^>]*>\s*<rect x="([\d.]+)".*?width="([\d.]+)"', drawing.svg)
        right = max(float(x) + float(width) for x, width in panels)
        text = r'var\(--bad\)" transform="translate\(([\d.]+) ([\d.]+)\)">([^<]*)</text>'
        placed = re.findall(text, drawing.svg)
        assert len(placed) == wanted
        assert all(float(x) > right for x, _, _ in placed)
        heights = sorted(float(y) for _, y, _ in placed)
        assert all(b - a > 10 for a, b in pairwise(heights))


@pytest.mark.parametrize(
    ("x", "position"), [(0, 0), (-0.5, -0.5), (1, 1), (10, 2), (-1e4, -5), (3e38, 39.477)]
)
def test_the_axis_is_linear_inside_and_logarithmic_outside(x: float, position: float) -> None:
    assert curves.position(np.array([x]))[0] == pytest.approx(position, abs=1e-3)


def test_errors_fall_into_the_bin_of_their_x() -> None:
    x = np.array([-np.inf, -1e4, -1.0, 0.0, 99.0, 1e4, 1.1e4], "f4")
    found = ErrorCurves()
    case = Case("grid", "float32", "softsign", "cdf")
    found.add(case, "value", {"x": x}, np.arange(1.0, 8.0))
    along = found.along("softsign", "value")
    where = np.flatnonzero(~np.isnan(along))
    assert along[where].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert where[[0, 1, -2, -1]].tolist() == [0, 1, curves.BINS, curves.BINS + 1]
    half = curves.END / curves.BINS
    inside = where[1:-1]
    assert np.all(np.abs(curves.CENTRES[inside] - curves.position(x[1:-1])) <= half * 1.001)
    # what is no elementwise float32 error is left out
    for other, part in (
        (Case("grid", "float64", "softsign", "cdf"), "value"),
        (Case("linear", "float32", "linear", "cdf"), "grad_x"),
        (Case("volume-soft", "float32", "softsign", "dice"), "grad_x"),
        (Case("probabilities", "float32", "softsign", "ppf"), "value"),
    ):
        found.add(other, part, {"x": x, "p": x}, np.full(7, 99.0))
    assert found.worst.keys() == {("softsign", "value")}
    again = ErrorCurves()
    again.merge(json.loads(json.dumps(found.as_dict())))
    again.merge({"softsign": {"value": [0.5] * len(along)}})
    assert again.along("softsign", "value")[where].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert np.nanmin(again.along("softsign", "value")) == 0.5


def test_the_highest_point_is_the_number_in_the_table(bad: Judgement) -> None:
    for name, found in bad.error_curves.items():
        for activation in ACTIVATIONS:
            for kind in ("value", "gradient"):
                worst = [
                    m.error
                    for m in bad.measurements
                    if (m.left, m.activation, m.dtype, m.unit)
                    == (name, activation, "float32", "ulp")
                    and m.against_exact
                    and m.quantity != "ppf"
                    and m.part == ("value" if kind == "value" else "grad_x")
                ]
                along = found.along(activation, kind)
                assert np.nanmax(along, initial=0.0) == max(worst, default=0.0)
    arctan = bad.error_curves["keras-jax"].along("arctan", "value")
    x = bad.outcomes[0].record.inputs("grid-float32")["x"][40]  # type: ignore[union-attr]
    at = curves.CENTRES[np.nanargmax(arctan)]
    assert np.nanmax(arctan) > 90
    assert abs(at - curves.position(x)) <= curves.END / curves.BINS


def test_the_dense_sweep_gives_its_errors_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, records: dict[str, Record]
) -> None:
    monkeypatch.setattr(dense, "COUNT", 1 << 10)
    monkeypatch.setattr(dense, "CHUNK", 1 << 9)
    monkeypatch.setattr(dense, "FAR_COUNT", 1 << 8)
    monkeypatch.setattr(dense, "ACTIVATIONS", ("arctan", "linear"))

    def evaluate(case: Case, inputs: dict[str, Any]) -> dict[str, Any]:
        with np.errstate(all="ignore"):
            found = {k: v.astype("f4") for k, v in oracle.evaluate(case.bind(inputs)).items()}
        if (case.activation, case.quantity) == ("arctan", "sf"):
            found["value"] = np.where(inputs["x"] > 5e3, 1.001, 1).astype("f4") * found["value"]
        return found

    worker._sweep("torch", evaluate, tmp_path / "sweep.json")
    measured, figures = runner._read_sweep(tmp_path / "sweep.json")
    outcome = Outcome("torch", records["good"], sweep=measured, curves=figures)
    along = judge([outcome], swept=False).error_curves["torch"].along("arctan", "value")
    values = [m for m in measured if m.part == "value" and m.quantity != "ppf"]
    worst = max(m.error for m in values if m.activation == "arctan")
    assert np.nanmax(along) == worst > 1000
    assert set(np.flatnonzero(along > 10)) <= {*range(curves.BINS - 3, curves.BINS + 2)}
    assert np.count_nonzero(~np.isnan(along)) > 0.9 * len(along)


def test_loss_curves_part_where_the_published_formula_does(records: dict[str, Record]) -> None:
    reference = Record.load(REFERENCE_PATH)
    found = {curve.activation: curve for curve in curves.loss_curves([records["good"]], reference)}
    assert tuple(found) == SMOOTH
    curve = found["normal_cdf"]
    assert curve.x[0] == -bounds.FAR
    assert curve.loss["exact"][0] == pytest.approx(5e7, rel=1e-4)
    assert curve.loss["ours"] == pytest.approx(curve.loss["exact"], rel=1e-6, abs=1e-37)
    assert curve.gradient["exact"][0] == pytest.approx(-1e4, rel=1e-4)
    drawing = figures.loss_figure(curve)
    assert drawing.words == "loss at x = -1e4: exact 5e+07, ours 5e+07"
    assert "1e-9" in drawing.svg


@pytest.mark.needs("torch")
def test_the_published_formula_is_evaluated_with_its_gradient() -> None:
    from parity.judge.adapters import load
    from parity.suite.cases import baseline_cases

    case = next(c for c in baseline_cases("torch") if c.activation == "normal_cdf")
    x = np.array([-100.0, -1.0], "f4")
    found = load("torch", "cpu")(case, {"x": x, "y": x})
    assert found["value"][0] == pytest.approx(16.118, abs=1e-3)
    assert found["grad_x"][0] == 0
    assert found["grad_x"][1] == pytest.approx(-1.5251, abs=1e-3)


def test_junit_counts_and_parses_back(bad: Judgement) -> None:
    xml = JUnitXml.fromstring(junit.text(bad, trainings(1.01), CHECKS).encode())
    suites = {suite.name: suite for suite in xml}
    assert list(suites) == [
        *("keras-jax", "torch", "keras-torch", "keras-jax against torch", "training", "checks")
    ]
    assert (suites["torch"].failures, suites["torch"].skipped) == (0, 0)
    assert suites["keras-torch"].errors == suites["keras-torch"].tests == 1
    parts = {
        (m.dtype, m.activation, m.quantity, m.part)
        for m in bad.measurements
        if (m.left, m.against_exact) == ("torch", True)
    }
    assert suites["torch"].tests == len(parts)
    assert suites["training"].tests == 2 * 2 + 1
    assert (suites["training"].failures, suites["training"].skipped) == (1, 1)
    assert (suites["checks"].tests, suites["checks"].failures) == (2, 1)
    # as many failures as there are lines, each its line
    assert xml.failures + xml.errors == len(page.failures(bad, trainings(1.01), CHECKS))
    assert xml.tests == sum(suite.tests for suite in xml)
    failed = {
        result.message: case
        for suite in xml
        for case in suite
        for result in case.result
        if isinstance(result, Failure)
    }
    assert set(bad.failures()[1:]) < set(failed)
    line = next(line for line in bad.failures() if "arctan logcdf" in line)
    case = failed[line]
    assert (case.classname, case.name) == ("keras-jax.float32", "arctan logcdf value")
    assert failed["gradients differ:"].result[0].text.strip() == "a < b & c?"


def test_junit_says_what_was_skipped_and_that_nothing_ran(good: Judgement) -> None:
    suites = {s.name: s for s in JUnitXml.fromstring(junit.text(good).encode())}
    assert suites["keras-jax"].skipped == 1
    asked = Judgement(good.outcomes[1:], required=frozenset(["keras-jax"]))
    xml = JUnitXml.fromstring(junit.text(asked).encode())
    assert [(s.name, s.failures, s.skipped) for s in xml] == [("keras-jax", 1, 0), ("run", 1, 0)]
    assert xml.failures == len(asked.failures())


def test_a_folder_that_cannot_be_written_is_refused(segact_parity: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full" / "junit.xml").mkdir(parents=True)
    for path, reason in (("file", "wanted a folder"), ("full", "junit.xml: cannot write there")):
        result = segact_parity("run", "--report", path)
        assert result.returncode == 2
        assert reason in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.needs("torch")
def test_run_trains_and_writes_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = tmp_path / "a/b", []

    def train(names: list[str], options: Options, progress: object) -> Trainings:
        asked.append((names, options))
        return trainings(1.01)

    monkeypatch.setattr(cli.run.training, "run", train)
    command = ["run", "--implementation", "torch", "--no-dense", "--report", str(folder)]
    result = CliRunner().invoke(cli.app, command)
    assert asked == [(["torch"], Options())]
    assert result.exit_code == 1  # the training fails, and nothing else
    assert result.stdout.splitlines()[-1] == f"report: {folder / 'index.html'}"
    assert sorted(path.name for path in folder.iterdir()) == sorted(page.FILES)
    text = (folder / "index.html").read_text()
    assert words(text).startswith("segact-parity FAILED ")
    assert "published 16.1" in text
    assert "adam, float64" in text
    suites = JUnitXml.fromfile(str(folder / "junit.xml"))
    assert [(suite.name, suite.failures) for suite in suites] == [("torch", 0), ("training", 1)]


_MEASURE = """<!DOCTYPE html><pre id="found"></pre>
<iframe id="phone" width="360" height="740" srcdoc="PAGE"></iframe>
<iframe id="desk" width="1280" height="900" srcdoc="PAGE"></iframe>
<script>
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, view = frame.contentWindow;
    const boxes = [...page.querySelectorAll("figure svg")].map(s => s.getBoundingClientRect());
    const sizes = [...page.querySelectorAll("figure svg text")].map(t =>
      parseFloat(view.getComputedStyle(t).fontSize) * t.getScreenCTM().a);
    found[frame.id] = {
      width: page.documentElement.scrollWidth,
      inner: view.innerWidth,
      requests: view.performance.getEntriesByType("resource").length,
      smallest: [Math.min(...boxes.map(b => b.width)), Math.min(...boxes.map(b => b.height))],
      text: Math.min(...sizes),
      columns: boxes.filter(b => b.top === boxes[0].top).length,
      paper: view.getComputedStyle(page.body).backgroundColor,
      // what hides columns has a shade there, which no cell but the names covers
      cut: [...page.querySelectorAll(".scroll")].filter(s => s.scrollWidth > s.clientWidth).map(s =>
        [view.getComputedStyle(s).backgroundAttachment,
         ...new Set([...s.querySelectorAll("td, thead th")].map(c =>
           view.getComputedStyle(c).backgroundColor))]),
    };
  }
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>
"""


@pytest.mark.parametrize(("mode", "paper"), [("1", "rgb(255, 255, 255)"), ("0", "rgb(20, 23, 27)")])
@pytest.mark.skipif(not BROWSER, reason="no chromium and no google-chrome on the PATH")
def test_in_a_browser(whole: str, tmp_path: Path, mode: str, paper: str) -> None:
    """On a phone and on a desktop, light and dark: nothing overflows, is requested or complains."""
    (tmp_path / "wrapper.html").write_text(_MEASURE.replace("PAGE", html.escape(whole)))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--enable-logging=stderr", "--window-size=1400,900"]
    command += [f"--blink-settings=preferredColorScheme={mode}"]
    result = subprocess.run(
        [*command, (tmp_path / "wrapper.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = json.loads(html.unescape(re.findall(r'<pre id="found">(.*?)</pre>', result.stdout)[0]))
    assert "CONSOLE" not in result.stderr, result.stderr
    for seen in found.values():
        assert seen["width"] <= seen["inner"]
        assert seen["requests"] == 0
        assert min(seen["smallest"]) > 150
        assert seen["text"] >= 9
        assert seen["paper"] == paper
    assert len(found["phone"]["cut"]) > 3
    shaded = ["local, local, scroll, scroll", "rgba(0, 0, 0, 0)"]
    assert all(one == shaded for seen in found.values() for one in seen["cut"])
    assert (found["phone"]["columns"], found["desk"]["columns"]) == (1, 3)
