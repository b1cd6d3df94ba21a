"""That the benchmarks run, and what they write; never how fast anything is."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("typer")
pytest.importorskip("matplotlib")
import segact_torch

ROOT = Path(__file__).parents[2]


def run(*options):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_quick(tmp_path):
    path, figure = tmp_path / "results.json", tmp_path / "results.png"
    done = run("--quick", "--threads", "1", "--json", str(path), "--figure", str(figure))
    assert done.returncode == 0, done.stderr
    assert figure.read_bytes().startswith(b"\x89PNG")
    results = json.loads(path.read_text())
    rows = {row["name"]: row for row in results["rows"]}
    assert {"segact, sigmoid", "segact, arctan"} <= rows.keys()
    for row in results["rows"]:
        assert row["milliseconds"] > 0
        assert math.isfinite(row["ratio"])
        assert row["goal"] is None  # the goals are for the full size
        if row["name"] == row["baseline"]:
            assert row["ratio"] == 1
    # a step of the stock loss holds its elementwise result, and the gradient is not counted
    assert rows["F.binary_cross_entropy_with_logits"]["memory"] == pytest.approx(1, abs=0.1)
    assert results["machine"]["compiled loops"] == segact_torch.backends()["cpu"]
    assert all(time > 0 for times in results["sizes"].values() for time in times.values())
    assert results["imports"]["torch"] > 0
    for head in ("cross entropy", "Dice", "nanoseconds an element", "import segact_torch adds"):
        assert head in done.stdout


def test_as_markdown():
    done = run("--quick", "--threads", "1", "--markdown", "--rounds", "3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "| cross entropy | ms | spread | ratio | goal | | memory |" in lines
    assert {line.count("|") for line in lines} == {0, 4, 8}


@pytest.mark.parametrize(
    "options", [("--device", "tpu"), ("--rounds", "1"), ("extra",), ("--figure", "a.doc")]
)
def test_wrong_usage(options):
    assert run(*options).returncode == 2
