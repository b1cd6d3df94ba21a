"""`table`: means, deviations and paired differences by hand, of made-up sweeps."""

import csv
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from examples.common.runs import RunError
from examples.common.statistics import Interval
from examples.segmentation import results, table
from examples.segmentation.results import QUANTITIES

pytestmark = pytest.mark.needs("scipy", "rich")

T_2 = 4.302652729911275
"""The 97.5 % quantile of Student's t with 2 degrees of freedom, from a printed table."""
BETTER = {"sigmoid": 0.0, "arctan": 0.02, "normal_cdf": -0.01}
"""What an activation has more of in Dice, by hand."""
NOISE = (0.003, 0.0, 0.006)
"""What arctan has more of besides, by fold."""


def by_hand(**key: Any) -> dict[str, Any]:
    dice = 0.8 + 0.05 * key["fold"] + BETTER[key["activation"]] + 0.001 * key["seed"]
    if key["activation"] == "arctan":
        dice += NOISE[key["fold"]]
    if key["framework"] != "torch":
        dice -= 0.004
    rest = dict.fromkeys(("nll", "brier", "calibration_error"), 1 - dice)
    pixels = {"classes": [{"pixels": 1000 + key["fold"]}]}
    return {"mean_dice": dice, "best_dice": dice + 0.05, "best_threshold": 0.4, **rest, **pixels}


@pytest.fixture
def sweep(make_sweep: Callable[..., Path]) -> Path:
    return make_sweep(
        frameworks=("torch", "keras-jax"), folds=3, losses=("dice",), validation=by_hand
    )


def cells(report: table.Report, block: int = 0) -> dict[str, list[str]]:
    """The printed cells of a block by activation."""
    found = {}
    for line in report.blocks[block].lines:
        found[line[1].text] = [f"*{c.text}*" if c.bold else c.text for c in line[2:]]
    return found


def test_means_and_deviations(sweep: Path) -> None:
    found = cells(table.results(results.read(sweep)))
    assert found["sigmoid"] == [
        "3",
        "0.4000 ± 0.0000",
        "0.8500 ± 0.0500",
        "0.9000 ± 0.0500",
        *["0.1500 ± 0.0500"] * 3,
    ]
    assert found["arctan"][2:] == [
        "*0.8730 ± 0.0516*",
        "*0.9230 ± 0.0516*",
        *["*0.1270 ± 0.0516*"] * 3,
    ]
    assert list(found) == ["sigmoid", "normal_cdf", "arctan"]  # as asked for


def test_what_looks_the_same_is_bold_too(make_sweep: Callable[..., Path]) -> None:
    def same(**key: Any) -> dict[str, Any]:
        found = by_hand(**key | {"activation": "sigmoid"})
        found["mean_dice"] += 1e-6 * (key["activation"] == "arctan")
        found["nll"] -= 1e-3 * (key["activation"] == "arctan")
        return found

    found = cells(table.results(results.read(make_sweep(losses=("dice",), validation=same))))
    assert [found[a][2].startswith("*") for a in BETTER] == [True] * 3
    assert [a for a in BETTER if found[a][4].startswith("*")] == ["arctan"]


def test_differences_are_paired_by_fold_and_seed(sweep: Path) -> None:
    found = results.differences(results.read(sweep))
    assert len(found) == 2 * 2 * len(QUANTITIES)
    arctan = next(d for d in found if d.activation == "arctan" and d.quantity == "mean_dice")
    assert (arctan.interval.count, arctan.wanted) == (3, 3)
    assert arctan.interval.mean == pytest.approx(0.023)
    assert arctan.interval.half == pytest.approx(T_2 * 0.003 / math.sqrt(3))
    report = table.difference_report(found)
    assert [block.title for block in report.blocks] == [
        "synthetic, torch, minus sigmoid",
        "synthetic, torch, minus sigmoid",
        "synthetic, keras-jax, minus sigmoid",
        "synthetic, keras-jax, minus sigmoid",
    ]
    assert cells(report)["arctan"] == ["3", *["*+0.0230 ± 0.0075, higher*"] * 2]
    assert cells(report, 1)["arctan"] == ["3", *["*-0.0230 ± 0.0075, lower*"] * 3]
    row = next(r for r in report.rows if r["activation"] == "arctan" and r["quantity"] == "nll")
    assert row["low"] < row["difference"] < row["high"] < 0
    assert row["verdict"] == "lower"


def test_a_missing_run_is_said_and_leaves_the_others_paired(sweep: Path) -> None:
    shutil.rmtree(sweep / "runs" / "synthetic_torch_sigmoid_dice_1_0")
    shutil.rmtree(sweep / "runs" / "synthetic_torch_arctan_dice_2_0")
    read = results.read(sweep)
    report = table.results(read)
    found = cells(report)
    assert found["sigmoid"][:3] == ["2 of 3", "0.4000 ± 0.0000", "0.8500 ± 0.0707"]
    assert found["normal_cdf"][2] == "0.8400 ± 0.0500"  # alone with three runs: nothing to beat
    assert report.note.startswith("16 of 18 runs, 16.0 min of training (ended: 16 for no progress")
    arctan = cells(table.difference_report(results.differences(read)))["arctan"]
    assert arctan == ["1 of 3", *["+0.023"] * 2]


def test_a_sweep_that_has_not_begun_a_cell(sweep: Path) -> None:
    for path in (sweep / "runs").glob("*_torch_arctan_*"):
        shutil.rmtree(path)
    found = cells(table.results(results.read(sweep)))
    assert found["arctan"] == ["0 of 3", *["-"] * 6]
    assert found["sigmoid"][2].startswith("*")
    (sweep / "sweep.json").unlink()  # then only what is there can tell
    assert "arctan" not in cells(table.results(results.read(sweep)))


def test_without_sweep_json_folds_that_others_have_are_missing(sweep: Path) -> None:
    (sweep / "sweep.json").unlink()
    shutil.rmtree(sweep / "runs" / "synthetic_torch_arctan_dice_2_0")
    found = cells(table.results(results.read(sweep)))
    assert [found[a][0] for a in ("sigmoid", "normal_cdf", "arctan")] == ["3", "3", "2 of 3"]


@pytest.mark.parametrize(
    ("mean", "half", "verdict"),
    [
        (0.001, 0.0039, "within the margin"),
        (-0.001, 0.0041, "not decided"),
        (-0.009, 0.0041, "not decided"),
        (-0.01, 0.0049, "apart"),
        (0.001, math.nan, "not decided"),
    ],
)
def test_the_margin(mean: float, half: float, verdict: str) -> None:
    assert results.within_margin(Interval(mean, half, 5)) == verdict


def test_between_frameworks(sweep: Path) -> None:
    found = results.between_frameworks(results.read(sweep))
    assert {(d.activation, d.quantity) for d in found} == {
        (a, q) for a in BETTER for q in results.OVERLAP
    }
    for one in found:
        assert one.interval.mean == pytest.approx(0.004)
    report = table.framework_report(found)
    assert report.blocks[0].title == "synthetic, torch minus keras-jax"
    line = cells(report)["sigmoid"]
    assert all(cell.endswith(", within the margin") for cell in line[1:])
    line = cells(table.framework_report(found, 0.003))["sigmoid"]
    assert all(cell.endswith(", apart*") for cell in line[1:])


def test_frameworks_of_two_sweeps_are_read_together(make_sweep: Callable[..., Path]) -> None:
    kept = {"losses": ("dice",), "folds": 3, "validation": by_hand}
    torch = make_sweep("one", **kept)
    keras = make_sweep("two", frameworks=("keras-torch",), activations=("sigmoid",), **kept)
    both = results.read(torch, keras)
    assert {one.activation for one in results.between_frameworks(both)} == {"sigmoid"}
    assert [len(block.lines) for block in table.results(both).blocks] == [3, 1]
    assert table.results(both).note.startswith("12 of 12 runs")
    with pytest.raises(RunError, match="_0_0: the same run as "):
        results.read(torch, torch)


def test_pairs_of_other_images_are_refused(sweep: Path) -> None:
    path = sweep / "runs" / "synthetic_torch_arctan_dice_2_0" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": "1"}))
    with pytest.raises(RunError, match=r"arctan_dice_2_0 and .*: not measured on the same pixels"):
        table.write(results.read(sweep))


def test_sweeps_with_other_options_are_refused(make_sweep: Callable[..., Path]) -> None:
    one, other = make_sweep("one"), make_sweep("two", frameworks=("keras-jax",))
    results.read(one, other)
    path = other / "sweep.json"
    asked = json.loads(path.read_text())
    path.write_text(json.dumps(asked | {"base": asked["base"] | {"folds": 3}}))
    with pytest.raises(RunError, match=r"two: --folds 3, and .*one: 2; wanted the same options"):
        results.read(one, other)


def test_pairs_measured_on_other_pixels_are_refused(sweep: Path) -> None:
    path = sweep / "runs" / "synthetic_torch_arctan_dice_2_0" / "result.json"
    found = json.loads(path.read_text())
    found["validation"]["classes"][0]["pixels"] += 1
    path.write_text(json.dumps(found))
    with pytest.raises(RunError, match=r"arctan_dice_2_0 and .*: not measured on the same pixels"):
        table.write(results.read(sweep))


def test_files(sweep: Path) -> None:
    reports, paths = table.write(results.read(sweep))
    names = [r.name for r in reports]
    assert names == ["results", "differences", "frameworks"]
    wanted = {f"{name}.{suffix}" for name in names for suffix in ("md", "csv", "tex")}
    assert {path.name for path in paths} == wanted | {"runs.csv"}
    assert {path.name for path in (sweep / "tables").iterdir()} == {path.name for path in paths}
    with (sweep / "tables" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    row = next(r for r in rows if (r["framework"], r["activation"]) == ("keras-jax", "sigmoid"))
    assert float(row["mean_dice"]) == pytest.approx(0.846)
    assert float(row["mean_dice_deviation"]) == pytest.approx(0.05)
    assert len((sweep / "tables" / "runs.csv").read_text().splitlines()) == 1 + 18
    text = (sweep / "tables" / "results.md").read_text()
    assert "### synthetic, torch\n\n| loss | activation | runs | threshold | mean Dice |" in text
    assert "| dice | arctan | 3 | 0.4000 ± 0.0000 | **0.8730 ± 0.0516** |" in text
    assert "Folds share training images" in (sweep / "tables" / "differences.md").read_text()


def test_latex(sweep: Path) -> None:
    table.write(results.read(sweep))
    text = (sweep / "tables" / "results.tex").read_text()
    assert r"dice & normal\_cdf & 3 & 0.4000 $\pm$ 0.0000" in text
    assert r"\textbf{0.8730 $\pm$ 0.0516}" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
    for name in ("results", "differences", "frameworks"):
        content = (sweep / "tables" / f"{name}.tex").read_text()
        body = [x for x in content.splitlines() if x and not x.startswith("%")]
        assert not re.search(r"(?<!\\)[_%#±]", "".join(body))
        columns = re.findall(r"begin{tabular}{([lr]+)}", content)
        widths = {line.count("&") + 1 for line in body if line.endswith(r"\\")}
        assert widths == {len(one) for one in columns}
    differences = (sweep / "tables" / "differences.tex").read_text()
    assert r"\textbf{$-$0.0230 $\pm$ 0.0075, lower}" in differences


def test_the_terminal_shows_all(sweep: Path) -> None:
    out = Console(width=80, record=True, quiet=False)
    for report in table.write(results.read(sweep))[0]:
        table.show(out, report)
    text = out.export_text()
    assert re.search(r"dice +arctan +3 +0.4000 ± 0.0000 +0.8730 ± 0.0516 +0.9230", text)
    assert "synthetic, torch minus keras-jax" in text


def damage(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


MEASURED = {**dict.fromkeys((*QUANTITIES, "best_threshold"), 0.5), "classes": [{"pixels": 9}]}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"format": 2}, "not the result of a run, format 1"),
        ({"fold": "first"}, "damaged .ValueError"),
        ({"validation": {"nll": 1.0}}, "damaged .KeyError: 'mean_dice'"),
        ({"validation": dict.fromkeys(QUANTITIES, 1.0)}, "damaged .KeyError: 'best_threshold'"),
        ({"validation": {**MEASURED, "classes": [{}]}}, "damaged .KeyError: 'pixels'"),
        ({"validation": {**MEASURED, "mean_dice": "nan"}}, "mean_dice is not finite"),
    ],
)
def test_damaged_results_are_one_line(sweep: Path, changed: dict, words: str) -> None:
    path = sweep / "runs" / "synthetic_torch_arctan_dice_2_0" / "result.json"
    damage(path, **changed)
    with pytest.raises(RunError, match=rf"arctan_dice_2_0/result.json: .*{words}"):
        results.read(sweep)


def test_what_is_no_sweep(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no sweep; it has no folder runs"):
        results.read(tmp_path)
    shutil.rmtree(sweep / "runs")
    (sweep / "runs").mkdir()
    with pytest.raises(RunError, match="none of its runs is done"):
        table.write(results.read(sweep))
    (sweep / "sweep.json").write_text("[]")
    with pytest.raises(RunError, match=r"sweep\.json: holds no object"):
        results.read(sweep)
    (sweep / "sweep.json").write_text('{"format": 1, "implementations": ["torch"]}')
    with pytest.raises(RunError, match=r"sweep\.json: damaged .KeyError: 'base'"):
        results.read(sweep)


def test_titles_name_no_folders_of_the_machine() -> None:
    assert results.shown_data("dsb2018:/home/me/nuclei") == "dsb2018:nuclei"
    assert results.shown_data("synthetic") == "synthetic"
