"""The pytest plugin, in a pytest of its own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = """
import numpy as np
from parity import assert_parity

def double(x): return np.add(x, x)
def times(x): return np.multiply(x, 2)
def wrong(x): return np.multiply(x, 2.5)

X = [np.linspace(0, 3, 7)]

def test_agrees(parity):
    parity(double, times, inputs=X)

def test_imported():
    assert_parity(double, times, inputs=X)

def test_differs(parity):
    parity(double, wrong, inputs=X)
"""

Pytest = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_pytest(tmp_path: Path) -> Pytest:
    """Runs pytest on `TESTS`, with the plugin as the installed package registers it."""
    (tmp_path / "test_port.py").write_text(TESTS)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def test_the_message_ends_the_test(run_pytest: Pytest) -> None:
    done = run_pytest()
    assert done.returncode == 1
    assert "1 failed, 2 passed" in done.stdout
    assert "double and wrong differ in the value" in done.stdout
    assert "index (6,): x = 3" in done.stdout
    assert "assertions.py" not in done.stdout  # the traceback ends in the user's own file
    assert "parity report" not in done.stdout


@pytest.mark.parametrize("spread", [(), ("-n", "2")])
def test_the_report_holds_every_check(
    run_pytest: Pytest, tmp_path: Path, spread: tuple[str, ...]
) -> None:
    if spread:
        pytest.importorskip("xdist")
    done = run_pytest("--parity-report", "found/here", *spread)
    assert "1 failed, 2 passed" in done.stdout
    assert "index.html (3 checks)" in done.stdout
    folder = tmp_path / "found" / "here"
    assert sorted(p.name for p in folder.iterdir()) == ["index.html", "junit.xml", "report.json"]
    checks = {c["name"]: c for c in json.loads((folder / "report.json").read_text())["checks"]}
    assert {n: c["passed"] for n, c in checks.items()} == {
        "test_port.py::test_agrees": True,
        "test_port.py::test_imported": True,
        "test_port.py::test_differs": False,
    }
    assert "double and wrong differ" in checks["test_port.py::test_differs"]["message"]
    assert checks["test_port.py::test_differs"]["needed_rtol"] == pytest.approx(0.2)


def test_a_file_in_the_way_is_refused(run_pytest: Pytest, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    done = run_pytest("--parity-report", "taken")
    assert done.returncode == 4
    assert "--parity-report taken: wanted a folder, it is a file" in done.stderr
    assert (tmp_path / "taken").read_text() == "mine"


def test_loading_it_imports_nothing_else() -> None:
    code = "import sys, parity.pytest_plugin; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
